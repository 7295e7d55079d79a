/** Doctor's findings as tables: facts in, level and words out. */
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import type { SocketAddress } from '../../agent/address.ts';
import { agentFindings } from '../../agent/doctor/agent.ts';
import { bindFindings } from '../../agent/doctor/binds.ts';
import { capabilityFindings } from '../../agent/doctor/capabilities.ts';
import { clusterFindings, type ServiceFacts } from '../../agent/doctor/cluster.ts';
import { type ConflictFacts, conflictFindings } from '../../agent/doctor/conflicts.ts';
import { type Attaches, orWhyUntried } from '../../agent/doctor/facts/kernel.ts';
import { decodeIptables, decodeIpvs, decodeNft } from '../../agent/doctor/facts/rules.ts';
import { decodeSockets } from '../../agent/doctor/facts/sockets.ts';
import { type Finding, isHealthy, type Level, textOf } from '../../agent/doctor/finding.ts';
import { type Hook, hookFindings } from '../../agent/doctor/hook.ts';
import { interfaceFindings } from '../../agent/doctor/interfaces.ts';
import { type MachineFacts, machineFindings } from '../../agent/doctor/machine.ts';
import { memoryFindings } from '../../agent/doctor/memory.ts';
import { NO_CONFIG, type Requirements } from '../../agent/doctor/requirements.ts';
import { type ReceiverRoute, routeFindings } from '../../agent/doctor/routes.ts';
import { sysctlFindings } from '../../agent/doctor/sysctls.ts';
import { SystemError } from '../../agent/ffi/errno.ts';
import type { Identity } from '../../agent/lock.ts';
import type { Mode } from '../../agent/model.ts';
import type { Filter } from '../../agent/netlink/filter.ts';
import { aLink, aListener } from '../fake/words.ts';

const udp = (ip: string, port = 9000): SocketAddress => ({ family: ip.includes(':') ? 6 : 4, ip, port });
const wants = (change: Partial<Requirements> = {}): Requirements => ({
  ...NO_CONFIG,
  listeners: [aListener()],
  ...change,
});
const asked = (mode: Mode, bind = udp('0.0.0.0')) => wants({ listeners: [aListener({ mode, bind })] });

/** The findings that are not ok, as doctor prints them. */
const complaints = (findings: readonly Finding[]) => findings.filter(({ level }) => level !== 'ok').map(textOf);

/** Name, findings, what the worst of them says: its level, then words that its line has to contain. */
type Row = readonly [name: string, findings: () => readonly Finding[], level: Level, ...words: string[]];

function check(rows: readonly Row[]): void {
  for (const [name, findings, level, ...words] of rows) {
    test(name, () => {
      const found = findings();
      const worst = (['fail', 'warn', 'ok'] as const).find((one) => found.some((finding) => finding.level === one));
      expect(worst, found.map(textOf).join('\n')).toBe(level);
      const lines = found.filter((finding) => finding.level === level).map(textOf);
      const fits = lines.some((line) => words.every((word) => line.includes(word)));
      expect(fits, `${JSON.stringify(words)} in one of\n${lines.join('\n')}`).toBe(true);
    });
  }
}

describe('memory', () => {
  const many = wants({
    listeners: [1, 64, 2].map((workers, index) => {
      const one = aListener({ name: `l${index}`, mode: 'userspace' });
      return { ...one, settings: { ...one.settings, workers } };
    }),
  });
  check([
    [
      'of one listener is enough',
      () => memoryFindings(256 << 20, asked('tc_ebpf')),
      'ok',
      "container's limit is 256 MiB",
    ],
    [
      'without a limit is the manifest’s',
      () => memoryFindings(Infinity, many),
      'warn',
      'daemonset.yaml allows 256 MiB',
    ],
    ['of many workers is too little', () => memoryFindings(512 << 20, many), 'warn', 'with 64 worker threads', 'raise'],
    ['that fits many workers', () => memoryFindings(2 ** 31, many), 'ok', 'with 64 worker threads'],
  ]);

  test('is nothing to find without a config', () => {
    expect(memoryFindings(0, NO_CONFIG)).toEqual([]);
  });
});

