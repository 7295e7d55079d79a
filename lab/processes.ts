/** Processes by id: who lives in a namespace, who still runs, and how they are ended. */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { patient } from './patience.ts';

/** When a running process started, in clock ticks since boot; undefined if it has ended: with its id this names it for good. */
export function startTime(pid: number): string | undefined {
  return runs(pid) ? stat(pid)?.[19] : undefined;
}

/** The processes whose network namespace is one of those behind `paths`, this one excepted. */
export function membersOf(paths: readonly string[]): number[] {
  const inodes = new Set(paths.map((path) => `net:[${statSync(path, { throwIfNoEntry: false })?.ino}]`));
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => pid !== process.pid && inodes.has(namespaceOf(pid)));
}

/** Ends processes by id: SIGTERM, then after `grace` ms SIGKILL. Returns when none runs any more; blocks meanwhile. */
export function endProcesses(pids: readonly number[], grace = patient(2000)): void {
  signal(pids, 'SIGTERM');
  const stubborn = waitForEnd(pids, grace);
  signal(stubborn, 'SIGKILL');
  waitForEnd(stubborn, patient(1000));
}

/** Blocks this thread. */
export function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function waitForEnd(pids: readonly number[], ms: number): number[] {
  const deadline = performance.now() + ms;
  let left = pids.filter(runs);
  while (left.length > 0 && performance.now() < deadline) {
    sleepSync(2);
    left = left.filter(runs);
  }
  return left;
}

function signal(pids: readonly number[], name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      // It ended by itself.
    }
  }
}

function runs(pid: number): boolean {
  // A zombie has let go of its namespace and sockets; it waits for its parent, perhaps this blocked thread, to notice.
  const state = stat(pid)?.[0];
  return state !== undefined && state !== 'Z' && state !== 'X';
}

/** The fields of /proc/PID/stat from the state on (proc_pid_stat(5), field 3). */
function stat(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function namespaceOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return '';
  }
}
