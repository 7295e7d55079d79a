/** `npm run bench`: runs the benches by name, prints their figures, and writes them as JSON if asked. */
import { existsSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { labObstacle } from '../lab/lab.ts';
import { agent } from './agent.ts';
import { discovery } from './discovery.ts';
import { foreign } from './foreign.ts';
import { health } from './health.ts';
import { hitless } from './hitless.ts';
import { kernelPath } from './kernel-path.ts';
import { type Bench, isMet, jsonOf, type Report, tableOf } from './report.ts';
import { userspace } from './userspace.ts';

const BENCHES: readonly Bench[] = [kernelPath, foreign, agent, userspace, discovery, health, hitless];
const BUNDLE = join(import.meta.dirname, '../dist/udp-fanout.js');

const USAGE = `npm run bench [-- [--json FILE] [--candidate OBJ] [NAME...]]

  NAME             the benches to run; all of them if none is named:
${BENCHES.map(({ name, question }) => `    ${name.padEnd(14)} ${question}`).join('\n')}
  --json FILE      writes the figures there too, round by round
  --candidate OBJ  another build of the BPF object, held against the one in dist/ in the same run
`;

class UsageError extends Error {}

async function run(args: readonly string[]): Promise<void> {
  const { names, json, candidate, help } = parse(args);
  if (help) {
    process.stdout.write(USAGE);
    return;
  }
  const chosen = names.length > 0 ? names.map(benchNamed) : BENCHES;
  const obstacle = labObstacle();
  if (obstacle) throw new Error(obstacle);
  if (!existsSync(BUNDLE)) throw new Error(`${BUNDLE} not found: run npm run build`);

  const reports: (Report & Pick<Bench, 'name' | 'question'>)[] = [];
  for (const bench of chosen) {
    process.stdout.write(`${bench.name}: ${bench.question}\n`);
    const report = await bench.run(candidate ? { candidate: resolve(candidate) } : {});
    process.stdout.write(`${tableOf(report)}\n\n`);
    const missed = report.figures.filter((figure) => isMet(figure) === false);
    if (bench.strict && missed.length > 0) process.exitCode = 1;
    reports.push({ name: bench.name, question: bench.question, ...report });
  }
  if (json !== undefined) writeFileSync(json, jsonOf(reports));
}

function parse(args: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { json: { type: 'string' }, candidate: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    });
    return { ...values, names: positionals };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function benchNamed(name: string): Bench {
  const found = BENCHES.find((bench) => bench.name === name);
  if (!found) throw new UsageError(`bench "${name}": want one of ${BENCHES.map((bench) => bench.name).join(', ')}`);
  return found;
}

try {
  await run(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  if (error instanceof UsageError) process.stderr.write(`\n${USAGE}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