describe('a finding', () => {
  test('is one line: level, what, what it means, what to do', () => {
    const finding: Finding = { level: 'ok', what: 'kernel', means: '6.12.0\nis fine' };
    expect(textOf(finding)).toBe('ok    kernel: 6.12.0 is fine');
    expect(textOf({ ...finding, level: 'fail', mend: 'do this' })).toBe('fail  kernel: 6.12.0 is fine; do this');
  });

  test('of level warn is no failure', () => {
    const one = (level: Level): Finding => ({ level, what: '', means: '' });
    expect(isHealthy([one('ok'), one('warn')])).toBe(true);
    expect(isHealthy([one('warn'), one('fail')])).toBe(false);
  });
});

describe('the machine', () => {
  const facts: MachineFacts = { release: '6.12.43', bpffs: false, attaches: true };
  const at = (release: string, kernelPath: Requirements['kernelPath'] = 'must') =>
    machineFindings({ ...facts, release }, wants({ kernelPath }));
  const without = (kernelPath: Requirements['kernelPath']) =>
    machineFindings({ ...facts, obstacle: 'failed to load BPF object' }, wants({ kernelPath }));
  const NO_CLSACT = 'failed to attach TC program: clsact on lo: ENOENT';
  const attaching = (attaches: Attaches, kernelPath: Requirements['kernelPath'] = 'must') =>
    machineFindings({ ...facts, attaches }, wants({ kernelPath }));
  const refusing = (name: 'EPERM' | 'ENOSPC' | 'EINVAL') =>
    attaching(
      orWhyUntried(() => {
        throw new SystemError('unshare of the network', constants.errno[name]);
      }),
    );
  check([
    ['6.12', () => at('6.12.43+deb13-amd64'), 'ok', 'kernel:', 'at least 5.10', 'tcx'],
    ['5.14 of RHEL 9', () => at('5.14.0-284.67.1.el9_2.x86_64'), 'ok', 'at least 5.10'],
    ['5.10 counts maps against MEMLOCK', () => at('5.10.0-35-amd64'), 'ok', 'RLIMIT_MEMLOCK', 'MTU'],
    ['5.4 is below 5.10', () => at('5.4.0'), 'fail', 'older than 5.10', 'mode: userspace'],
    ['4.19 with mode auto', () => at('4.19.0', 'may'), 'warn', 'older than 5.10'],
    ['4.19 where nobody wants it', () => at('4.19.0', 'no'), 'ok', 'no listener asks for it'],
    ['a version that says nothing', () => at('custom'), 'warn', 'is not understood'],
    ['a program that does not load', () => without('must'), 'fail', 'BPF object: failed to load BPF object'],
    ['the same with mode auto', () => without('may'), 'warn', 'fall back to userspace'],
    ['the same in userspace', () => without('no'), 'ok', 'does not load here'],
    ['bpffs is not needed', () => machineFindings(facts, wants()), 'ok', 'bpffs: is not mounted; it is not needed'],
    [
      'smaller maps',
      () => machineFindings({ ...facts, remark: 'RLIMIT_MEMLOCK lets only smaller maps be made' }, wants()),
      'warn',
      'BPF object: RLIMIT_MEMLOCK lets only smaller maps',
    ],
    ['a program that attaches', () => attaching(true), 'ok', 'attachment: the program attaches'],
    ['one that does not', () => attaching(NO_CLSACT), 'fail', `attachment: ${NO_CLSACT}; or set mode: userspace`],
    ['one that does not, mode auto', () => attaching(NO_CLSACT, 'may'), 'warn', NO_CLSACT, 'fall back to userspace'],
    ['one that does not, in userspace', () => attaching(NO_CLSACT, 'no'), 'ok', 'attachment: is impossible here'],
    ['one that could not be tried', () => refusing('EPERM'), 'ok', 'attachment: was not tried', 'SYS_ADMIN'],
    ['user.max_net_namespaces=0', () => refusing('ENOSPC'), 'ok', 'was not tried', 'unshare of the network: ENOSPC'],
    ['no CONFIG_NET_NS', () => refusing('EINVAL'), 'ok', 'was not tried', 'unshare of the network: EINVAL'],
  ]);
});

