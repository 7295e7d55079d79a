/** Who runs the course: ours, the C reference, and what people use instead. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAgent } from '../../lab/agent.ts';
import { present } from '../../setup/packages.mjs';
import { type Course, CPU, FIRST, PORT } from './course.ts';
import { compiled } from './programs.ts';

export interface Forwarder {
  readonly pid: number;
  stop(): Promise<unknown>;
}

/** Where a forwarder stands, and where it has to forward to. */
export type Place = Pick<Course, 'topology' | 'directory' | 'downstreams'>;

export interface Peer {
  readonly name: string;
  /** Why it cannot take part here. */
  readonly missing?: string | undefined;
  start(place: Place): Promise<Forwarder>;
}

const PINNED = [...FIRST, 'taskset', '-c', String(CPU.forwarder)];
const RECEIVE_BUFFER = 256 << 20;
const NGINX_STREAM = '/usr/lib/nginx/modules/ngx_stream_module.so';

/** The agent with one userspace listener. */
export function agent(source: 'nat' | 'preserve', settings: object = {}): Peer {
  return {
    name: `udp-fanout, source: ${source}`,
    start: async ({ topology, downstreams }) => {
      const listener = {
        name: 'bench',
        bind: `0.0.0.0:${PORT}`,
        mode: 'userspace',
        source,
        settings: { workers: 1, recv_buf_size: RECEIVE_BUFFER, ...settings },
        downstream: downstreams.map((address) => ({ address })),
      };
      // It pins its worker itself; what V8 compiles beside it may go where there is room.
      const started = startAgent(topology.node, { listeners: [listener] }, { under: FIRST });
      await started.waitFor(/updated userspace downstream set/);
      // The thread is on its way.
      await sleep(300);
      return started;
    },
  };
}

/** The agent with the same listener on the kernel path. */
export const kernelPath: Peer = {
  name: 'udp-fanout, kernel path',
  start: async ({ topology, downstreams }) => {
    const listener = {
      name: 'bench',
      bind: `0.0.0.0:${PORT}`,
      mode: 'tc_ebpf',
      interface: topology.node.nic,
      downstream: downstreams.map((address) => ({ address })),
    };
    const started = startAgent(topology.node, { listeners: [listener] }, { under: PINNED });
    await started.waitFor(/attached TC eBPF program/);
    return started;
  },
};

export const reference: Peer = {
  name: 'C, recvmmsg and sendmmsg',
  start: async ({ topology, directory, downstreams }) => {
    const program = compiled('reference', directory);
    return started(
      topology.node.namespace.spawn(FIRST[0], [...PINNED.slice(1), program, String(PORT), ...downstreams], {
        stdio: ['ignore', 'pipe', 'inherit'],
      }),
    );
  },
};

export const nginx: Peer = {
  name: 'nginx stream',
  missing:
    present('nginx') && existsSync(NGINX_STREAM) ? undefined : 'not installed (nginx-light, libnginx-mod-stream)',
  start: async ({ topology, directory, downstreams }) => {
    const file = join(directory, 'nginx.conf');
    const servers = downstreams.map((address) => `server ${address};`).join(' ');
    writeFileSync(
      file,
      `load_module ${NGINX_STREAM};
daemon off; master_process off; pid ${directory}/nginx.pid; error_log ${directory}/nginx.log crit;
events { worker_connections 65536; }
worker_rlimit_nofile 65536;
stream {
  upstream pods { ${servers} }
  server { listen ${PORT} udp; proxy_pass pods; proxy_requests 1; proxy_responses 0; }
}
`,
    );
    const args = [...PINNED.slice(1), 'nginx', '-c', file, '-e', `${directory}/nginx.log`];
    const child = topology.node.namespace.spawn(FIRST[0], args, { stdio: 'ignore' });
    await sleep(500);
    return started(child);
  },
};

/** It has no way to spread, so it sends all to one pod. */
export const socat: Peer = {
  name: 'socat, one downstream',
  missing: present('socat') ? undefined : 'not installed (socat)',
  start: async ({ topology, downstreams }) => {
    const ends = [`UDP4-RECV:${PORT}`, `UDP4-SENDTO:${downstreams[0]}`];
    const child = topology.node.namespace.spawn(FIRST[0], [...PINNED.slice(1), 'socat', '-u', ...ends], {
      stdio: 'ignore',
    });
    await sleep(300);
    return started(child);
  },
};

async function started(child: ChildProcess): Promise<Forwarder> {
  if (child.stdout) await once(child.stdout, 'data');
  if (child.exitCode !== null) throw new Error(`${child.spawnargs.join(' ')}: ended with ${child.exitCode}`);
  return {
    pid: child.pid!,
    stop: async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}
