/** The host's netlink view against iproute2's, in network namespaces of its own. */
import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { HostAddress } from '../../agent/netlink/address.ts';
import type { Filter } from '../../agent/netlink/filter.ts';
import type { Host } from '../../agent/netlink/host.ts';
import { findLink, type Link } from '../../agent/netlink/link.ts';
import type { Route } from '../../agent/netlink/route.ts';
import type { ChangeCause } from '../../agent/netlink/watch.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { patient, pause } from '../../lab/patience.ts';

const CHILD = fileURLToPath(new URL('netlink.child.ts', import.meta.url));
const root = process.getuid?.() === 0;

const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: 'utf8', stdio: 'pipe' });
const words = (text: string) => text.split(' ');

/** A veth pair whose end `v0` has neighbours of both families. */
const CONNECTED = [
  'link set v0 up',
  'link set v1 up',
  'address add 10.0.0.1/24 dev v0',
  'address add fd00::1/64 dev v0 nodad',
];

let count = 0;

/** A network namespace and a Node process inside it; both end with `close`. */
class Namespace {
  readonly name = `ufnl-${process.pid}-${count++}`;
  readonly causes: ChangeCause[] = [];
  readonly #child: ChildProcess;
  #resolve: ((message: { answer?: unknown; error?: string }) => void) | undefined;

  constructor() {
    run('ip', 'netns', 'add', this.name);
    const execArgv = [`--net=/run/netns/${this.name}`, process.execPath];
    this.#child = fork(CHILD, [], { execPath: 'nsenter', execArgv });
    this.#child.on('message', (message: { cause?: ChangeCause; answer?: unknown; error?: string }) => {
      if (message.cause !== undefined) this.causes.push(message.cause);
      else this.#resolve?.(message);
    });
  }

  /** Runs an ip command inside. */
  ip(command: string): string {
    return run('ip', '-n', this.name, ...words(command));
  }

  /** Runs an ip command inside and gives back what it lists. */
  list<T>(command: string): T[] {
    return JSON.parse(run('ip', '-n', this.name, '-d', '-j', ...words(command)));
  }

  tc(command: string): string {
    return run('tc', '-n', this.name, ...words(command));
  }

  /** Adds a filter to v0: classic BPF that returns -1, the only classifier that needs no module. */
  addFilter(where: string): void {
    const classifier = ['bpf', 'direct-action', 'bytecode', '1,6 0 0 4294967295,'];
    run('tc', '-n', this.name, 'filter', 'add', 'dev', 'v0', ...words(where), ...classifier);
  }

  /** Runs many ip commands inside, quickly. */
  batch(commands: readonly string[]): void {
    execFileSync('ip', ['-n', this.name, '-batch', '-'], { input: commands.join('\n') });
  }

  call(method: 'links'): Promise<Link[]>;
  call(method: 'addresses'): Promise<HostAddress[]>;
  call(method: 'route', argument: { family: 4 | 6; ip: string }): Promise<Route | undefined>;
  call(method: 'filters', argument: number): Promise<Filter[]>;
  call(method: 'neighbour' | 'station' | 'use', argument: readonly unknown[]): Promise<object | undefined>;
  call(method: 'way', argument: { family: 4 | 6; ip: string }): Promise<Route | string>;
  call(method: 'isOneOfSeveral', argument: { family: 4 | 6; ip: string }): Promise<boolean>;
  call(method: 'routesByArrival', argument: 4 | 6): Promise<boolean>;
  call(method: keyof Host, argument?: unknown): Promise<unknown> {
    return this.#ask({ ask: 'call', method, argument });
  }

  watch(): Promise<unknown> {
    return this.#ask({ ask: 'watch' });
  }

  /** Waits for the watch's next call. */
  async notice(): Promise<void> {
    const before = this.causes.length;
    await expect.poll(() => this.causes.length, { timeout: patient(2000), interval: 10 }).toBeGreaterThan(before);
  }

  /** Waits until the watch has nothing more to say, and forgets what it said. */
  async settle(): Promise<void> {
    do {
      this.causes.length = 0;
      await pause(150);
    } while (this.causes.length > 0);
  }

  async link(name: string): Promise<Link> {
    return findLink(await this.call('links'), name)!;
  }

  /** Stops the process, as a busy event loop would; `resume` lets it go on. */
  pause(): void {
    this.#child.kill('SIGSTOP');
  }

  resume(): void {
    this.#child.kill('SIGCONT');
  }

  close(): void {
    this.#child.kill('SIGKILL');
    run('ip', 'netns', 'del', this.name);
  }

  #ask(question: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#resolve = ({ answer, error }) => (error === undefined ? resolve(answer) : reject(new Error(error)));
      this.#child.send(question);
    });
  }
}