describe('the running agent', () => {
  const CONFIG = '/etc/udp-fanout/config.yaml';
  const agent: Identity = { pid: 7, version: '1.2.3', config: CONFIG, digest: 'aa' };
  const found = (change: Partial<Identity> = {}, given?: { path: string; digest: string }) =>
    agentFindings({ agent: { ...agent, ...change }, attached: ['eth0'], ...(given && { config: given }) });
  const broken = `"${CONFIG}" was edited and is refused, the agent goes on by the config it had: ${CONFIG}:3:11: not a port`;
  check([
    ['none', () => agentFindings({ agent: undefined, attached: [] }), 'ok', 'agent: none runs', 'one can start'],
    [
      'none, and a program that goes on',
      () => agentFindings({ agent: undefined, attached: ['lo', 'eth0'] }),
      'warn',
      'the program on lo, eth0 serves on',
      'lease',
      'start the agent, or',
      '`udp-fanout detach`',
    ],
    ['one', () => found(), 'ok', 'process 7, version 1.2.3', 'a second one would be turned away'],
    [
      'one that says nothing',
      () => agentFindings({ agent: 'silent', attached: ['eth0'] }),
      'warn',
      'does not say by which config',
    ],
    ['by this config', () => found({}, { path: CONFIG, digest: 'aa' }), 'ok', `config: the running agent follows`],
    [
      'by what this file was',
      () => found({}, { path: CONFIG, digest: 'bb' }),
      'fail',
      'is not what',
      'rollout restart',
    ],
    ['by another file', () => found({}, { path: '/tmp/new.yaml', digest: 'bb' }), 'warn', 'than "/tmp/new.yaml"'],
    ['by a copy', () => found({}, { path: '/tmp/copy.yaml', digest: 'aa' }), 'ok', `follows "${CONFIG}"`],
    [
      'by what it was before a mistake',
      () => found({ deviation: broken }),
      'fail',
      '3:11: not a port; mend or undo the edit',
    ],
  ]);
});

describe('capabilities', () => {
  const ALL = ['BPF', 'NET_ADMIN', 'PERFMON', 'NET_RAW'];
  const all = (...missing: string[]) => new Set(ALL.filter((name) => !missing.includes(name)));
  const found = (effective: ReadonlySet<string>, w: Requirements = wants()) =>
    capabilityFindings({ effective, firstFreePort: 1024 }, w);
  const low = (mode: Mode) => asked(mode, udp('0.0.0.0', 514));
  const add = 'securityContext.capabilities.add (k8s/daemonset.yaml)';
  check([
    ['the four are enough', () => found(all()), 'ok', 'capability SYS_ADMIN: is missing, and nothing here asks for it'],
    ['BPF', () => found(all('BPF')), 'fail', 'capability BPF: is missing', `add BPF under ${add}`],
    ['PERFMON', () => found(all('PERFMON')), 'fail', 'capability PERFMON: is missing', add],
    ['NET_ADMIN', () => found(all('NET_ADMIN')), 'fail', 'capability NET_ADMIN: is missing', add],
    ['SYS_ADMIN stands in for two', () => found(new Set(['SYS_ADMIN', 'NET_ADMIN'])), 'ok', 'BPF: is there'],
    ['auto only warns', () => found(all('BPF'), wants({ kernelPath: 'may' })), 'warn', 'BPF'],
    ['userspace needs no BPF', () => found(all('BPF', 'PERFMON'), wants({ kernelPath: 'no' })), 'ok', 'BPF'],
    ['userspace without NET_ADMIN', () => found(all('NET_ADMIN'), wants({ kernelPath: 'no' })), 'warn', 'source'],
    ['NET_RAW for nobody', () => found(all('NET_RAW')), 'ok', 'NET_RAW: is missing, and nothing here asks'],
    ['NET_RAW for ICMP', () => found(all('NET_RAW'), wants({ icmp: true })), 'warn', 'ICMP health checks'],
    ['a low port, safety net', () => found(all(), low('tc_ebpf')), 'warn', 'NET_BIND_SERVICE', 'port 514'],
    ['a low port, userspace', () => found(all(), low('userspace')), 'fail', 'NET_BIND_SERVICE', 'port 514'],
  ]);
});

