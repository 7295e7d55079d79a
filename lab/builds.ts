/** Other builds, to upgrade to and back: the same program in other instructions, and agent and program of another ABI. */
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildBpf } from '../setup/build.mjs';

const ROOT = join(import.meta.dirname, '..');
const OTHER_ABI = 77;

/** Compiles the program so that it does the same by other instructions; the path of its object. */
export function otherProgram(folder: string): string {
  const object = join(folder, 'other.bpf.o');
  buildBpf(object, join(ROOT, 'bpf'), ['-O3']);
  return object;
}

/** Compiles the program as one of another ABI; the path of its object. */
export function programOfOtherAbi(folder: string): string {
  const sources = join(folder, 'bpf');
  cpSync(join(ROOT, 'bpf'), sources, { recursive: true });
  edit(join(sources, 'udp_fanout.h'), /(?<=UDP_FANOUT_ABI )\d+/);
  const object = join(folder, 'udp_fanout.bpf.o');
  buildBpf(object, sources);
  return object;
}

/** An agent of another ABI beside its program: the bundle of dist/ with another number in it; the path to start it by. */
export function agentOfOtherAbi(folder: string): string {
  const dist = join(folder, 'other-abi', 'dist');
  mkdirSync(join(dist, '..'), { recursive: true });
  cpSync(join(ROOT, 'dist'), dist, { recursive: true });
  for (const name of ['package.json', 'node_modules']) symlinkSync(join(ROOT, name), join(dist, '..', name));
  const chunks = readdirSync(dist).map((name) => join(dist, name));
  // Bundling anew would take 20 s. The refusal of an object tells what the bundle calls the number.
  const refusal = /this agent needs version \$\{([\w$]+)\}/;
  const chunk = chunks.find((file) => file.endsWith('.js') && refusal.test(readFileSync(file, 'utf8')));
  const [, name] = refusal.exec(chunk ? readFileSync(chunk, 'utf8') : '') ?? [];
  if (!chunk || !name) throw new Error(`${dist}: no chunk that holds the ABI of an object against its own`);
  edit(chunk, new RegExp(`(?<=[, ]${name.replaceAll('$', '\\$')}=)\\d+`));
  programOfOtherAbi(dist);
  return join(dist, 'udp-fanout.js');
}

/** Throws where there is nothing to replace: the build would be the same one. */
function edit(file: string, number: RegExp): void {
  const text = readFileSync(file, 'utf8');
  if (!number.test(text)) throw new Error(`${file}: nothing like ${number}`);
  writeFileSync(file, text.replace(number, String(OTHER_ABI)));
}
