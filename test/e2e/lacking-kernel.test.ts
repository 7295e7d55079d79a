/**
 * What is said, and what still works, on a kernel that lacks something: a module, or memory for maps outside of
 * RLIMIT_MEMLOCK. `npm run test:kernels` has such kernels.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import { isAtLeast, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';

const PROGRAM = join(import.meta.dirname, '../../dist/udp-fanout.js');
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
/** As test/kernels boots them: modules that are not to be found. */
const missing = process.env.GUEST_WITHOUT;
const noneMissing = labObstacle() ?? (missing ? undefined : 'needs a kernel without cls_bpf or sch_ingress');
const cgroup = labObstacle() ?? (isAtLeast('5.11', release()) ? 'needs a kernel before 5.11' : undefined);
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built() {
  const lab = singleNode();
  cleanUps.push(() => lab.close());
  const one = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: lab.pods });
  return {
    ...lab,
    wanted: config(one),
    auto: config({ ...one, ...{ mode: 'auto', settings: { workers: 1, recv_buf_size: 8 << 20 } } }),
  };
}

/** Every datagram arrives once. */
async function delivers({ client, pods }: ReturnType<typeof built>): Promise<void> {
  const at = await receive(pods);
  cleanUps.push(() => at.close());
  const sent = await send(client, { to: '10.0.0.1:9000', count: 300, rate: 5000 });
  expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
}

/** A pod's capabilities, further ones, and a limit of memory that it may lock. */
function asPod(memlock: number, ...further: readonly string[]): string[] {
  const kept = ['bpf', 'net_admin', 'perfmon', 'net_raw', ...further].map((name) => `+${name}`).join(',');
  return ['prlimit', `--memlock=${memlock}:${memlock}`, '--', 'setpriv', '--bounding-set', `-all,${kept}`];
}

describe.skipIf(noneMissing)(titled('a kernel without a module', noneMissing), () => {
  const [what, module] = missing?.includes('cls_bpf') ? ['filter bpf', 'cls_bpf'] : ['qdisc clsact', 'sch_ingress'];

  test('tc_ebpf says in one line which', async () => {
    const { node, wanted } = built();
    const agent = startAgent(node, wanted);
    expect((await agent.ended).code).toBe(1);
    expect(agent.lines.at(-1)).toContain(`this kernel has no ${what}: modprobe ${module} on the node`);
    expect(agent.lines.at(-1)).toContain(`Linux ${release()}`);
  });

  test('auto forwards in userspace, and says why', async () => {
    const lab = built();
    const agent = startAgent(lab.node, lab.auto);
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/updated userspace downstream set listener_id=0 endpoints=3/);
    await delivers(lab);
    expect(agent.lines.filter((line) => / WARN /.test(line) && line.includes(`modprobe ${module}`))).toHaveLength(1);
    expect((await agent.get('/readyz')).body).toMatch(/datapath\(test\): fell back to userspace/);
  });

  test('doctor fails', () => {
    const { node, wanted } = built();
    const file = join(mkdtempSync(join(node.namespace.directory, 'doctor-')), 'config.yaml');
    writeFileSync(file, JSON.stringify(wanted));
    const enter = [`--net=${node.namespace.path}`, '--', process.execPath, PROGRAM, 'doctor', '--config', file];
    const { status, stdout } = spawnSync('nsenter', enter, { encoding: 'utf8' });
    expect(stdout).toMatch(new RegExp(`^fail .*this kernel has no ${what}: modprobe ${module}`, 'm'));
    expect(status).toBe(1);
  });
});

describe.skipIf(cgroup)(titled('a kernel that counts maps against RLIMIT_MEMLOCK', cgroup), () => {
  test('8 MiB are enough, for smaller maps', async () => {
    const lab = built();
    const agent = startAgent(lab.node, lab.wanted, { under: asPod(8 << 20) });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    await delivers(lab);
    expect(agent.lines.filter((line) => / WARN RLIMIT_MEMLOCK lets only smaller maps be made/.test(line))).toHaveLength(
      1,
    );
  });

  test('64 KiB are not, and the line names the limit and the mend', async () => {
    const { node, wanted } = built();
    const agent = startAgent(node, wanted, { under: asPod(64 << 10) });
    expect((await agent.ended).code).toBe(1);
    const last = agent.lines.at(-1)!;
    for (const words of ['RLIMIT_MEMLOCK is 65536 bytes', 'SYS_RESOURCE', 'k8s/components/with-sys-resource'])
      expect(last).toContain(words);
    expect(last).not.toContain('SELinux');
  });

  test('with SYS_RESOURCE the limit does not matter', async () => {
    const lab = built();
    const agent = startAgent(lab.node, lab.wanted, { under: asPod(64 << 10, 'sys_resource') });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    await delivers(lab);
    expect(agent.lines.filter((line) => / (WARN|ERROR) /.test(line))).toEqual([]);
  });
});