describe('interfaces', () => {
  const links = [aLink(), aLink({ index: 7, name: 'tun0', type: 65534, kind: 'tun' })];
  const found = (interfaces: string[], change: object = {}, there = links, on: string[] = []) =>
    interfaceFindings(
      { links: there, features: new Map([['eth0', new Set(on)]]) },
      wants({ listeners: [aListener({ interfaces, ...change })] }),
    );
  const port = [aLink({ master: 5 }), aLink({ index: 5, name: 'br0', kind: 'bridge' })];
  check([
    ['there and up', () => found(['eth0']), 'ok', 'interface eth0: is there and up, veth, MTU 1500'],
    ['hardware', () => found(['eth0'], {}, [aLink({ kind: '', mtu: 9000 })]), 'ok', 'up, Ethernet, MTU 9000'],
    ['missing', () => found(['eth9']), 'fail', 'interface not found: eth9 (there are: eth0, tun0)', 'hostNetwork'],
    ['one of two missing', () => found(['eth0', 'lan0']), 'warn', 'interface not found: lan0', 'and has others'],
    ['missing in mode auto', () => found(['eth9'], { mode: 'auto' }), 'warn', 'falls back to userspace'],
    ['not looked for in userspace', () => found(['eth0'], { mode: 'userspace' }, []).concat(found(['eth0'])), 'ok'],
    ['down', () => found(['eth0'], {}, [aLink({ up: false })]), 'warn', 'is down', 'ip link set eth0 up'],
    ['no Ethernet', () => found(['tun0']), 'fail', 'carries no Ethernet header'],
    ['a port of a bridge', () => found(['eth0'], {}, port), 'warn', 'port of bridge "br0"', 'name br0'],
    ['by its other name', () => found(['enp1s0'], {}, [aLink({ altNames: ['enp1s0'] })]), 'ok', 'name is eth0'],
    ['UDP GRO forwarding', () => found(['eth0'], {}, links, ['rx-udp-gro-forwarding']), 'warn', 'ethtool -K eth0'],
    ['GRO lists', () => found(['eth0'], {}, links, ['rx-gro-list', 'rx-checksum']), 'warn', 'rx-gro-list off'],
    ['features that cannot be read', () => found(['tun1'], {}, [aLink({ name: 'tun1' })]), 'ok', 'cannot be read'],
  ]);
});

