/**
 * One peer's ground: a client with the generator, a node that carries what is measured, three pods with sinks (the
 * lab's single node, routed). Each peer has a lane of its own, so that nothing is attached or removed between the slices of a run.
 */
import { udp4 } from '../../lab/frame.ts';
import { pause } from '../../lab/patience.ts';
import { type SingleNode, singleNode } from '../../lab/single-node.ts';
import { FRAME_BYTES } from '../../lab/test-run.ts';
import { Generator } from './generator.ts';
import { Sink } from './sink.ts';

export const LISTENER_PORT = 5514;
const SENDER_PORT = 40000;
const UDP4_HEADERS = 14 + 20 + 8;
/** Where nothing has arrived for so long after the generator ended, nothing is on its way. */
const SETTLE_MS = 50;

/** What a lane carried in one slice. */
export interface Slice {
  readonly sent: number;
  readonly seconds: number;
  /** By sink. */
  readonly arrived: readonly number[];
  /** Arrivals with a wrong or missing checksum, if they were looked at. */
  readonly wrong: number;
}

export class Lane implements Disposable {
  readonly name: string;
  readonly topology: SingleNode;
  readonly #generator: Generator;
  readonly #sinks: readonly Sink[];

  /** Builds it; `sinksAt` says whether datagrams end in the pods or on the node's own NIC, as soon as they come. */
  constructor(name: string, sinksAt: 'pods' | 'node' = 'pods') {
    this.name = name;
    this.topology = singleNode();
    const { node, client, pods } = this.topology;
    const { namespace } = node;
    // Nobody's answer is waited for, and no entry grows old in the middle of a slice.
    namespace.ip(pods.map(({ ip, mac, hostInterface }) => `neigh add ${ip} lladdr ${mac} dev ${hostInterface}`));
    namespace.run('ethtool', ['-K', node.nic, 'gro', 'on']);
    const ends = sinksAt === 'pods' ? pods : [node];
    this.#sinks = ends.map((end) => new Sink(end.namespace, end.nic, namespace.directory));
    const payload = Buffer.alloc(FRAME_BYTES - UDP4_HEADERS, 'udp-fanout');
    const frame = udp4({ src: client.ip, dst: node.ip, sport: SENDER_PORT, dport: LISTENER_PORT, payload });
    this.#generator = new Generator(client.namespace, client.nic, frame, namespace.directory);
  }

  /** Sends so many frames, in at most about `limit` seconds, and waits until the last has arrived. */
  async run(frames: number, limit: number): Promise<Slice> {
    const before = this.#sinks.map((sink) => sink.read());
    const load = this.#generator.send(frames, limit);
    const after = await this.#settled();
    const wrong = after.reduce((sum, arrivals, at) => sum + arrivals.wrong - before[at]!.wrong, 0);
    return { ...load, arrived: after.map(({ datagrams }, at) => datagrams - before[at]!.datagrams), wrong };
  }

  /** A slice whose checksums are looked at; it says nothing of speed. */
  async prove(frames: number): Promise<Slice> {
    for (const sink of this.#sinks) sink.verify(true);
    const slice = await this.run(frames, 1);
    for (const sink of this.#sinks) sink.verify(false);
    return slice;
  }

  [Symbol.dispose](): void {
    this.topology.close();
  }

  async #settled() {
    const read = () => this.#sinks.map((sink) => sink.read());
    for (let last = read(); ; ) {
      await pause(SETTLE_MS);
      const now = read();
      if (now.every(({ datagrams }, at) => datagrams === last[at]!.datagrams)) return now;
      last = now;
    }
  }
}
