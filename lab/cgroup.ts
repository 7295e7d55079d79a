/** Control groups of tests' own, for processes that are to have little of something; either version of them. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const ROOT = '/sys/fs/cgroup';

export type Controller = 'pids' | 'cpu';

/** Why there can be no group with these controllers here, or undefined: the text of a skipped test. */
export function cgroupObstacle(...controllers: readonly Controller[]): string | undefined {
  for (const controller of controllers) {
    if (parentOf(controller) === undefined) return `control groups need the controller ${controller}`;
    try {
      new Cgroup(controller).remove();
    } catch (error) {
      return `control groups cannot be made: ${(error as Error).message}`;
    }
  }
  return undefined;
}

export class Cgroup {
  static #made = 0;
  readonly #path: string;

  constructor(controller: Controller) {
    this.#path = `${parentOf(controller)}/udp-fanout-test-${process.pid}-${++Cgroup.#made}`;
    mkdirSync(this.#path);
  }

  /** A command that runs another one in the group. */
  get under(): string[] {
    return ['sh', '-c', `echo $$ > ${this.#path}/cgroup.procs && exec "$@"`, 'sh'];
  }

  /** At most so many threads. */
  limitThreads(most: number): void {
    writeFileSync(`${this.#path}/pids.max`, String(most));
  }

  /** At most so much CPU time for each unit of time. */
  limitCpus(cpus: number): void {
    const quota = `${this.#path}/cpu.cfs_quota_us`;
    if (existsSync(quota)) writeFileSync(quota, String(cpus * 100_000));
    else writeFileSync(`${this.#path}/cpu.max`, `${cpus * 100_000} 100000`);
  }

  /** Once its processes have ended. */
  async close(): Promise<void> {
    for (let tries = 0; readFileSync(`${this.#path}/cgroup.procs`, 'utf8') !== '' && tries < 100; tries++)
      await sleep(20);
    this.remove();
  }

  remove(): void {
    rmdirSync(this.#path);
  }
}

/** The folder below which groups of a controller are made: version 1 has one for each, version 2 one for all. */
function parentOf(controller: Controller): string | undefined {
  if (existsSync(`${ROOT}/${controller}/cgroup.procs`)) return `${ROOT}/${controller}`;
  const enabled = `${ROOT}/cgroup.subtree_control`;
  return existsSync(enabled) && readFileSync(enabled, 'utf8').split(/\s/).includes(controller) ? ROOT : undefined;
}