describe('sysctls', () => {
  const usual = {
    'net/ipv4/conf/eth0/forwarding': '1',
    'net/ipv4/conf/all/rp_filter': '0',
    'net/ipv4/conf/eth0/rp_filter': '2',
    'net/core/rmem_max': '4194304',
    'net/ipv4/neigh/default/gc_thresh3': '1024',
  };
  const small = { 'net/core/rmem_max': '212992' };
  const found = (change: Record<string, string>, w = wants(), mayForceBuffers = false, many = 3) => {
    const values: Record<string, string> = { ...usual, ...change };
    const links = [aLink(), aLink({ index: 3, name: 'flannel.1' })];
    const neighbours = { 4: many, 6: 0 };
    const egress = ['flannel.1', 'lo'];
    return sysctlFindings({ sysctl: (path) => values[path], links, egress, neighbours, mayForceBuffers }, w);
  };
  const six = wants({ listeners: [aListener({ bind: udp('::') })] });
  const { settings } = aListener();
  const buffer = wants({ listeners: [aListener({ settings: { ...settings, recvBufSize: 16777216 } })] });
  const off = { 'net/ipv4/conf/eth0/forwarding': '0' };
  const ra = { 'net/ipv6/conf/eth0/forwarding': '1', 'net/ipv6/conf/eth0/accept_ra': '1' };
  check([
    ['all well', () => found({}), 'ok', 'forwarding IPv4 eth0: is on'],
    ['ip_forward 0', () => found(off), 'warn', 'forwarding IPv4 eth0: is off', 'sysctl -w net.ipv4.ip_forward=1'],
    ['not asked for in userspace', () => found(off, asked('userspace')), 'ok', 'rp_filter flannel.1'],
    ['IPv6', () => found({ 'net/ipv6/conf/eth0/forwarding': '0' }, six), 'warn', 'net.ipv6.conf.all.forwarding=1'],
    ['router advertisements', () => found(ra, six), 'warn', 'accept_ra eth0: is 1', 'accept_ra=2'],
    ['rp_filter', () => found({ 'net/ipv4/conf/eth0/rp_filter': '1' }), 'warn', 'rp_filter eth0: is 1', 'rp_filter=2'],
    ['rp_filter of all', () => found({ 'net/ipv4/conf/all/rp_filter': '1' }), 'warn', 'flannel.1', 'by conf/all'],
    [
      'the larger one counts',
      () => found({ 'net/ipv4/conf/all/rp_filter': '1', 'net/ipv4/conf/flannel.1/rp_filter': '2' }),
      'ok',
      'rp_filter eth0: is 2',
    ],
    ['the receivers’ side', () => found({ 'net/ipv4/conf/flannel.1/rp_filter': '1' }), 'warn', 'other nodes'],
    ['rmem_max', () => found(small, buffer), 'warn', 'recv_buf_size 16777216', 'net.core.rmem_max=16777216'],
    ['rmem_max passed over', () => found(small, buffer, true), 'ok', 'which NET_ADMIN may pass'],
    [
      'neighbours',
      () => found({}, wants(), false, 4096),
      'warn',
      'gc_thresh3 is 1024, and 4096',
      'gc_thresh2=4096 net.ipv4.neigh.default.gc_thresh3=8192',
    ],
    ['few neighbours', () => found({}, wants(), false, 512), 'ok', 'forwarding IPv4 eth0: is on'],
    ['rmem_max below the default', () => found(small), 'warn', '212992 is all that', 'net.core.rmem_max=4194304'],
    ['the default passed over', () => found(small, wants(), true), 'ok', 'forwarding IPv4 eth0: is on'],
  ]);
});

describe('the hook', () => {
  const ours: Filter = { kind: 'bpf', priority: 49152, protocol: 3, handle: 1, chain: 0, bpfName: 'udp_fanout:[19]' };
  const other: Filter = { ...ours, priority: 1, bpfName: 'cil_from_netdev-eth0', bpfId: 77 };
  const hook = (change: Partial<Hook>) => hookFindings([{ name: 'eth0', filters: [], tcx: [], ...change }]);
  check([
    ['nobody', () => hook({}), 'ok', 'not attached now, nobody else'],
    ['ours', () => hook({ filters: [ours] }), 'ok', 'udp_fanout is attached, pref 49152'],
    ['Cilium before us', () => hook({ filters: [other, ours] }), 'warn', 'pref 1', 'TC_ACT_OK', 'bpf-filter-priority'],
    [
      'before where we will be',
      () => hook({ filters: [{ ...other, bpfName: 'x' }] }),
      'warn',
      'pref 1',
      'TC_ACT_UNSPEC',
    ],
    ['no BPF at all', () => hook({ filters: [{ ...other, kind: 'flower' }] }), 'warn', 'flower filter at pref 1'],
    ['after us', () => hook({ filters: [ours, { ...other, priority: 50000 }] }), 'ok', 'runs after udp_fanout'],
    ['where ours would come before', () => hook({ filters: [{ ...other, priority: 40000 }] }), 'ok', 'runs after'],
    ['another chain', () => hook({ filters: [{ ...other, chain: 5 }] }), 'ok', 'nobody else'],
    ['tcx', () => hook({ tcx: [{ id: 680, name: 'cil_from_netdev' }] }), 'warn', 'tcx program 680', 'enable-tcx'],
    ['tcx of nobody known', () => hook({ tcx: [{ id: 9 }] }), 'warn', 'tcx program 9 runs before', 'TCX_NEXT'],
    [
      'tcx unseen',
      () => hook({ tcx: 'bpf_prog_query: EPERM' }),
      'ok',
      'tcx programs cannot be seen (bpf_prog_query: EPERM)',
    ],
    ['XDP', () => hook({ xdp: 12 }), 'warn', 'XDP program 12 sees each frame first'],
  ]);
});

