/** How large the program's maps are made: what the listeners need, and less of the rest where memory is limited. */
import { familiesOf, type Listener } from '../../model.ts';
import { CONSTANTS, LAYOUT } from './abi.ts';

/** Entries by map. */
export interface Sizes {
  readonly STATS: number;
  readonly BINDS: number;
  readonly ADDRESSES: number;
  readonly FRAGMENTS: number;
}

const LEAST_BINDS = 64;
/** Smaller maps are tried in these steps: a node has ten addresses, or with IPVS some ten thousand. */
const PARTS = [4, 16];

export function sizesFor(listeners: readonly Pick<Listener, 'bind' | 'interfaces'>[]): Sizes {
  const binds = listeners.map((listener) => listener.interfaces.length * familiesOf(listener).length);
  return {
    STATS: Math.max(1, listeners.length),
    // An interface that goes and comes back has its new entry before the old one is removed.
    BINDS: Math.max(LEAST_BINDS, 2 * binds.reduce((sum, one) => sum + one, 0)),
    ADDRESSES: CONSTANTS.MAX_ADDRESSES,
    FRAGMENTS: CONSTANTS.MAX_FRAGMENTED,
  };
}

/** The sizes to be tried one after the other, from those that are wanted to the smallest that still do. */
export function smallerSizes(wanted: Sizes): readonly Sizes[] {
  const part = (by: number) => ({
    ...wanted,
    ADDRESSES: Math.ceil(wanted.ADDRESSES / by),
    FRAGMENTS: Math.ceil(wanted.FRAGMENTS / by),
  });
  return [wanted, ...PARTS.map(part)];
}

/** What is said of maps that are smaller than wanted. */
export function lessenedMaps({ ADDRESSES, FRAGMENTS }: Sizes): string {
  const room = `${ADDRESSES} addresses of this node and ${FRAGMENTS} fragmented datagrams at once`;
  return `RLIMIT_MEMLOCK lets only smaller maps be made: room for ${room}: add the capability SYS_RESOURCE for more`;
}

/** What `attempt` gives for the first sizes that it does not throw `isShortage` for; throws what the last one throws. */
export function firstThatFits<T>(
  sizes: readonly Sizes[],
  attempt: (sizes: Sizes) => T,
  isShortage: (error: unknown) => boolean,
): T {
  const [first, ...rest] = sizes;
  try {
    return attempt(first!);
  } catch (error) {
    if (rest.length === 0 || !isShortage(error)) throw error;
    return firstThatFits(rest, attempt, isShortage);
  }
}

/**
 * Bytes that kernels before 5.11 charge for maps of these sizes and the program: a hash is charged whole, preallocated or not (struct
 * htab_elem and struct bucket of kernel/bpf/hashtab.c, on 64 bits).
 */
export function chargedBytes({ STATS, BINDS, ADDRESSES, FRAGMENTS }: Sizes, cpus: number): number {
  const hash = (entries: number, key: number, value: number) =>
    pages(entries * (48 + words(key) + words(value)) + 16 * 2 ** Math.ceil(Math.log2(entries)));
  const { address_key, bind_key, bind, fragment_key, fragment, stats } = LAYOUT;
  const ports = pages(65536) + PAGE;
  const rodata = 2 * PAGE;
  return (
    hash(ADDRESSES, address_key.size, 4) +
    hash(BINDS, bind_key.size, bind.size) +
    hash(FRAGMENTS, fragment_key.size, fragment.size) +
    pages(STATS * 8 * (1 + cpus * (stats.size / 8))) +
    pages(CONSTANTS.MAX_TABLES * 8) +
    ports +
    rodata +
    BESIDE
  );
}

const PAGE = 4096;
/** The program itself, and the slot tables of some dozen downstreams. */
const BESIDE = 65536;
const words = (bytes: number) => Math.ceil(bytes / 8) * 8;
const pages = (bytes: number) => Math.ceil(bytes / PAGE) * PAGE;