let ns: Namespace;

describe.skipIf(!root)('the host as netlink shows it (needs root)', () => {
  beforeEach(() => {
    ns = new Namespace();
    ns.ip('link set lo up');
  });
  afterEach(() => {
    ns.close();
  });

  test('lists links of every kind as ip does', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.ip('link add b0 type bridge');
    ns.ip('link set v0 master b0 mtu 1400 up');
    ns.ip('link add x0 type vxlan id 7 dstport 4789');
    ns.ip('link add x1 type vxlan id 8 dstport 8472');
    ns.ip('tuntap add dev t0 mode tun');
    ns.ip('link property add dev v1 altname pod-side altname pod-side-too');
    const links = await ns.call('links');

    interface Row {
      ifindex: number;
      ifname: string;
      altnames?: string[];
      flags: string[];
      mtu: number;
      address?: string;
      master?: string;
      linkinfo?: { info_kind: string; info_data?: { port?: number } };
    }
    const rows = ns.list<Row>('link show');
    const index = (name?: string) => rows.find((row) => row.ifname === name)?.ifindex ?? 0;
    expect(links.map(({ type, ...link }) => link)).toEqual(
      rows.map((row) => ({
        index: row.ifindex,
        name: row.ifname,
        altNames: row.altnames ?? [],
        up: row.flags.includes('UP'),
        carrier: row.flags.includes('LOWER_UP'),
        noArp: row.flags.includes('NOARP') || row.flags.includes('POINTOPOINT'),
        mtu: row.mtu,
        mac: row.address ?? '',
        kind: row.linkinfo?.info_kind ?? '',
        master: index(row.master),
        ...(row.linkinfo?.info_kind === 'vxlan' && { udpPort: row.linkinfo.info_data?.port }),
      })),
    );
    expect(findLink(links, 'x1')).toMatchObject({ kind: 'vxlan', udpPort: 8472 });
    expect(findLink(links, 'pod-side-too')).toMatchObject({ name: 'v1', kind: 'veth' });
    const types = Object.fromEntries(links.map(({ name, type }) => [name, type]));
    expect(types).toMatchObject({ lo: 772, v0: 1, b0: 1, t0: 65534 });
  });

  const noGeneve = lacking('geneve');
  test.skipIf(noGeneve)(titled('knows the port of a geneve link', noGeneve), async () => {
    ns.ip('link add g0 type geneve id 7 remote 192.0.2.1 dstport 6081');
    expect(await ns.link('g0')).toMatchObject({ kind: 'geneve', udpPort: 6081 });
  });

  test('lists addresses of both families and all scopes, each its own and not its peer’s', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.batch([
      'link set v0 up',
      'link set v1 up',
      'address add 10.0.0.1/24 dev v0',
      'address add 10.0.1.1 peer 10.0.1.2/32 dev v0',
      'address add fd00::1/64 dev v0 nodad',
    ]);
    interface Row {
      ifindex: number;
      addr_info: { family: string; local: string }[];
    }
    const expected = ns.list<Row>('address show').flatMap(({ ifindex, addr_info }) =>
      addr_info.map(({ family, local }) => ({
        family: family === 'inet' ? 4 : 6,
        ip: local,
        ifindex,
      })),
    );
    const order = (a: HostAddress, b: HostAddress) => `${a.ifindex} ${a.ip}`.localeCompare(`${b.ifindex} ${b.ip}`);
    const addresses = await ns.call('addresses');
    expect(addresses.sort(order)).toEqual((expected as HostAddress[]).sort(order));
    expect(addresses.map(({ ip }) => ip)).toEqual(expect.arrayContaining(['10.0.0.1', '10.0.1.1', 'fd00::1', '::1']));
  });

  test('leaves out an address that another machine already has', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.batch(['link set v0 up', 'link set v1 up', 'address add fd00::5/64 dev v1 nodad']);
    await expect.poll(() => ns.ip('-6 address show tentative'), { timeout: patient(5000) }).toBe('');
    ns.ip('address add fd00::5/64 dev v0');
    await expect.poll(() => ns.ip('address show dev v0'), { timeout: patient(5000) }).toContain('dadfailed');
    const v1 = await ns.link('v1');
    const holders = (await ns.call('addresses')).filter(({ ip }) => ip === 'fd00::5');
    expect(holders).toEqual([{ family: 6, ip: 'fd00::5', ifindex: v1.index }]);
  });

  test('lists 3000 addresses', async () => {
    const ips = Array.from({ length: 3000 }, (_, index) => `10.8.${index >> 8}.${index & 255}`);
    ns.batch(ips.map((ip) => `address add ${ip}/32 dev lo`));
    const listed = new Set((await ns.call('addresses')).map(({ ip }) => ip));
    expect(ips.filter((ip) => !listed.has(ip))).toEqual([]);
  });

  test('finds the way: on the link, by a router of either family, with an MTU, to itself, none', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.batch([
      ...CONNECTED,
      'route add 10.1.0.0/16 via 10.0.0.2',
      'route add 10.2.0.0/16 via inet6 fd00::2 dev v0',
      'route add 10.3.0.0/16 via 10.0.0.2 mtu 1300',
      'route add fd02::/64 via fd00::2',
      'route add unreachable 10.4.0.0/16',
      'route add prohibit 10.5.0.0/16',
      'route add blackhole 10.6.0.0/16',
      'route add unreachable fd04::/64',
      'route add prohibit fd05::/64',
      'route add blackhole fd06::/64',
    ]);
    const { index: ifindex } = await ns.link('v0');
    const route = (ip: string) => ns.call('route', { family: ip.includes(':') ? 6 : 4, ip });
    expect(await route('10.0.0.7')).toEqual({ ifindex, local: false });
    expect(await route('fd00::7')).toEqual({ ifindex, local: false });
    expect(await route('10.1.2.3')).toEqual({ ifindex, gateway: { family: 4, ip: '10.0.0.2' }, local: false });
    expect(await route('10.2.2.3')).toEqual({ ifindex, gateway: { family: 6, ip: 'fd00::2' }, local: false });
    expect(await route('10.3.2.3')).toMatchObject({ gateway: { ip: '10.0.0.2' }, mtu: 1300 });
    expect(await route('fd02::1')).toEqual({ ifindex, gateway: { family: 6, ip: 'fd00::2' }, local: false });
    expect(await route('10.0.0.1')).toMatchObject({ local: true });
    expect(await route('fd00::1')).toMatchObject({ local: true });
    const nowhere = ['10.4.0.1', '10.5.0.1', '10.6.0.1', '172.16.0.1', 'fd04::1', 'fd05::1', 'fd06::1', 'fd99::1'];
    for (const ip of nowhere) expect(await route(ip), ip).toBeUndefined();
  });

  test('says why there is no way, of how many ways one is one, and whether they go by arrival', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.batch([
      ...CONNECTED,
      'route add unreachable 10.4.0.0/16',
      'route add prohibit 10.5.0.0/16',
      'route add blackhole 10.6.0.0/16',
      'route add blackhole fd06::/64',
      'route add 10.7.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3',
      'route add fd07::/64 nexthop via fd00::2 nexthop via fd00::3',
      'route add 10.8.0.0/16 via 10.0.0.2',
      'route add fd08::/64 via fd00::2',
    ]);
    const address = (ip: string) => ({ family: ip.includes(':') ? (6 as const) : (4 as const), ip });
    const none = ['10.4.0.1', '10.5.0.1', '10.6.0.1', '172.16.0.1', 'fd06::1', 'fd99::1'];
    const reasons: unknown[] = [];
    for (const ip of none) reasons.push(await ns.call('way', address(ip)));
    expect(reasons).toEqual([
      'unreachable route',
      'prohibit route',
      'blackhole route',
      'no route',
      'blackhole route',
      'no route',
    ]);
    const several: boolean[] = [];
    for (const ip of ['10.7.0.1', 'fd07::1', '10.8.0.1', 'fd08::1', '10.6.0.1']) {
      several.push(await ns.call('isOneOfSeveral', address(ip)));
    }
    expect(several).toEqual([true, true, false, false, false]);
    expect([await ns.call('routesByArrival', 4), await ns.call('routesByArrival', 6)]).toEqual([false, false]);
    ns.ip('rule add iif v0 lookup 100');
    expect([await ns.call('routesByArrival', 4), await ns.call('routesByArrival', 6)]).toEqual([true, false]);
  });

  test('knows neighbours and stations, and has the kernel ask for one', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.ip('link add b0 type bridge');
    ns.batch([
      'link set v0 master b0 up',
      'link set v1 up',
      'link set b0 up',
      'address add 10.0.0.1/24 dev b0',
      'neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev b0',
    ]);
    const [b0, v0] = [await ns.link('b0'), await ns.link('v0')];
    const address = { family: 4, ip: '10.0.0.7' };
    const mac = '02:00:00:00:00:07';
    expect(await ns.call('neighbour', [b0.index, address])).toEqual({
      ...address,
      ifindex: b0.index,
      unresolved: false,
      failed: false,
      mac,
    });
    expect(await ns.call('station', [b0.index, mac])).toBeUndefined();
    run('bridge', '-n', ns.name, 'fdb', 'add', mac, 'dev', 'v0', 'master', 'static');
    expect(await ns.call('station', [b0.index, mac])).toEqual({ bridge: b0.index, port: v0.index, mac });
    const nobody = { family: 4, ip: '10.0.0.8' };
    expect(await ns.call('neighbour', [b0.index, nobody])).toBeUndefined();
    await ns.call('use', [b0.index, nobody]);
    expect(await ns.call('neighbour', [b0.index, nobody])).toMatchObject({ unresolved: true, mac: '' });
    expect(await ns.call('neighbour', [4242, nobody])).toBeUndefined();
  });

  test('lists ingress filters in their order, and none without clsact', async () => {
    ns.ip('link add v0 type veth peer name v1');
    const { index } = await ns.link('v0');
    expect(await ns.call('filters', index)).toEqual([]);

    ns.tc('qdisc add dev v0 clsact');
    expect(await ns.call('filters', index)).toEqual([]);

    ns.addFilter('ingress pref 20 protocol all');
    ns.addFilter('ingress pref 10 protocol ipv6');
    ns.addFilter('ingress pref 5 protocol ip chain 3');
    ns.addFilter('egress pref 30 protocol all');
    expect(await ns.call('filters', index)).toEqual([
      { kind: 'bpf', priority: 10, protocol: 0x86dd, handle: 1, chain: 0 },
      { kind: 'bpf', priority: 20, protocol: 3, handle: 1, chain: 0 },
      { kind: 'bpf', priority: 5, protocol: 0x800, handle: 1, chain: 3 },
    ]);

    ns.tc('qdisc del dev v0 clsact');
    expect(await ns.call('filters', index)).toEqual([]);
    ns.tc('qdisc add dev v0 ingress');
    expect(await ns.call('filters', index)).toEqual([]);
  });

  const noCompiler = lacking('clang');
  test.skipIf(noCompiler)(titled('says of a bpf filter what tc says', noCompiler), async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.tc('qdisc add dev v0 clsact');
    const directory = mkdtempSync(join(tmpdir(), 'ufnl-'));
    try {
      const source = join(directory, 'pass.c');
      writeFileSync(source, '__attribute__((section("classifier"))) int pass(void *skb) { return -1; }\n');
      run('clang', '-O2', '-target', 'bpf', '-c', source, '-o', join(directory, 'pass.o'));
      ns.tc(`filter add dev v0 ingress bpf direct-action object-file ${directory}/pass.o section classifier`);
    } finally {
      rmSync(directory, { recursive: true });
    }
    const shown: { options?: { handle: string; bpf_name: string; prog: { id: number } } }[] = JSON.parse(
      run('tc', '-n', ns.name, '-j', 'filter', 'show', 'dev', 'v0', 'ingress'),
    );
    const { bpf_name: bpfName, prog } = shown.find(({ options }) => options?.bpf_name)!.options!;
    const [filter] = await ns.call('filters', (await ns.link('v0')).index);
    expect(filter).toMatchObject({ kind: 'bpf', handle: 1, bpfName, bpfId: prog.id });
  });

  test('of an interface that does not exist there is nothing', async () => {
    expect(await ns.call('filters', 4242)).toEqual([]);
  });

  test('is read whole while addresses come and go', async () => {
    const ips = Array.from({ length: 1000 }, (_, index) => `10.8.${index >> 8}.${index & 255}`);
    ns.batch(ips.map((ip) => `address add ${ip}/32 dev lo`));
    const churn = Array.from({ length: 200 }, (_, index) => `10.9.0.${index}/32`);
    for (let round = 0; round < 5; round++) {
      ns.batch(churn.map((address) => `address add ${address} dev lo`));
      const reading = ns.call('addresses');
      ns.batch(churn.map((address) => `address del ${address} dev lo`));
      const listed = new Set((await reading).map(({ ip }) => ip));
      expect(ips.filter((ip) => !listed.has(ip))).toEqual([]);
    }
  });
});