describe('binds', () => {
  const links = [aLink(), aLink({ index: 9, name: 'flannel.1', kind: 'vxlan', udpPort: 8472 })];
  const own = [
    { ...udp('10.0.0.1'), ifindex: 2 },
    { ...udp('127.0.0.1'), ifindex: 1 },
  ];
  const found = (bind: SocketAddress, addresses = own) =>
    bindFindings({ links, addresses }, wants({ listeners: [aListener({ bind })] }));
  check([
    ['a wildcard is no VIP', () => found(udp('0.0.0.0')), 'ok', 'takes datagrams to 10.0.0.1, and to no VIP'],
    ['a wildcard without an address', () => found(udp('0.0.0.0'), own.slice(1)), 'warn', 'there are none of IPv4'],
    ['[::] takes IPv4 too', () => found(udp('::')), 'ok', '10.0.0.1'],
    ['the node’s own', () => found(udp('10.0.0.1')), 'ok', 'is an address of this node, on eth0'],
    ['a VIP', () => found(udp('10.123.123.100', 80)), 'ok', 'is on no interface here', 'MetalLB'],
    ['flannel’s port', () => found(udp('0.0.0.0', 8472)), 'fail', 'belongs to vxlan interface "flannel.1"'],
    ['a tunnel’s port that nobody uses', () => found(udp('0.0.0.0', 6081)), 'warn', "is Geneve's"],
  ]);
});

describe('claims', () => {
  const held = (ip: string, protocol: 'udp' | 'tcp' = 'udp', port = 9000, owner?: string, ours = false) => {
    return { ...udp(ip, port), protocol, ours, ...(owner !== undefined && { owner }) };
  };
  const found = (facts: Partial<ConflictFacts>, w: Requirements = wants()) =>
    conflictFindings({ sockets: [], rules: [], rulesFrom: ['nft'], ...facts }, w);
  const metrics = wants({ metrics: udp('0.0.0.0', 9090) });
  const vip = asked('tc_ebpf', udp('10.123.123.100', 80));
  const rule = { port: 9000, text: 'udp dport 9000 dnat to 10.0.1.10' };
  const vipRule = { ...rule, ip: '10.123.123.100', port: 80 };
  check([
    ['nobody', () => found({}), 'ok', 'no other socket has UDP 0.0.0.0:9000'],
    ['a socket', () => found({ sockets: [held('0.0.0.0', 'udp', 9000, 'rsyslogd (process 8)')] }), 'warn', 'rsyslogd'],
    [
      'a socket of another address',
      () => found({ sockets: [held('10.0.0.2')] }, asked('tc_ebpf', udp('10.0.0.1'))),
      'ok',
    ],
    ['a socket on [::]', () => found({ sockets: [held('::')] }), 'warn', 'has UDP [::]:9000', 'no safety net'],
    ['a socket in userspace', () => found({ sockets: [held('0.0.0.0')] }, asked('userspace')), 'fail', 'cannot'],
    ['our own socket', () => found({ sockets: [held('0.0.0.0', 'udp', 9000, 'node', true)] }), 'ok'],
    ['a hostPort', () => found({ rules: [rule] }), 'warn', 'also wants any address port 9000'],
    ['kube-proxy at a VIP', () => found({ rules: [vipRule] }, vip), 'ok', 'never reaches it'],
    ['kube-proxy elsewhere', () => found({ rules: [{ ...vipRule, ip: '10.9.9.9' }] }, vip), 'ok', 'no other socket'],
    [
      'a rule before userspace',
      () => found({ rules: [rule] }, asked('userspace')),
      'fail',
      "before the listener's socket",
    ],
    ['no way to read rules', () => found({ rulesFrom: [] }), 'ok', 'rules: cannot be read here'],
    ['metrics port free', () => found({}, metrics), 'ok', 'TCP 0.0.0.0:9090 is free'],
    [
      'metrics port taken',
      () => found({ sockets: [held('::', 'tcp', 9090, 'nginx')] }, metrics),
      'fail',
      'taken by nginx',
    ],
    [
      'metrics port ours',
      () => found({ sockets: [held('0.0.0.0', 'tcp', 9090, 'node', true)] }, metrics),
      'ok',
      'agent',
    ],
  ]);
});

