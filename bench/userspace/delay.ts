/** How much later datagrams arrive for being forwarded. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Course, CPU, FIRST, PORT } from './course.ts';
import type { Peer } from './forwarders.ts';
import { compiled } from './programs.ts';

/** The pods' other port, where the bench itself listens. */
const LISTEN = 9001;

const WARM_UP = { rate: 20_000, seconds: 1 } as const;

export interface Delay {
  readonly p50: number;
  readonly p99: number;
}

/** Microseconds that `peer` adds to the way from the client into a pod, at so many datagrams a second. */
export async function addedDelay(course: Course, peer: Peer, rate: number, seconds: number): Promise<Delay> {
  const { node, pods } = course.topology;
  const direct = await measure(course, `${pods[0]!.ip} ${LISTEN}`, rate, seconds);
  const { topology, directory } = course;
  const forwarder = await peer.start({ topology, directory, downstreams: [`${pods[0]!.ip}:${LISTEN}`] });
  try {
    // What a program does only once, at its first datagrams, is over by then.
    await measure(course, `${node.ip} ${PORT}`, WARM_UP.rate, WARM_UP.seconds);
    const forwarded = await measure(course, `${node.ip} ${PORT}`, rate, seconds);
    return { p50: forwarded.p50 - direct.p50, p99: forwarded.p99 - direct.p99 };
  } finally {
    await forwarder.stop();
  }
}

async function measure(course: Course, to: string, rate: number, seconds: number): Promise<Delay> {
  const { client, pods } = course.topology;
  const program = compiled('latency', course.directory);
  const receiver = pods[0]!.namespace.spawn(program, ['receive', String(LISTEN)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(receiver.stdout!, 'data');
  const args = [
    ...FIRST.slice(1),
    'taskset',
    '-c',
    String(CPU.sender),
    program,
    'send',
    ...to.split(' '),
    String(seconds),
    String(rate),
  ];
  await once(client.namespace.spawn(FIRST[0], args, { stdio: 'inherit' }), 'exit');
  // The last one may still be under way.
  await sleep(200);
  receiver.stdin!.end();
  const [line] = (await once(receiver.stdout!, 'data')) as [Buffer];
  const [count = 0, p50 = 0, p99 = 0] = String(line).split(' ').map(Number);
  if (count < rate * seconds * 0.99) throw new Error(`latency to ${to}: ${count} of ${rate * seconds} datagrams came`);
  return { p50, p99 };
}
