/** Doctor on real machines: what it says of each trouble, and that it says nothing where there is none. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { Finding } from '../../agent/doctor/finding.ts';
import { startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import { calicoBgp } from '../../lab/calico-bgp.ts';
import type { Host } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { metallbVip } from '../../lab/metallb-vip.ts';
import { singleNode } from '../../lab/single-node.ts';
import { config, listener } from './configs.ts';
import { asInPod, login, sampleConfig } from './pod.ts';

const obstacle = labObstacle();
const PROGRAM = join(import.meta.dirname, '../../dist/udp-fanout.js');
const OBJECT = join(import.meta.dirname, '../../dist/udp_fanout.bpf.o');
const ALL = ['bpf', 'net_admin', 'perfmon', 'net_raw'];
const base = { bind: '0.0.0.0:9000', interface: 'eth0' };
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Report {
  readonly code: number | null;
  readonly ok: boolean;
  readonly findings: readonly Finding[];
  /** `level what: means; mend` of those that are not ok. */
  readonly complaints: readonly string[];
}

interface Options {
  readonly under?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

function built(options: Parameters<typeof singleNode>[0] = {}) {
  const topology = singleNode({ pods: 2, ...options });
  cleanUps.push(() => topology.close());
  return topology;
}

/** Runs doctor on a node with a config, or the path of one. */
function doctor(
  { namespace }: Pick<Host, 'namespace'>,
  what: object | string,
  { under = [], env = {} }: Options = {},
): Report {
  const file = typeof what === 'string' ? what : join(mkdtempSync(join(namespace.directory, 'doctor-')), 'config.yaml');
  if (typeof what === 'object') writeFileSync(file, JSON.stringify(what));
  const args = [...under, process.execPath, PROGRAM, 'doctor', '--config', file, '--json'];
  const { KUBECONFIG: _, ...inherited } = process.env;
  const enter = [`--net=${namespace.path}`, '--', ...args];
  const { stdout, stderr, status } = spawnSync('nsenter', enter, { encoding: 'utf8', env: { ...inherited, ...env } });
  if (stderr !== '') throw new Error(stderr);
  const { ok, findings } = JSON.parse(stdout) as Pick<Report, 'ok' | 'findings'>;
  const bad = findings.filter(({ level }) => level !== 'ok');
  const complaints = bad.map((one) => `${one.level} ${one.what}: ${one.means}; ${one.mend}`);
  return { code: status, ok, findings, complaints };
}

const toPods = (pods: Parameters<typeof listener>[0]['downstream'], change: object = {}) =>
  config(listener({ ...base, downstream: pods, ...change }));
const bounded = (capabilities: readonly string[]) => [
  'setpriv',
  '--bounding-set',
  ['-all', ...capabilities.map((one) => `+${one}`)].join(','),
];

describe.skipIf(obstacle)(titled('doctor', obstacle), () => {
  test('has no complaint where all is in order, and leaves nothing behind', () => {
    const { node, pods } = built();
    const { code, ok, findings, complaints } = doctor(node, toPods(pods));
    expect(complaints).toEqual([]);
    expect({ code, ok }).toEqual({ code: 0, ok: true });
    expect(findings.map(({ what }) => what)).toEqual(expect.arrayContaining(['kernel', 'BPF object', 'hook eth0']));
    expect(findings.find(({ what }) => what === 'attachment')?.means).toMatch(/^the program attaches \(tried on lo of/);
    expect(node.namespace.run('tc', ['qdisc', 'show', 'dev', 'eth0'])).not.toContain('clsact');
  });

  test('prints a line for each finding, and works without a config', () => {
    const { node } = built();
    const text = node.namespace.run(process.execPath, [PROGRAM, 'doctor']);
    const lines = text.trim().split('\n');
    expect(lines.length).toBeGreaterThan(5);
    for (const line of lines) expect(line).toMatch(/^(ok|warn|fail) +[^:]+: .+/);
    expect(text).toMatch(/^ok {4}BPF object: /m);
    expect(text).toMatch(/^ok {4}hook eth0: udp_fanout is not attached now, nobody else is on the ingress$/m);
  });

  test('a missing interface', () => {
    const { node, pods } = built();
    const { code, complaints } = doctor(node, toPods(pods, { interface: 'eth9' }));
    expect(code).toBe(1);
    expect(complaints).toEqual([
      expect.stringMatching(/^fail interface eth9: interface not found: eth9 \(there are: lo, eth0, veth10, veth11\)/),
    ]);
  });

  test('ip_forward 0 and a strict rp_filter', () => {
    const { node, pods } = built({ ipForward: 0 });
    node.namespace.sysctl({ 'net/ipv4/conf/eth0/rp_filter': 1 });
    const { code, complaints } = doctor(node, toPods(pods));
    expect(code).toBe(0);
    expect(complaints).toEqual([
      expect.stringMatching(/^warn forwarding IPv4 eth0: is off.*sysctl -w net\.ipv4\.ip_forward=1/),
      expect.stringMatching(/^warn rp_filter eth0: is 1 \(strict, by conf\/eth0\)/),
    ]);
  });

  test('receivers that may be on the host network with the listener’s own port: doctor, check and the log', async () => {
    const { node, pods } = built();
    const same = toPods([...pods, '10.0.0.1:9000', '10.0.0.2:9000']);
    expect(doctor(node, same).complaints).toEqual([
      expect.stringMatching(/^warn host network test: 10.0.0.1:9000, 10.0.0.2:9000 may be on the host network/),
    ]);
    const agent = startAgent(node, same);
    cleanUps.push(() => agent.stop());
    await agent.waitFor(
      /WARN listener "test" has no safety net: .* what other nodes send to it: give receivers on the host/,
    );
    expect(node.namespace.run(process.execPath, [PROGRAM, 'check', agent.configFile])).toMatch(
      /: note: listener "test" and downstreams of it have port 9000: fine for pods, but/,
    );
  });

  const noMerging = lacking('gro_forwarding');
  test.skipIf(noMerging)(titled('NIC features that merge datagrams, where the NIC has them', noMerging), () => {
    const { node, pods } = built();
    node.namespace.run('ethtool', ['-K', 'eth0', 'rx-udp-gro-forwarding', 'on']);
    expect(doctor(node, toPods(pods)).complaints).toEqual([
      expect.stringMatching(
        /^warn NIC features eth0: rx-udp-gro-forwarding on: .*ethtool -K eth0 rx-udp-gro-forwarding off$/,
      ),
    ]);
  });

  test('a foreign filter before ours, and one behind, with the agent beside them', async () => {
    const { node, pods } = built();
    const accept = ['bpf', 'bytecode', '1,6 0 0 4294967295,', 'classid', '1:1'];
    const add = (pref: string) =>
      node.namespace.run('tc', ['filter', 'add', 'dev', 'eth0', 'ingress', 'pref', pref, ...accept]);
    node.namespace.run('tc', ['qdisc', 'add', 'dev', 'eth0', 'clsact']);
    add('1');
    const agent = startAgent(node, toPods(pods));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/attached TC eBPF program/);
    add('50000');
    const { code, complaints, findings } = doctor(node, toPods(pods));
    expect(code).toBe(0);
    expect(complaints).toEqual([
      expect.stringMatching(/^warn hook eth0: bpf filter at pref 1 .*runs before udp_fanout/),
    ]);
    const said = findings.map(({ what, means }) => `${what}: ${means}`).join('\n');
    expect(said).toMatch(/hook eth0: udp_fanout is attached, pref 49152/);
    expect(said).toMatch(/bpf filter at pref 50000 .*runs after udp_fanout/);
    // What the agent itself holds is no trouble.
    expect(said).toMatch(/agent: one runs in this network namespace/);
    expect(said).toMatch(/metrics port: TCP 127\.0\.0\.1:9090 is the running agent's/);
    expect(said).toMatch(/port test: no other socket/);
  });

  const noTcx = lacking('tcx');
  test.skipIf(noTcx)(titled('a program on tcx, by its name', noTcx), async () => {
    const { node, pods } = built();
    const attach = join(import.meta.dirname, 'tcx.child.ts');
    const child = node.namespace.spawn(process.execPath, [attach, OBJECT, 'eth0'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    cleanUps.push(() => child.stdin!.end());
    const [said] = (await once(child.stdout!, 'data')) as [Buffer];
    expect(said.toString()).toBe('attached\n');
    const { complaints } = doctor(node, toPods(pods));
    expect(complaints).toEqual([
      expect.stringMatching(/^warn hook eth0: tcx program \d+ \(udp_fanout\) runs before every tc filter/),
    ]);
  });

  const noOverlay = lacking('vxlan');
  const overlaid = titled('a port that is an overlay’s, and an MTU that is smaller on the way out', noOverlay);
  test.skipIf(noOverlay)(overlaid, () => {
    const cluster = metallbVip();
    cleanUps.push(() => cluster.close());
    const { vm2, vip, pods } = cluster;
    const nic = { bind: vip.address, interface: vm2.nic, downstream: pods };
    const hijack = listener({ name: 'hijack', bind: '0.0.0.0:8472', interface: vm2.nic, downstream: pods });
    const { code, complaints, findings } = doctor(vm2, config(listener(nic), hijack));
    expect(code).toBe(1);
    expect(complaints).toContainEqual(
      expect.stringMatching(/^fail bind hijack: UDP port 8472 belongs to vxlan interface "flannel\.1"/),
    );
    expect(complaints).toContainEqual(
      expect.stringMatching(/^warn MTU test: 1500 bytes arrive, 1450 leave by flannel\.1/),
    );
    expect(findings.find(({ what }) => what === 'bind test')?.means).toMatch(/on no interface here.*a VIP/);
  });

  const noRules = lacking('nftables');
  const squatted = titled('a metrics port and a listener’s port that others have, and a rule for it', noRules);
  test.skipIf(noRules)(squatted, async () => {
    const { node, pods } = built();
    const script = `require('net').createServer().listen(9090, () => {
      require('dgram').createSocket('udp4').bind(9000, () => console.log('taken'));
    })`;
    const squatter = node.namespace.spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(squatter.stdout!, 'data');
    node.namespace.run('nft', ['add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }']);
    node.namespace.run('nft', ['add rule ip nat pre udp dport 9000 dnat to 10.0.1.10:9000']);
    const { code, complaints } = doctor(node, toPods(pods));
    expect(code).toBe(1);
    expect(complaints).toEqual([
      expect.stringMatching(/^warn port test: \S+ \(process \d+\) has UDP 0\.0\.0\.0:9000/),
      expect.stringMatching(
        /^warn rule test: "udp dport 9000 dnat to 10\.0\.1\.10:9000" also wants any address port 9000/,
      ),
      expect.stringMatching(/^fail metrics port: TCP 127\.0\.0\.1:9090 is taken by \S+ \(process \d+\)/),
    ]);
  });

  test.each(['bpf', 'net_admin', 'perfmon'])('no capability %s', (missing) => {
    const { node, pods } = built();
    const under = bounded(ALL.filter((one) => one !== missing));
    const { code, complaints } = doctor(node, toPods(pods), { under });
    expect(code).toBe(1);
    const name = missing.toUpperCase();
    expect(complaints).toContainEqual(
      expect.stringMatching(new RegExp(`^fail capability ${name}: .*add ${name} under securityContext`)),
    );
  });

  test('the manifest’s capabilities without SYS_ADMIN: no complaint, but the attachment is not tried', () => {
    const { node, pods } = built();
    const { complaints, findings } = doctor(node, toPods(pods), { under: bounded(ALL) });
    expect(complaints).toEqual([]);
    expect(findings.find(({ what }) => what === 'attachment')?.means).toMatch(/^was not tried: .*SYS_ADMIN/);
  });

  test('a config that was edited and is refused, on /readyz and in the log, too', async () => {
    const { node, pods } = built();
    const agent = startAgent(node, toPods(pods));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/attached TC eBPF program/);
    const ask = () => doctor(node, agent.configFile);
    const before = ask();
    expect(before).toMatchObject({ code: 0, complaints: [] });
    expect(before.findings).toContainEqual({
      level: 'ok',
      what: 'config',
      means: `the running agent follows "${agent.configFile}"`,
    });
    expect((await agent.get('/readyz')).body).toBe('ok\n');

    writeFileSync(agent.configFile, JSON.stringify(toPods(pods, { bind: '0.0.0.0:90020' })));
    await agent.waitFor(/ ERROR the edited config is refused, the one before stays mistake=".*90020/);
    const refused = `"${agent.configFile}" was edited and is refused, the agent goes on by the config it had: `;
    expect(await agent.get('/readyz')).toMatchObject({
      status: 200,
      body: expect.stringMatching(new RegExp(`^ok\nconfig: ${refused}.*\n$`)),
    });
    expect(doctor(node, toPods(pods))).toMatchObject({
      code: 1,
      complaints: [expect.stringContaining(`fail config: the running agent's ${refused}`)],
    });

    // Held against a draft elsewhere the agent is not at fault.
    writeFileSync(agent.configFile, JSON.stringify(toPods(pods)));
    await agent.waitFor(/ INFO config is as it was /);
    expect(doctor(node, toPods(pods, { bind: '0.0.0.0:9003' }))).toMatchObject({
      code: 0,
      complaints: [expect.stringMatching(/^warn config: the running agent follows ".*", which says something else/)],
    });
    expect(ask()).toMatchObject({ code: 0, complaints: [] });
  });

  test('a program that serves on without its agent', async () => {
    const { node, pods } = built();
    const agent = startAgent(node, toPods(pods));
    await agent.waitFor(/attached TC eBPF program/);
    await agent.stop();
    const left = /^warn agent: none runs in .*the program on .*eth0.* serves on without one.*`udp-fanout detach`$/;
    for (const under of [[], bounded([])])
      expect(doctor(node, agent.configFile, { under }).complaints).toContainEqual(expect.stringMatching(left));
    node.namespace.run(process.execPath, [PROGRAM, 'detach']);
    expect(doctor(node, agent.configFile).complaints).toEqual([]);
  });

  test('NET_RAW where ICMP asks for it', () => {
    const { node, pods } = built();
    const under = bounded(ALL.filter((one) => one !== 'net_raw'));
    const { code, complaints } = doctor(node, { ...toPods(pods), health: { protocol: 'icmp' } }, { under });
    expect(code).toBe(0);
    expect(complaints).toEqual([expect.stringMatching(/^warn capability NET_RAW: is missing: for ICMP health checks/)]);
  });

  test('a Service: rights, slices, endpoints, and the way to them', async () => {
    const { node, pods } = built();
    const api = await RemoteApi.start(node);
    cleanUps.push(() => api.close());
    const env = { KUBECONFIG: api.kubeconfig };
    const kubernetes = { namespace: 'logging', service: 'receivers', port: 9000 };
    const asks = { listeners: [{ name: 'test', ...base, mode: 'tc_ebpf', kubernetes }] };
    expect(doctor(node, asks, { env }).complaints).toEqual([
      expect.stringMatching(/^fail Service logging\/receivers: EndpointSlice not found/),
    ]);
    await api.apply('logging', aSlice('receivers-1', [pods[0]!.ip, pods[1]!.ip]));
    const { complaints, findings } = doctor(node, asks, { env });
    expect(complaints).toEqual([]);
    const said = findings.map(({ what, means }) => `${what}: ${means}`);
    expect(said).toContain('Service logging/receivers: 2 endpoints may receive, in 1 EndpointSlices');
    expect(said).toContain('routes test: each of 2 downstreams has a route (by veth10, veth11)');
    await api.deny('watch', 'logging');
    expect(doctor(node, asks, { env }).complaints).toEqual([
      expect.stringMatching(
        /^fail RBAC logging: may not watch endpointslices.*kubectl apply -f - <<< '&rights \{apiVersion/,
      ),
    ]);
    await api.deny('list', 'logging');
    expect(doctor(node, asks, { env })).toMatchObject({
      code: 1,
      complaints: [expect.stringMatching(/^fail RBAC logging: may not list endpointslices/)],
    });
    expect(doctor(node, asks).complaints).toEqual([
      expect.stringMatching(/^fail API server: credentials: .*KUBECONFIG/),
    ]);
  });

  test('in the pod of the manifest, on its config: nothing to complain of', async () => {
    const { node, pods } = built();
    const tls = issueCertificate();
    const api = await RemoteApi.start(node, { tls });
    cleanUps.push(() => api.close());
    const ports = [{ name: '', protocol: 'UDP', port: 5514 }];
    const addresses = pods.map(({ ip }) => ip);
    await api.apply('logging', aSlice('vector-1', addresses, { service: 'vector-aggregators', ports }));
    const { env, run } = login(node, api, tls.ca);
    const { code, complaints, findings } = doctor(node, parse(sampleConfig), { env, under: asInPod({ run }) });
    expect(complaints).toEqual([]);
    expect(code).toBe(0);
    expect(findings.map(({ what }) => what)).toContain('Service logging/vector-aggregators');
  });

  test('IPv6 and a VIP: the way to each pod, and no complaint', () => {
    const topology = calicoBgp();
    cleanUps.push(() => topology.close());
    const { a, vips, pods } = topology;
    const vip = listener({ bind: `[${vips[0]}]:5514`, interface: a.nic, downstream: pods });
    const { complaints, findings } = doctor(a, config(vip));
    expect(complaints).toEqual([]);
    const said = findings.map(({ what, means }) => `${what}: ${means}`);
    expect(said).toContain('routes test: each of 2 downstreams has a route (by caliA, enp2s0)');
    expect(said).toContain('forwarding IPv6 enp2s0: is on');
  });

  test('bad usage and a bad config end with exit code 2', () => {
    const run = (...args: string[]) => spawnSync(process.execPath, [PROGRAM, 'doctor', ...args], { encoding: 'utf8' });
    expect(run('--what')).toMatchObject({ status: 2, stderr: expect.stringContaining("Unknown option '--what'") });
    expect(run('--config', '/nowhere.yaml')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/nowhere\.yaml:1:1: no such file/),
    });
  });
});
