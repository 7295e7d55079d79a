/** How large the program's maps are made: by the limits, and less where memory is limited. */
import { CONSTANTS, LAYOUT } from './abi.ts';

/** Entries by map. */
export interface Sizes {
  readonly STATS: number;
  readonly BINDS: number;
  readonly ADDRESSES: number;
  readonly FRAGMENTS: number;
  readonly PEERS: number;
  /** In bytes. */
  readonly SAFETY_NET: number;
}

/**
 * To be tried one after the other. A node has ten addresses, or with IPVS some ten thousand, so those and the fragments
 * give way first; rows for listeners cost little but on machines with many CPUs.
 */
export const SIZES: readonly Sizes[] = [
  {
    STATS: CONSTANTS.MAX_LISTENERS,
    BINDS: CONSTANTS.MAX_BINDS,
    ADDRESSES: CONSTANTS.MAX_ADDRESSES,
    FRAGMENTS: CONSTANTS.MAX_FRAGMENTED,
    PEERS: CONSTANTS.MAX_PEERS,
    SAFETY_NET: CONSTANTS.SAFETY_NET_BYTES,
  },
  { STATS: 256, BINDS: 2048, ADDRESSES: 16384, FRAGMENTS: 4096, PEERS: 256, SAFETY_NET: 1 << 19 },
  { STATS: 64, BINDS: 512, ADDRESSES: 4096, FRAGMENTS: 256, PEERS: 64, SAFETY_NET: 1 << 17 },
  { STATS: 16, BINDS: 128, ADDRESSES: 4096, FRAGMENTS: 256, PEERS: 16, SAFETY_NET: 1 << 17 },
];
/** Cells of slot tables that there must be memory for beside the maps: a dozen tables of a hundred downstreams. */
export const ROOM_FOR_TABLES = 8192;

/** What is said of maps that are smaller than wanted. */
export function lessenedMaps({ STATS, BINDS, ADDRESSES, FRAGMENTS }: Sizes): string {
  const room = `${STATS} listeners, ${BINDS} pairs of a bind and an interface, ${ADDRESSES} addresses of this node and ${FRAGMENTS} fragmented datagrams at once`;
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
 * Bytes that kernels before 5.11 charge for maps of these sizes and the program: a hash is charged whole, preallocated or
 * not (struct htab_elem and struct bucket of kernel/bpf/hashtab.c, on 64 bits).
 */
export function chargedBytes({ STATS, BINDS, ADDRESSES, FRAGMENTS, PEERS, SAFETY_NET }: Sizes, cpus: number): number {
  const hash = (entries: number, key: number, value: number) =>
    pages(entries * (48 + words(key) + words(value)) + 16 * 2 ** Math.ceil(Math.log2(entries)));
  const { address_key, bind_key, bind, peer_key, fragment_key, fragment, stats } = LAYOUT;
  const ports = pages(65536) + PAGE;
  const rodata = 2 * PAGE;
  const lease = 2 * PAGE;
  return (
    hash(ADDRESSES, address_key.size, 4) +
    hash(BINDS, bind_key.size, bind.size) +
    hash(PEERS, peer_key.size, 16) +
    hash(FRAGMENTS, fragment_key.size, fragment.size) +
    hash(STATS, 4, 8 + cpus * stats.size) +
    hash(STATS, 4, CONSTANTS.LISTENER_NOTE_BYTES) +
    pages(CONSTANTS.MAX_TABLES * 8) +
    SAFETY_NET +
    4 * PAGE +
    ports +
    rodata +
    lease +
    BESIDE
  );
}

const PAGE = 4096;
/** The program itself, and the slot tables of some dozen downstreams. */
const BESIDE = 65536;
const words = (bytes: number) => Math.ceil(bytes / 8) * 8;
const pages = (bytes: number) => Math.ceil(bytes / PAGE) * PAGE;
