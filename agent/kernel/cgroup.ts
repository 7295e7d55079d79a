/**
 * What the control groups leave this process (cgroups(7); Documentation/admin-guide/cgroup-v2.rst): the least of its own
 * group and of those above it, as far up as is mounted here. In a container the topmost of these is mostly the pod's.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Infinite where nothing is set. */
export interface CgroupLimits {
  /** CPU time for each unit of time: 1.5 is one CPU and a half. */
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
}

/** A file's text; undefined where there is no such file. */
type Read = (path: string) => string | undefined;

export function cgroupLimits(read: Read = readIfThere): CgroupLimits {
  const folders = ownFolders(read);
  return {
    cpus: Math.min(...folders.map((folder) => cpusOf(folder, read)), Number.POSITIVE_INFINITY),
    memory: Math.min(...folders.map((folder) => memoryOf(folder, read)), Number.POSITIVE_INFINITY),
  };
}

/** Version 2: `MAX PERIOD`; version 1: two files, the first of them -1 without a limit. In microseconds. */
function cpusOf(folder: string, read: Read): number {
  const [max, period] = read(`${folder}/cpu.max`)?.split(' ') ?? [
    read(`${folder}/cpu.cfs_quota_us`),
    read(`${folder}/cpu.cfs_period_us`),
  ];
  const cpus = Number(max) / Number(period);
  return cpus > 0 ? cpus : Number.POSITIVE_INFINITY;
}

/** `max`, or in version 1 a number beyond any memory, is no limit. */
function memoryOf(folder: string, read: Read): number {
  const bytes = Number(read(`${folder}/memory.max`) ?? read(`${folder}/memory.limit_in_bytes`));
  return bytes > 0 ? bytes : Number.POSITIVE_INFINITY;
}

/** The folders of this process's groups in every hierarchy that is mounted here, and those above them. */
function ownFolders(read: Read): string[] {
  const groups = linesOf(read('/proc/self/cgroup')).map((line) => /^\d+:([^:]*):(.*)$/.exec(line) ?? []);
  return linesOf(read('/proc/self/mountinfo')).flatMap((line) => {
    const [, root, mount, type, options] = /^\S+ \S+ \S+ (\S+) (\S+) .*? - (cgroup2?) \S+ (\S+)$/.exec(line) ?? [];
    if (root === undefined || mount === undefined || options === undefined) return [];
    // The hierarchy of version 2 has no controllers in /proc/self/cgroup, one of version 1 has them in its options.
    const controllers = type === 'cgroup2' ? [''] : options.split(',');
    const [, , path] = groups.find(([, names]) => names?.split(',').some((name) => controllers.includes(name))) ?? [];
    return path === undefined ? [] : upwards(mount, below(root, path));
  });
}

/** A group's path below the one that is mounted; the mounted one itself where it is not below. */
function below(root: string, path: string): string {
  const base = root === '/' ? '' : root;
  return path.startsWith(`${base}/`) && !path.includes('/..') ? path.slice(base.length) : '/';
}

function upwards(mount: string, path: string): string[] {
  const names = path.split('/').filter((name) => name !== '');
  return [mount, ...names.map((_, depth) => join(mount, ...names.slice(0, depth + 1)))];
}

function linesOf(text = ''): string[] {
  return text.split('\n');
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
