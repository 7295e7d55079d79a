/** The fake API server as a process in a host's namespace, where the agent of that host reaches it. */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Host } from '../host.ts';
import type { ApiAnswer, ApiCommand, Call } from './child.ts';
import type { Churn } from './churn.ts';
import type { Fault } from './faults.ts';
import { writeKubeconfig } from './kubeconfig.ts';
import type { FakeApiOptions } from './server.ts';
import type { ApiObject } from './store.ts';

export class RemoteApi {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  #errors = '';
  /** For the agent's environment: KUBECONFIG. */
  kubeconfig = '';

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stderr!.on('data', (text) => (this.#errors += text));
    this.#answers = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  }

  /** Starts it on the host's loopback. */
  static async start({ namespace }: Pick<Host, 'namespace'>, options: FakeApiOptions = {}): Promise<RemoteApi> {
    const args = [join(import.meta.dirname, 'child.ts'), JSON.stringify(options)];
    // What a test runner was started with is not for the program.
    const env = { ...process.env, NODE_OPTIONS: '' };
    const api = new RemoteApi(namespace.spawn(process.execPath, args, { env, stdio: 'pipe' }));
    const { url } = await api.#answer();
    const { tls } = options;
    api.kubeconfig = writeKubeconfig(namespace.directory, { url, ...(tls && { ca: tls.ca }) });
    return api;
  }

  apply(namespace: string, ...slices: readonly ApiObject[]): Promise<ApiAnswer> {
    return this.#call('apply', namespace, ...slices);
  }

  remove(namespace: string, ...names: readonly string[]): Promise<ApiAnswer> {
    return this.#call('remove', namespace, ...names);
  }

  fail(fault: Fault): Promise<ApiAnswer> {
    return this.#call('fail', fault);
  }

  deny(verb: string, namespace: string): Promise<ApiAnswer> {
    return this.#call('deny', verb, namespace);
  }

  /** Returns when the last change is made. */
  churn(changes: Churn): Promise<ApiAnswer> {
    return this.#call('churn', changes);
  }

  /** Kills it, and with it every connection; what it knows stays. */
  stop(): Promise<ApiAnswer> {
    return this.#call('stop');
  }

  start(): Promise<ApiAnswer> {
    return this.#call('start');
  }

  /** Ends the process. */
  close(): void {
    this.#child.stdin!.end();
  }

  #call(call: Call, ...args: readonly unknown[]): Promise<ApiAnswer> {
    const command: ApiCommand = { call, args };
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`);
    return this.#answer();
  }

  async #answer(): Promise<ApiAnswer> {
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`the fake API server ended: ${this.#errors.trim() || 'without a word'}`);
    return JSON.parse(value) as ApiAnswer;
  }
}
