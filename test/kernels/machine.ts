/** A virtual machine: boots a kernel on the project's disks and hands on what it says, until it is off. */
import { spawn } from 'node:child_process';
import { accessSync, constants, createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Architecture } from '../apt/root.ts';
import type { Boot } from './boot.ts';
import { Listening, type Word } from './guest/words.ts';
import { native } from './project.ts';

export interface Machine {
  readonly architecture: Architecture;
  readonly boot: Boot;
  /** The root file system and the project, as disks; what is written to them is forgotten. */
  readonly root: string;
  readonly project: string;
  readonly parameters?: string | undefined;
  /** The guest's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Where the console goes. */
  readonly log: string;
  /** Milliseconds after which it is turned off. */
  readonly limit: number;
}

const CPUS = 2;
const MEGABYTES = 3072;

const QEMU: Readonly<Record<Architecture, { command: string; board: string; console: string; cpu: string }>> = {
  amd64: { command: 'qemu-system-x86_64', board: 'q35', console: 'ttyS0,115200', cpu: 'max' },
  // Without the real algorithm for pointer authentication, which costs half of the time.
  arm64: { command: 'qemu-system-aarch64', board: 'virt', console: 'ttyAMA0', cpu: 'max,pauth-impdef=on' },
};

/** Whether the machine runs on this one's own processor or is emulated, ten times slower. */
export function accelerated(architecture: Architecture): boolean {
  if (architecture !== native()) return false;
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Runs it to its end and calls `hear` for each word; throws if it did not come to the last one. */
export async function runMachine(machine: Machine, hear: (word: Word) => void): Promise<void> {
  const { command } = QEMU[machine.architecture];
  const child = spawn(command, qemuArguments(machine), { stdio: ['ignore', 'pipe', 'pipe'] });
  const log = createWriteStream(machine.log);
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const words = new Listening();
  let ended = false;
  let last = '';
  let trouble: string | undefined;
  const end = (why: string) => {
    trouble ??= why;
    kill();
  };
  const timer = setTimeout(() => end(`not done after ${machine.limit / 1000} s`), machine.limit);
  child.once('error', ({ message }) => end(message));
  child.stderr.on('data', (text) => {
    log.write(text);
    last = String(text).trim();
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    log.write(`${line}\n`);
    if (line.trim()) last = line.trim();
    const word = words.hear(line);
    if (!word) return;
    ended ||= word.kind === 'end';
    hear(word);
  });
  await new Promise((resolve) => child.once('close', resolve));
  clearTimeout(timer);
  process.off('exit', kill);
  log.end();
  if (!ended) trouble ??= 'the machine ended early';
  if (trouble) throw new Error(`${trouble}; the last line was "${last}"`);
}

function qemuArguments({ architecture, boot, root, project, parameters = '', env }: Machine): string[] {
  const { board, console, cpu } = QEMU[architecture];
  const fast = accelerated(architecture);
  const disks = [root, project, ...(boot.modules ? [boot.modules] : [])];
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  // Nothing behind guest_env but the variables: init splits them by commas.
  const line = `console=${console} quiet loglevel=1 mitigations=off no_timer_check panic=-1 random.trust_cpu=on ${parameters} guest_env=${variables.join(',')}`;
  // biome-ignore format: option and value side by side
  return [
    '-machine', board,
    '-accel', fast ? 'kvm' : 'tcg,thread=multi,tb-size=1024',
    '-cpu', fast ? 'host' : cpu,
    '-smp', String(CPUS),
    '-m', String(MEGABYTES),
    '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio',
    '-kernel', boot.image,
    '-initrd', boot.initrd,
    ...disks.flatMap((file) => ['-drive', `file=${file},if=virtio,format=raw,snapshot=on`]),
    '-append', line,
  ];
}