describe('routes', () => {
  const links = [aLink()];
  const way = (downstream: string, out?: ReceiverRoute['out']): ReceiverRoute => {
    const port = Number(downstream.split(':')[1]);
    return { listener: 'listener-0', downstream, family: 4, port, ...(out && { out }) };
  };
  const by = (name: string, mtu: number, local = false) => ({ name, mtu, local });
  const found = (routes: ReceiverRoute[], mode: Mode = 'tc_ebpf') => routeFindings({ links, routes }, asked(mode));
  check([
    ['all there', () => found([way('10.0.1.10:9000', by('cni0', 1500))]), 'ok', 'each of 1 downstreams', 'cni0'],
    ['this host', () => found([way('10.0.0.1:9001', by('lo', 1000, true))]), 'ok', 'this host'],
    [
      'this host, our port',
      () => found([way('10.0.0.1:9000', by('lo', 1000, true))]),
      'warn',
      '10.0.0.1:9000 may be on',
    ],
    ['a host on the link', () => found([way('10.0.0.2:9000', by('eth0', 1500))]), 'warn', 'another port'],
    ['behind a router', () => found([way('10.9.0.2:9000', { ...by('eth0', 1500), byGateway: true })]), 'ok'],
    ['none', () => found([way('10.0.1.10:9000')]), 'fail', 'no route to 10.0.1.10:9000', 'no_route'],
    ['one of two', () => found([way('10.9.9.9:1'), way('10.0.1.10:9000', by('cni0', 1500))]), 'warn', '10.9.9.9:1'],
    ['an overlay', () => found([way('10.0.2.1:9000', by('flannel.1', 1450))]), 'warn', '1422 bytes', 'mtu_exceeded'],
    ['an overlay in userspace', () => found([way('10.0.2.1:9000', by('flannel.1', 1450))], 'userspace'), 'ok'],
  ]);
});

