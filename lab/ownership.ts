/** Whose a lab is: told by the names of all that belongs to it, so that what a killed owner left can be removed. */
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { batch, NAMESPACE_DIRECTORY } from './namespace.ts';
import { endProcesses, membersOf, startTime } from './processes.ts';

// The owner's process id and start time, so that a reused id does not pass for the owner, then a random tag.
const LAB_ID = /^uf-(\d+)-(\d+)-[0-9a-f]{6}-/;

/** The beginning of the names of a new lab's namespaces and directories. */
export function newLabId(): string {
  return `uf-${process.pid}-${startTime(process.pid)}-${randomBytes(3).toString('hex')}-`;
}

/** Removes the labs whose owner no longer runs, processes in them included. */
export function removeAbandonedLabs(): void {
  for (const lab of new Set(findNames('').map((name) => LAB_ID.exec(name)![0]))) {
    const [, pid, start] = LAB_ID.exec(lab)!;
    if (startTime(Number(pid)) !== start) removeLab(lab);
  }
}

/** Ends `processes` and all in a lab's namespaces, then removes these and its directories; blocks until it is done. */
export function removeLab(id: string, processes: readonly number[] = []): void {
  const namespaces = findNames(id, [NAMESPACE_DIRECTORY]);
  const paths = namespaces.map((name) => join(NAMESPACE_DIRECTORY, name));
  endProcesses([...new Set([...processes, ...membersOf(paths)])]);
  try {
    batch(
      'ip',
      namespaces.map((name) => `netns del ${name}`),
      ['-force'],
    );
  } catch (error) {
    // Two labs that start at one moment may both be removing the same abandoned one.
    if (paths.some(existsSync)) throw error;
  }
  for (const name of findNames(id, [tmpdir()])) rmSync(join(tmpdir(), name), { recursive: true, force: true });
}

function findNames(id: string, directories = [NAMESPACE_DIRECTORY, tmpdir()]): string[] {
  const names = directories.flatMap((path) => (existsSync(path) ? readdirSync(path) : []));
  return names.filter((name) => LAB_ID.test(name) && name.startsWith(id));
}