describe.skipIf(!root)('the watch on a real network (needs root)', () => {
  beforeEach(async () => {
    ns = new Namespace();
    ns.ip('link set lo up');
    await ns.watch();
    await ns.settle();
  });
  afterEach(() => {
    ns.close();
  });

  test('notices links, addresses and filters that come and go, and nothing else', async () => {
    const changes = [
      () => ns.ip('link add v0 type veth peer name v1'),
      () => ns.ip('link set v0 up'),
      () => ns.ip('address add 10.0.0.1/24 dev v0'),
      () => ns.ip('address add fd00::1/64 dev v0 nodad'),
      () => ns.ip('address del 10.0.0.1/24 dev v0'),
      () => ns.ip('address del fd00::1/64 dev v0'),
      () => ns.tc('qdisc add dev v0 clsact'),
      () => ns.addFilter('ingress pref 1 protocol all'),
      () => ns.tc('filter del dev v0 ingress pref 1'),
      () => ns.ip('link del v0'),
    ];
    for (const change of changes) {
      const noticed = ns.notice();
      change();
      await noticed;
      await ns.settle();
    }
    ns.ip('route add 10.7.0.0/16 dev lo');
    await pause(200);
    expect(ns.causes).toEqual([]);
  });

  test('hears nothing of our own reading', async () => {
    ns.ip('link add v0 type veth peer name v1');
    ns.tc('qdisc add dev v0 clsact');
    ns.addFilter('ingress pref 1 protocol all');
    const { index } = await ns.link('v0');
    await ns.settle();
    await ns.call('links');
    await ns.call('addresses');
    await ns.call('route', { family: 4, ip: '127.0.0.1' });
    expect(await ns.call('filters', index)).toHaveLength(1);
    await pause(200);
    expect(ns.causes).toEqual([]);
  });

  test('says so when there was more than its buffer holds', async () => {
    const additions = Array.from(
      { length: 1500 },
      (_, index) => `address add 10.${index >> 8}.${index & 255}.1/32 dev lo`,
    );
    const removals = additions.map((command) => command.replace(' add ', ' del '));
    // The child is stopped, so that notices pile up as they do behind a busy event loop.
    ns.pause();
    for (let round = 0; round < 2; round++) {
      ns.batch(additions);
      ns.batch(removals);
    }
    ns.resume();
    await expect.poll(() => ns.causes, { timeout: patient(5000) }).toContain('overflow');
    await ns.settle();
    const noticed = ns.notice();
    ns.ip('address add 10.0.0.1/32 dev lo');
    await noticed;
  });
});

describe.skipIf(!root)('the watch and routes (needs root)', () => {
  beforeEach(() => {
    ns = new Namespace();
    ns.ip('link set lo up');
  });
  afterEach(() => {
    ns.close();
  });

  test('says nothing of a route that comes and goes', async () => {
    await ns.watch();
    await ns.settle();
    for (const verb of ['add', 'del']) ns.ip(`route ${verb} 10.7.0.0/16 dev lo`);
    await pause(300);
    expect(ns.causes).toEqual([]);
  });
});
