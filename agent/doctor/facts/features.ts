/** NIC features that are on, as `ethtool -k` lists them, without ethtool (linux/ethtool.h). */
import { FAMILIES } from '../../address.ts';
import { cString } from '../../ffi/c-string.ts';
import { ethtool } from '../../ffi/inspect.ts';
import { libc, SOCK_CLOEXEC, SOCK_DGRAM } from '../../ffi/libc.ts';

const ETHTOOL = { GSTRINGS: 0x1b, GSSET_INFO: 0x37, GFEATURES: 0x3a } as const;
const FEATURES_SET = 4; // ETH_SS_FEATURES
const NAME_BYTES = 32;
/** struct ethtool_get_features_block: available, requested, active, never_changed. */
const BLOCK_BYTES = 16;
const ACTIVE = 8;

/** The names of an interface's active features; undefined where the kernel does not tell. */
export function readFeatures(name: string): ReadonlySet<string> | undefined {
  const fd = libc.socket(FAMILIES[4].af, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return undefined;
  try {
    const count = featureCount(fd, name);
    return count === undefined ? undefined : activeFeatures(fd, name, count);
  } finally {
    libc.close(fd);
  }
}

function featureCount(fd: number, name: string): number | undefined {
  const command = new Uint8Array(24);
  const view = new DataView(command.buffer);
  view.setUint32(0, ETHTOOL.GSSET_INFO, true);
  view.setBigUint64(8, 1n << BigInt(FEATURES_SET), true);
  return ethtool(fd, name, command) ? view.getUint32(16, true) : undefined;
}

function activeFeatures(fd: number, name: string, count: number): ReadonlySet<string> | undefined {
  const strings = new Uint8Array(12 + count * NAME_BYTES);
  const stringsView = new DataView(strings.buffer);
  stringsView.setUint32(0, ETHTOOL.GSTRINGS, true);
  stringsView.setUint32(4, FEATURES_SET, true);
  stringsView.setUint32(8, count, true);
  const blocks = Math.ceil(count / 32);
  const features = new Uint8Array(8 + blocks * BLOCK_BYTES);
  const featuresView = new DataView(features.buffer);
  featuresView.setUint32(0, ETHTOOL.GFEATURES, true);
  featuresView.setUint32(4, blocks, true);
  if (!ethtool(fd, name, strings) || !ethtool(fd, name, features)) return undefined;
  const isActive = (bit: number) =>
    (featuresView.getUint32(8 + (bit >> 5) * BLOCK_BYTES + ACTIVE, true) & (1 << (bit & 31))) !== 0;
  const names = Array.from({ length: count }, (_, bit) => {
    const at = 12 + bit * NAME_BYTES;
    return cString(strings.subarray(at, at + NAME_BYTES));
  });
  return new Set(names.filter((_, bit) => isActive(bit)));
}
