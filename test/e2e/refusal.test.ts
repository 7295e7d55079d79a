/** A kernel that refuses the program, for real: what the agent, /readyz and doctor say of it. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import type { Host } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { buildBpf } from '../../setup/build.mjs';
import { config, listener } from './configs.ts';

const obstacle = labObstacle();
const PROGRAM = join(import.meta.dirname, '../../dist/udp-fanout.js');
const base = { bind: '0.0.0.0:9000', interface: 'eth0' };
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** What the verifier says of a read that nothing bounds, and the rest of the line. */
const ESCAPED = release().replaceAll('.', '\\.');
const REFUSED = `failed to load BPF object ".*/refused\\.bpf\\.o": Linux ${ESCAPED} refuses it, EACCES, the verifier's last words: .*invalid access to packet.* \\(.*clang version \\d+.*\\)`;

describe.skipIf(obstacle)(titled('a program that the kernel refuses', obstacle), () => {
  let folder: string;
  let object: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'refused-'));
    cpSync('bpf', folder, { recursive: true });
    const source = join(folder, 'udp_fanout.bpf.c');
    const text = readFileSync(source, 'utf8');
    const entry = /^int udp_fanout\(struct __sk_buff \*skb\)\n\{\n/m;
    expect(text).toMatch(entry);
    writeFileSync(
      source,
      text.replace(entry, (start) => `${start}\tif (*(volatile __u8 *)(long)skb->data == 1)\n\t\treturn TC_ACT_OK;\n`),
    );
    object = join(folder, 'refused.bpf.o');
    buildBpf(object, folder);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function built() {
    const topology = singleNode({ pods: 2 });
    cleanUps.push(() => topology.close());
    return topology;
  }

  /** Runs doctor on a node with the refused object. */
  function doctor({ namespace }: Pick<Host, 'namespace'>, what: object) {
    const file = join(mkdtempSync(join(namespace.directory, 'doctor-')), 'config.yaml');
    writeFileSync(file, JSON.stringify(what));
    const args = [PROGRAM, 'doctor', '--config', file, '--ebpf-program', object];
    const { stdout, status } = spawnSync('nsenter', [`--net=${namespace.path}`, '--', process.execPath, ...args], {
      encoding: 'utf8',
    });
    return { stdout, status };
  }

  test('mode tc_ebpf: one line with kernel, compiler, object and the verifier’s words, and exit code 1', async () => {
    const { node, pods } = built();
    const agent = startAgent(node, config(listener({ ...base, downstream: pods })), {
      args: ['--ebpf-program', object],
    });
    expect((await agent.ended).code).toBe(1);
    expect(agent.lines.filter((line) => / (WARN|ERROR) /.test(line))).toEqual([
      expect.stringMatching(new RegExp(` ERROR ${REFUSED}$`)),
    ]);
  });

  test('mode auto: the same as a warning, once, and as a remark on /readyz', async () => {
    const { client, node, pods } = built();
    const auto = { ...listener({ ...base, downstream: pods }), mode: 'auto' };
    const other = { ...listener({ ...base, name: 'other', bind: '0.0.0.0:9001', downstream: pods }), mode: 'auto' };
    const agent = startAgent(node, config(auto, other), { args: ['--ebpf-program', object] });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/falls back to userspace: for the same reason/);
    await agent.waitFor(/updated userspace downstream set listener_id=1/);
    const warnings = agent.lines.filter((line) => / (WARN|ERROR) /.test(line));
    expect(warnings).toEqual([
      expect.stringMatching(new RegExp(` WARN listener "test" falls back to userspace: ${REFUSED}$`)),
      expect.stringMatching(/ WARN listener "other" falls back to userspace: for the same reason$/),
    ]);
    const { status, body } = await agent.get('/readyz');
    expect(status).toBe(200);
    const [first, ...remarks] = body.trimEnd().split('\n');
    expect(first).toBe('ok');
    expect(remarks).toEqual(
      ['test', 'other'].map((name) =>
        expect.stringMatching(new RegExp(`^datapath\\(${name}\\): fell back to userspace: ${REFUSED}$`)),
      ),
    );
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 100 });
    expect((await at.report({ expect: 100 })).count).toBe(sent.count);
  });

  test('doctor: the same line, fail or warn by what the config asks', () => {
    const { node, pods } = built();
    const must = doctor(node, config(listener({ ...base, downstream: pods })));
    expect(must.status).toBe(1);
    expect(must.stdout).toMatch(new RegExp(`^fail  BPF object: ${REFUSED}; or set mode: userspace`, 'm'));
    const may = doctor(node, config({ ...listener({ ...base, downstream: pods }), mode: 'auto' }));
    expect(may.status).toBe(0);
    expect(may.stdout).toMatch(new RegExp(`^warn  BPF object: ${REFUSED}; until then`, 'm'));
    // What was not loaded was not attached either.
    expect(may.stdout).not.toMatch(/^\w+ +attachment: /m);
  });
});
