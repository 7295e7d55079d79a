/**
 * The program as the agent runs it: loaded, filled and attached by the kernel datapath itself, in the node of node.ts.
 * Packets go through it by test runs, and every counter is watched.
 */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { formatAddress, parseIp } from '../../agent/address.ts';
import type { Blueprint, Datapath } from '../../agent/datapath/datapath.ts';
import { encodeU32, LAYOUT, PROGRAM, TEARS, VERDICTS } from '../../agent/datapath/tc/abi.ts';
import type { BpfMap } from '../../agent/datapath/tc/bpf.ts';
import { openTcDatapath } from '../../agent/datapath/tc/datapath.ts';
import { egressLookup } from '../../agent/datapath/tc/egress.ts';
import { decodeHanded } from '../../agent/datapath/tc/handed/record.ts';
import { check } from '../../agent/ffi/errno.ts';
import { mapLookupBatch, possibleCpus } from '../../agent/ffi/libbpf.ts';
import { RingBuffer } from '../../agent/ffi/ring-buffer.ts';
import { type Downstream, familiesOf, type Listener } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';
import { keysOf, mapsOf, programById } from '../../lab/loaded-program.ts';
import { parseAddress } from '../../lab/sockaddr.ts';
import { type TestRun, testRun } from '../../lab/test-run.ts';
import { aListener, aLog } from '../fake/words.ts';
import { enterNode, type LinkName, NODE_IPS, type Node, PEER_IPS, PEER_MAC } from './node.ts';

/** Another object file than the one that the build made, if the environment names one. */
const OBJECT = process.env.UDP_FANOUT_OBJECT ?? join(import.meta.dirname, '../../dist/udp_fanout.bpf.o');

/** A listener in short. */
export interface Plan {
  readonly bind: string;
  /** Endpoints as `ip:port`, or with a weight and the node that they live on; both families where the bind takes both. */
  readonly to: readonly (string | readonly [address: string, weight: number, node?: string])[];
  /** eth0 if absent. */
  readonly on?: readonly LinkName[];
}

/** Where a frame comes in, if not as one datagram through eth0. */
export interface Arrival {
  readonly on?: LinkName;
  readonly gsoSize?: number;
  readonly gsoSegments?: number;
}

/** By how much which counter of which listener moved: the names of struct stats; what did not move is not there. */
export type Moved<Name extends string = string> = { readonly [L in Name]?: Readonly<Record<string, number>> };

export interface Outcome<Name extends string = string> extends Pick<TestRun, 'action' | 'frame'> {
  readonly moved: Moved<Name>;
  /** What the safety net got. */
  readonly handed?: HandedOver;
}

/** A packet in the hands of the safety net: why, for which downstream if one was chosen, and its bytes in hex. */
export interface HandedOver {
  readonly verdict: string;
  readonly to?: string;
  readonly packet: string;
}

/** The counters of struct stats in its order. */
const COUNTERS = [
  'pkts_received',
  'pkts_forwarded',
  'pkts_to_safety_net',
  'pkts_dropped',
  'bytes_received',
  'bytes_forwarded',
  ...VERDICTS.map(({ name }) => name),
  ...TEARS.map((name) => `torn_${name}`),
];
const WORDS = LAYOUT.stats.size / 8;
/** Offset of seen_ns in struct fragment. */
const SEEN_NS = 32;
const { ENOENT } = constants.errno;

export class Rig<Name extends string> implements Disposable {
  readonly node: Node;
  readonly datapath: Datapath;
  readonly programFd: number;
  readonly #names: readonly Name[];
  readonly #ifindex: Readonly<Record<LinkName, number>>;
  readonly #maps: ReadonlyMap<string, BpfMap>;
  readonly #cpus = possibleCpus();
  #before: BigUint64Array;
  #ring!: RingBuffer;
  #isFull = false;

