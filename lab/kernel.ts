/**
 * What tests need of the kernel and of the machine beyond the oldest that we support: the one place that knows. Tried where
 * a try is cheap and leaves nothing, else told by the release; and the text of a test that is skipped for want of it.
 */
import { execFileSync } from 'node:child_process';
import { release } from 'node:os';
import { versionOf } from '../agent/kernel/features.ts';

interface Need {
  readonly reason: string;
  readonly met: () => boolean;
}

const OVER_VETH = 'ip link add under type veth && ip link add link under name over type vlan id 7';

const NEEDS = {
  live_rename: since('6.2', 'an interface that is up gets another name'),
  live_frames: since('5.18', 'BPF_PROG_TEST_RUN that sends XDP frames'),
  gro_forwarding: since('5.12', 'the NIC feature rx-udp-gro-forwarding'),
  // Earlier ones may have it from their stable releases, as Debian's 5.10 has.
  neighbour_state: since('6.1', 'a FIB look-up that tells neighbours that have failed'),
  tcx: since('6.6', 'tcx'),
  clang: command('clang', ['--version'], 'clang, which compiles the BPF program of this test'),
  vxlan: linkType('vxlan id 1 dstport 4789'),
  // Over a veth, since the loopback interface takes none.
  vlan: command('unshare', ['--net', 'sh', '-c', OVER_VETH], 'the module 8021q'),
  geneve: linkType('geneve id 1 remote 192.0.2.1'),
  nftables: command('unshare', ['--net', 'nft', 'add', 'table', 'inet', 'probe'], 'nft and the module nf_tables'),
} satisfies Record<string, Need>;

export type NeedName = keyof typeof NEEDS;

const answers = new Map<NeedName, boolean>();

/** What is missing here of what a test needs: `needs Linux 6.6: tcx`. Undefined if nothing is. */
export function lacking(...names: readonly NeedName[]): string | undefined {
  const missing = names.find((name) => !isMet(name));
  return missing && `needs ${NEEDS[missing].reason}`;
}

/** A test's title, with the reason where it is skipped. */
export function titled(text: string, obstacle: string | undefined): string {
  return obstacle ? `${text} (skipped: ${obstacle})` : text;
}

/** Whether a release, such as `5.10.0-30-cloud-amd64`, is this one or later: `5.10`. */
export function isAtLeast(wanted: string, running: string): boolean {
  return (versionOf(running) ?? 0) >= versionOf(wanted)!;
}

function isMet(name: NeedName): boolean {
  const known = answers.get(name) ?? NEEDS[name].met();
  answers.set(name, known);
  return known;
}

function since(version: string, what: string): Need {
  return { reason: `Linux ${version}: ${what}`, met: () => isAtLeast(version, release()) };
}

function command(name: string, args: readonly string[], reason: string): Need {
  return { reason, met: () => succeeds(name, args) };
}

/** A kind of link, whose module may not be there; tried in a network namespace that goes with the try. */
function linkType(words: string): Need {
  const args = ['--net', 'ip', 'link', 'add', 'probe', 'type', ...words.split(' ')];
  return { reason: `the module ${words.split(' ')[0]}`, met: () => succeeds('unshare', args) };
}

function succeeds(name: string, args: readonly string[]): boolean {
  try {
    execFileSync(name, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
