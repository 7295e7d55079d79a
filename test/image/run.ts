/**
 * `npm run test:image`: builds the image for real and runs the agent out of it. As root, on Debian or Ubuntu; what builds
 * images is fetched by apt where it is missing.
 */
import { install } from '../../setup/packages.mjs';
import { Builder } from './builder.ts';
import { contents, sizeOf } from './contents.ts';
import { alone, type Deployed, inPod } from './deployed.ts';

/** What is to be so, and what throws where it is not. */
export type Check = readonly [what: string, check: () => unknown];

const NEEDED = { mmdebstrap: 'mmdebstrap', buildah: 'buildah' };

function obstacle(): string | undefined {
  if (process.getuid?.() !== 0) return 'it needs root, for namespaces and file systems of other owners';
  return install(NEEDED);
}

function timed<T>(what: string, work: () => T): T {
  const started = performance.now();
  const result = work();
  print(`${what}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

const print = (line: string) => process.stdout.write(`${line}\n`);

let failed = 0;
let passed = 0;
async function check(checks: readonly Check[]): Promise<void> {
  for (const [what, holds] of checks) {
    try {
      await holds();
      passed++;
      print(`ok      ${what}`);
    } catch (error) {
      failed++;
      print(`FAILED  ${what}\n${(error as Error).message}`);
    }
  }
}

async function main(): Promise<void> {
  const why = obstacle();
  if (why !== undefined) {
    print(`skipped: ${why}`);
    return;
  }
  using builder = new Builder();
  timed('base', () => builder.makeBase());
  timed('image', () => builder.build());
  const root = builder.unpacked();
  print(`unpacked: ${(sizeOf(root) / 1e6).toFixed(0)} MB`);
  await check(contents(root, builder.config()));
  for (const deploy of [inPod, alone]) {
    const deployed: Deployed = await deploy(root);
    try {
      await check(deployed.checks);
    } finally {
      await deployed.close();
    }
  }
}

const started = performance.now();
await main();
print(`${passed} passed, ${failed} failed, ${((performance.now() - started) / 1000).toFixed(0)} s`);
process.exitCode = failed === 0 ? 0 : 1;