  /** Enters a node of its own and applies the plans; needs root. */
  constructor(plans: Readonly<Record<Name, Plan>>) {
    this.node = enterNode();
    this.#names = Object.keys(plans) as Name[];
    const link = (name: LinkName) => this.node.ifindex(name);
    this.#ifindex = { eth0: link('eth0'), eth1: link('eth1'), cni0: link('cni0'), overlay0: link('overlay0') };
    this.datapath = openTcDatapath({
      log: aLog(),
      objectPath: OBJECT,
      filters: (ifindex, side) => this.node.host.filters(ifindex, side),
      links: () => [],
      leaseSecs: () => 0,
      egressLookup: (interfaces) => egressLookup(this.node.host, interfaces),
      onLink: ({ ip }) => (PEER_IPS.includes(ip) ? { ifindex: link('eth0'), mac: PEER_MAC } : undefined),
      ways: () => () => undefined,
      neighbours: { neighbour: () => undefined, use: () => {} },
      openSafetyNet: ({ ring, bytes }) => {
        this.#ring = new RingBuffer(ring, bytes);
        return { refresh: () => {}, release: () => {}, remove: () => this.#ring.close() };
      },
    });
    this.apply(plans);
    const filter = this.node.host.filters(link('eth0')).find(({ bpfName }) => bpfName?.startsWith(PROGRAM));
    this.programFd = programById(filter!.bpfId!);
    this.#maps = mapsOf(this.programFd);
    this.#before = this.#read();
  }

  /** Makes the datapath what the plans say; the names must stay the same. */
  apply(plans: Readonly<Record<Name, Plan>>): void {
    const problems = this.datapath.apply(this.#blueprint(plans));
    if (problems.length > 0) throw new Error(problems.map(({ message }) => message).join('; '));
  }

  /** Sends a frame through the program. */
  run(frame: Uint8Array, { on = 'eth0', ...gso }: Arrival = {}): Outcome<Name> {
    const { action, frame: out } = testRun(this.programFd, frame, { ifindex: this.#ifindex[on], ...gso });
    const after = this.#read();
    const moved = this.#difference(this.#before, after);
    this.#before = after;
    const handed = this.#isFull ? undefined : this.#handed();
    return { action, frame: out, moved, ...(handed && { handed }) };
  }

  /** Fills the ring by a frame that is handed over; nobody takes anything from there until `empty`. */
  fill(frame: Uint8Array): void {
    const full = COUNTERS.indexOf('safety_net_full');
    const found = () => this.#read().reduce((sum, count, at) => sum + (at % WORDS === full ? Number(count) : 0), 0);
    this.#isFull = true;
    for (const before = found(); found() === before; ) testRun(this.programFd, frame, { ifindex: this.#ifindex.eth0 });
    this.#before = this.#read();
  }

  empty(): void {
    this.#isFull = false;
    while (this.#ring.drain(256, () => {}) > 0);
  }

  /** Forgets what was: counters and walks are at 0, no fragment is remembered. */
  rewind(): void {
    const nothing = new Uint8Array(LAYOUT.stats.size * this.#cpus);
    for (const id of this.#names.keys()) this.#map('STATS').put(encodeU32(id), nothing);
    for (const key of keysOf(this.#map('FRAGMENTS'))) this.#map('FRAGMENTS').remove(key);
    this.#before = this.#read();
  }

  /** How many fragmented datagrams are remembered. */
  remembered(): number {
    return keysOf(this.#map('FRAGMENTS')).length;
  }

  /** Makes all that is remembered of fragments so much older. */
  age(seconds: number): void {
    const map = this.#map('FRAGMENTS');
    const value = Buffer.alloc(map.valueSize);
    for (const key of keysOf(map)) {
      map.get(key, value);
      value.writeBigUInt64LE(value.readBigUInt64LE(SEEN_NS) - BigInt(seconds) * 1_000_000_000n, SEEN_NS);
      map.put(key, value);
    }
  }

  [Symbol.dispose](): void {
    this.datapath.remove();
    for (const { fd } of this.#maps.values()) closeSync(fd);
    closeSync(this.programFd);
    this.node[Symbol.dispose]();
  }

  #blueprint(plans: Readonly<Record<Name, Plan>>): Blueprint {
    return {
      addresses: NODE_IPS.map((text) => parseIp(text)!),
      listeners: this.#names.map((name, id) => {
        const listener = listenerOf(id, name, plans[name]);
        const downstreams = listener.endpoints.kind === 'static' ? listener.endpoints.list : [];
        return {
          listener,
          interfaces: (plans[name].on ?? ['eth0']).map((link) => ({ name: link, index: this.#ifindex[link] })),
          absent: [],
          tables: familiesOf(listener).map((family) => buildTable(family, downstreams)),
        };
      }),
    };
  }

  #handed(): HandedOver | undefined {
    const all: HandedOver[] = [];
    this.#ring.drain(2, (record) => {
      const { chosen, verdict, packet } = decodeHanded(record);
      const to = chosen && { to: formatAddress(chosen.downstream) };
      all.push({ verdict: VERDICTS[verdict]!.name, ...to, packet: Buffer.from(packet).toString('hex') });
    });
    if (all.length > 1) throw new Error('one packet was handed over twice');
    return all[0];
  }

  #map(name: string): BpfMap {
    return this.#maps.get(name)!;
  }

  /** STATS as it is: a row for each listener and CPU, in the order of the names. */
  #read(): BigUint64Array {
    const count = this.#names.length;
    const words = WORDS * this.#cpus;
    const keys = new Uint32Array(count);
    const found = new BigUint64Array(words * count);
    const { fd } = this.#map('STATS');
    const result = mapLookupBatch(fd, null, new Uint8Array(keys.buffer), new Uint8Array(found.buffer), count);
    if (result !== -ENOENT) check('bpf_map_lookup_batch of STATS', result);
    const values = new BigUint64Array(found.length);
    for (const [at, row] of keys.entries()) values.set(found.subarray(at * words, (at + 1) * words), row * words);
    return values;
  }

  #difference(before: BigUint64Array, after: BigUint64Array): Moved<Name> {
    const moved: { [L in Name]?: Record<string, number> } = {};
    for (let at = 0; at < after.length; at++) {
      const counter = COUNTERS[at % WORDS];
      if (after[at] === before[at] || counter === undefined) continue;
      const name = this.#names[Math.floor(at / WORDS / this.#cpus)]!;
      const counters = moved[name] ?? {};
      counters[counter] = (counters[counter] ?? 0) + Number(after[at]! - before[at]!);
      moved[name] = counters;
    }
    return moved;
  }
}

/** The listener that a plan describes. */
export function listenerOf(id: number, name: string, { bind, to, on = ['eth0'] }: Plan): Listener {
  const list = to.map((one): Downstream => {
    const [address, weight, node] = typeof one === 'string' ? [one, 1] : one;
    return { address: parseAddress(address), weight, ...(node !== undefined && { node }) };
  });
  return aListener({ id, name, bind: parseAddress(bind), interfaces: on, endpoints: { kind: 'static', list } });
}
