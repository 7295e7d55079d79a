/**
 * Why the kernel refused, in one line. Nothing is asked beforehand: what could explain a refusal is looked at only when
 * there is one.
 */
import { readFileSync } from 'node:fs';
import { constants, release } from 'node:os';
import { type Capability, missingCapabilities } from '../capabilities.ts';
import type { SystemError } from '../ffi/errno.ts';
import { isMemoryLimited, type Limit, memoryShortage, readMemlock } from './memlock.ts';

const { EPERM, EACCES, ENOENT, EOPNOTSUPP } = constants.errno;

/** What the kernel path cannot do without. */
const NEEDED = ['BPF', 'NET_ADMIN', 'PERFMON'] as const;

/** What explains a refusal. */
export interface Surroundings {
  readonly release: () => string;
  readonly missing: () => readonly Capability[];
  readonly memlock: () => Limit;
  /** The sysctl kernel.modules_disabled is set: what is not loaded will not be. */
  readonly modulesDisabled: () => boolean;
}

export const surroundings: Surroundings = {
  release,
  missing: () => missingCapabilities(NEEDED),
  memlock: readMemlock,
  modulesDisabled: () => {
    try {
      return readFileSync('/proc/sys/kernel/modules_disabled', 'utf8').trim() === '1';
    } catch {
      return false;
    }
  },
};

/** The program that was to be loaded. */
export interface ObjectFile {
  readonly path: string;
  /** As it calls itself; undefined if the object does not tell. */
  readonly compiler: string | undefined;
}

const UNKNOWN = 'compiler unknown';

/** `Linux 6.1.0-40-amd64, BPF object "/app/udp_fanout.bpf.o", Debian clang version 14.0.6`. */
function who({ path, compiler = UNKNOWN }: ObjectFile, around: Surroundings): string {
  return `Linux ${around.release()}, BPF object "${path}", ${compiler}`;
}

/** Why the object was not loaded; `log` is the verifier's, `needed` what its maps would take where memory is limited. */
export function loadRefusal(
  object: ObjectFile,
  refusal: { readonly error: SystemError; readonly log: string; readonly needed: number },
  around: Surroundings = surroundings,
): string {
  const { error, log, needed } = refusal;
  const { errno, code } = error;
  const missing = around.missing();
  // The verifier says EACCES too, of a program that it does not believe, and more of that where PERFMON is missing.
  if (errno === EPERM || (errno === EACCES && missing.length > 0)) {
    if (missing.length > 0) return permissionDenied(around);
    const limit = around.memlock();
    const isMemory = isMemoryLimited(around.release(), limit);
    const why = isMemory ? `failed to load BPF object: ${memoryShortage(limit, needed)}` : permissionDenied(around);
    return `${why} (${who(object, around)})`;
  }
  const words = lastWords(log);
  const said = words === '' ? 'and gives no reason' : `the verifier's last words: ${words}`;
  return `failed to load BPF object "${object.path}": Linux ${around.release()} refuses it, ${code}, ${said} (${object.compiler ?? UNKNOWN})`;
}

/** Why the program was not attached: `clsact on eth0: ENOENT` is what the kernel says where it has no clsact. */
export function attachRefusal(object: ObjectFile, error: SystemError, around: Surroundings = surroundings): string {
  const { errno, message, operation } = error;
  if (errno === EPERM && around.missing().length > 0) return permissionDenied(around);
  if (errno === EPERM) return `${permissionDenied(around)} (${who(object, around)})`;
  const absent = errno === ENOENT || errno === EOPNOTSUPP ? absence(operation, around) : '';
  return `failed to attach TC program: ${message}${absent} (${who(object, around)})`;
}

/** The parts of the kernel that an attachment needs, each a module in most distributions (net/sched/Kconfig). */
function absence(operation: string, around: Surroundings): string {
  const [what, module, option] = operation.startsWith('clsact')
    ? ['qdisc clsact', 'sch_ingress', 'CONFIG_NET_SCH_INGRESS']
    : ['filter bpf', 'cls_bpf', 'CONFIG_NET_CLS_BPF'];
  const load = around.modulesDisabled()
    ? `name ${module} in /etc/modules-load.d, since kernel.modules_disabled lets none be loaded now`
    : `modprobe ${module} on the node (${option}; some distributions have it in a package of further modules)`;
  return `: this kernel has no ${what}: ${load}`;
}

/** The guide's error, with the capabilities that are missing where that is the reason. */
export function permissionDenied(around: Surroundings = surroundings): string {
  const missing = around.missing();
  const mend =
    missing.length > 0
      ? `missing capability ${missing.join(', ')}: add it under securityContext.capabilities.add`
      : 'all capabilities are there, so a security module (SELinux, AppArmor, lockdown) refuses: see its audit log';
  return `failed to attach TC program: permission denied: ${mend}`;
}

/** What a map that is made later was refused for, behind the error itself; '' where that is not known. */
export function mapRefusal(errno: number, around: Surroundings = surroundings): string {
  const limit = around.memlock();
  return errno === EPERM && isMemoryLimited(around.release(), limit) ? memoryShortage(limit) : '';
}

/** What a verifier adds to its reasons (kernel/bpf/verifier.c): the functions it found, and at the end its figures. */
const FIGURES = /^(func#|processed \d+ insns|verification time|stack depth)/;
const LAST = 2;
const LONGEST = 300;

/** The last lines of a verifier's log that say something: the place and the reason. */
export function lastWords(log: string): string {
  const lines = log.split('\n').map((line) => line.trim());
  const saying = lines.filter((line) => line !== '' && !FIGURES.test(line));
  return saying.slice(-LAST).join('; ').slice(-LONGEST);
}