describe('the cluster', () => {
  const service: ServiceFacts = {
    namespace: 'logging',
    service: 'vector-aggregators',
    refused: {},
    slices: 1,
    endpoints: 3,
    remarks: [],
  };
  const found = (change: Partial<ServiceFacts>) => clusterFindings([{ ...service, ...change }]);
  const refused = (cause: string, verb: 'list' | 'watch' = 'list') => ({
    refused: { [verb]: { cause, message: 'no', ...(cause === 'forbidden' && { role: '{kind: Role}' }) } },
  });
  check([
    ['no Service asked for', () => [{ level: 'ok', what: '', means: '' }, ...clusterFindings([])], 'ok'],
    ['all well', () => found({}), 'ok', 'Service logging/vector-aggregators: 3 endpoints may receive'],
    ['rights', () => found({}), 'ok', 'RBAC logging: may watch endpointslices'],
    ['forbidden', () => found(refused('forbidden')), 'fail', 'may not list endpointslices', "<<< '{kind: Role}'"],
    ['watch forbidden', () => found(refused('forbidden', 'watch')), 'fail', 'may not watch endpointslices'],
    ['unreachable', () => found(refused('unreachable')), 'fail', 'API server: unreachable: no', 'last endpoints'],
    ['no credentials', () => found(refused('credentials')), 'fail', 'KUBECONFIG'],
    ['no slices', () => found({ slices: 0, endpoints: 0 }), 'fail', 'EndpointSlice not found', 'kubectl -n logging'],
    ['none ready', () => found({ endpoints: 0 }), 'warn', 'no endpoint is ready', 'no_downstream'],
    ['no such port', () => found({ endpoints: 0, remarks: ['no UDP port 1'] }), 'warn', 'no UDP port 1'],
  ]);
});

describe('what others write', () => {
  test('nft: rules that divert, kube-proxy’s maps, and nothing that only filters', () => {
    const text = `
      ip daddr 10.123.123.100 udp dport 80 dnat to 10.42.1.20:8080
      meta l4proto udp ip daddr 10.43.0.10 udp dport 53 counter packets 0 bytes 0 jump KUBE-SVC-TCOU7JCQXEZGVUNU
      udp dport { 514, 5514 } redirect to :1514
      udp dport 9000 accept
      tcp dport 80 dnat to 10.42.1.20:8080
      elements = { 10.96.0.10 . udp . 53 : goto service-NWBZK7IH-kube-system/kube-dns/udp/dns__,
                   10.96.0.10 . tcp . 53 : goto service-x }`;
    expect(decodeNft(text).map(({ ip, port }) => `${ip ?? '*'}:${port}`)).toEqual([
      '10.123.123.100:80',
      '10.43.0.10:53',
      '*:514',
      '*:5514',
      '10.96.0.10:53',
    ]);
  });

  test('iptables-save: kube-proxy and hostPort', () => {
    const text = `
-A KUBE-SERVICES -d 10.43.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name" -m multiport --dports 5514,5515 -j CNI-DN-0
-A KUBE-SERVICES -d 10.43.0.10/32 -p tcp -m tcp --dport 53 -j KUBE-SVC-X
-A INPUT -p udp -m udp --dport 514 -j ACCEPT`;
    expect(decodeIptables(text).map(({ ip, port }) => `${ip ?? '*'}:${port}`)).toEqual([
      '10.43.0.10:53',
      '*:5514',
      '*:5515',
    ]);
  });

  test('IPVS', () => {
    const text =
      'IP Virtual Server version 1.2.1\nProt LocalAddress:Port Scheduler Flags\nTCP  0A2B0001:01BB rr\nUDP  0A2B000A:0035 rr\n  -> 0A2A0102:0035 Masq 1 0 0';
    expect(decodeIpvs(text)).toMatchObject([{ ip: '10.43.0.10', port: 53 }]);
  });

  test('/proc/net: udp, udp6, and of tcp what listens', () => {
    const row = (local: string, state: string) =>
      `  1: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0`;
    expect(decodeSockets(`header\n${row('0100000A:2328', '07')}`, 'udp')).toEqual([
      { protocol: 'udp', family: 4, ip: '10.0.0.1', port: 9000, inode: '4711' },
    ]);
    const six = row('B80D0120000000000000000001000000:0050', '0A');
    expect(decodeSockets(`${six}\n${row('0100007F:1F90', '01')}`, 'tcp')).toMatchObject([
      { family: 6, ip: '2001:db8::1', port: 80 },
    ]);
  });

  test('a machine with all in order has no complaint', () => {
    expect(complaints(machineFindings({ release: '6.12.0', bpffs: true, attaches: true }, wants()))).toEqual([]);
  });
});
