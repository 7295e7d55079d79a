/** `npm run test:k8s` as it is, with the real server: its lines are checks of this run. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { ControlPlane } from './control-plane.ts';
import type { Report } from './report.ts';

const RUNNER = join(import.meta.dirname, '../conversation/k8s.ts');

export async function checkConversations(plane: ControlPlane, report: Report): Promise<void> {
  const env = { ...process.env, KUBECONFIG: plane.login('conversations', plane.administrator) };
  const child = spawn(process.execPath, [RUNNER], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  let checks = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    const [, verdict, what = ''] = /^(ok|not ok|skipped) (.*)/.exec(line) ?? [];
    const name = `conversation: ${what}`;
    if (verdict === undefined) continue;
    checks++;
    if (verdict === 'ok') report.pass(name);
    else if (verdict === 'skipped') report.skip(name.replace(/: [^:]*$/, ''), what.replace(/^.*: /, ''));
    else report.fail(name.replace(/, exchange \d+: .*/, ''), what);
  }
  const [code] = await ended;
  if (checks === 0) throw new Error(`the runner of the conversations ended with exit code ${code} and no check`);
}
