/** The command line: what was asked, or why it cannot be. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { isWildcard } from './address.ts';
import { ConfigError, loadConfig } from './config/load.ts';
import { LOG_FORMATS, LOG_LEVELS } from './config/schema.ts';
import { detachAll, interfacesWithOurs } from './datapath/tc/clsact.ts';
import { askAgent } from './lock.ts';
import type { LogFormat, LogLevel } from './log.ts';
import { memoryNeed, memoryRemark } from './memory-need.ts';
import { openHost } from './netlink/host.ts';
import { written } from './output.ts';
import { type AgentOptions, runAgent } from './run.ts';
import { version } from './version.ts';

const USAGE = `udp-fanout: spreads UDP datagrams over live downstreams, one each, source intact

  udp-fanout --config FILE [--log-level L] [--log-format text|json] [--ebpf-program OBJ] [--takeover]
                            runs the agent; with --takeover in the place of one that runs here,
                            and stands by once another one takes over from it
  udp-fanout check FILE     validates a config: every mistake with its line
  udp-fanout doctor [--config FILE] [--json] [--ebpf-program OBJ]
                            looks at this machine: a line for each finding, ok, warn or fail, and what to do
  udp-fanout detach         removes every attachment of udp-fanout from this host
  udp-fanout --help | --version
`;

/** For the last words of an agent whose log nobody reads: it has to end, and be started again. */
const LAST_WORDS_MS = 5000;

const EXIT = { ok: 0, failure: 1, usage: 2 } as const;

class UsageError extends Error {}

/**
 * Runs one command, until all that it says is written; the exit code is 0, 1 for a failure at run time, 2 for bad usage
 * or config.
 */
export async function run(args: readonly string[]): Promise<number> {
  const code = await outcome(args);
  await written(COMMANDS.has(args[0] ?? '') ? undefined : LAST_WORDS_MS);
  return code;
}

async function outcome(args: readonly string[]): Promise<number> {
  const [command = '', ...rest] = args;
  try {
    return await (COMMANDS.get(command)?.(rest) ?? runAgent(agentOptions(args)));
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    if (error instanceof UsageError) process.stderr.write(`\n${USAGE}`);
    if (error instanceof ConfigError && !COMMANDS.has(command)) process.stderr.write(await whatGoesOn());
    return error instanceof UsageError || error instanceof ConfigError ? EXIT.usage : EXIT.failure;
  }
}

/** What an agent that is gone has left at work, where this one cannot start; empty where there is nothing, or it cannot be seen. */
async function whatGoesOn(): Promise<string> {
  // The program of an agent that runs ends by other means.
  if ((await askAgent()) !== undefined) return '';
  const names = attached();
  if (names.length === 0) return '';
  const until = 'until its lease runs out, or `udp-fanout detach` removes it';
  return `the program that is attached to ${names.join(', ')} goes on by the config before, ${until}\n`;
}

function attached(): readonly string[] {
  try {
    const host = openHost();
    try {
      return interfacesWithOurs(host);
    } finally {
      host.close();
    }
  } catch {
    return [];
  }
}

/** Whatever is none of these runs the agent. */
const COMMANDS = new Map<string, (args: readonly string[]) => number | Promise<number>>([
  ['check', checkConfig],
  ['doctor', examine],
  ['detach', detachEverything],
  ['', () => say(USAGE, EXIT.usage)],
  ['--help', () => say(USAGE)],
  ['-h', () => say(USAGE)],
  ['--version', () => say(`${version()}\n`)],
]);

function say(text: string, code: number = EXIT.ok): number {
  process.stdout.write(text);
  return code;
}

function checkConfig(args: readonly string[]): number {
  const [file, ...more] = args;
  if (file === undefined || more.length > 0) throw new UsageError('check wants one file');
  const { listeners } = loadConfig(file);
  // Where it is checked is seldom where it will run.
  const { means, mend } = memoryRemark(memoryNeed(listeners));
  const shared = listeners.filter(({ bind, endpoints }) => {
    return (
      isWildcard(bind) &&
      endpoints.kind === 'static' &&
      endpoints.list.some(({ address }) => address.port === bind.port)
    );
  });
  const remarks = [
    ...shared.map(({ name, bind }) => `note: ${samePort(name, bind.port)}`),
    ...(mend === undefined ? [] : [`${means}: ${mend}`]),
  ];
  const lines = [`ok, ${listeners.length} listener${listeners.length === 1 ? '' : 's'}`, ...remarks];
  return say(lines.map((line) => `${file}: ${line}\n`).join(''));
}

/** What the file alone does not tell: whether a receiver is a pod, or on the host network of a node that runs this too. */
function samePort(name: string, port: number): string {
  return `listener "${name}" and downstreams of it have port ${port}: fine for pods, but receivers on the host network of nodes that run this config need another port, or their datagrams may be spread again`;
}

async function examine(args: readonly string[]): Promise<number> {
  const { values } = parse(args, {
    config: { type: 'string' },
    'ebpf-program': { type: 'string' },
    json: { type: 'boolean' },
  });
  // Loaded only for this command: the agent has no use for it.
  const { runDoctor } = await import('./doctor/doctor.ts');
  return runDoctor({
    objectPath: values['ebpf-program'] ?? defaultObject(),
    json: values.json ?? false,
    ...(values.config !== undefined && { config: values.config }),
  });
}

function detachEverything(args: readonly string[]): number {
  if (args.length > 0) throw new UsageError('detach wants no arguments');
  const host = openHost();
  try {
    const names = detachAll(host);
    for (const name of names) process.stdout.write(`detached from interface "${name}"\n`);
    if (names.length === 0) process.stdout.write('nothing of udp-fanout is attached on this host\n');
    return EXIT.ok;
  } finally {
    host.close();
  }
}

function agentOptions(args: readonly string[]): AgentOptions {
  const { values } = parse(args, {
    config: { type: 'string' },
    'log-level': { type: 'string' },
    'log-format': { type: 'string' },
    'ebpf-program': { type: 'string' },
    takeover: { type: 'boolean' },
  });
  if (values.config === undefined) throw new UsageError('--config FILE is missing');
  const logLevel = oneOf<LogLevel>('--log-level', values['log-level'], LOG_LEVELS);
  const logFormat = oneOf<LogFormat>('--log-format', values['log-format'], LOG_FORMATS);
  return {
    config: values.config,
    objectPath: values['ebpf-program'] ?? defaultObject(),
    ...(logLevel && { logLevel }),
    ...(logFormat && { logFormat }),
    takeover: values.takeover ?? false,
  };
}

function parse<const Options extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: Options,
) {
  try {
    return parseArgs({ args: [...args], options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function oneOf<T extends string>(flag: string, value: string | undefined, allowed: readonly T[]): T | undefined {
  if (value === undefined || allowed.includes(value as T)) return value as T | undefined;
  throw new UsageError(`${flag} "${value}": want one of ${allowed.join(', ')}`);
}

/** Beside the bundle; in a checkout that runs from the sources, where the build puts it. */
function defaultObject(): string {
  const beside = fileURLToPath(new URL('./udp_fanout.bpf.o', import.meta.url));
  return existsSync(beside) ? beside : fileURLToPath(new URL('../dist/udp_fanout.bpf.o', import.meta.url));
}
