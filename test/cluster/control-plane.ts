/**
 * A real etcd and a real kube-apiserver on the loopback of a namespace of the lab, where nobody else can reach them and
 * from where they go with the lab. The server can be killed, frozen and started anew on what etcd has.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Credentials, openCredentials } from '../../agent/discovery/credentials.ts';
import { writeKubeconfig } from '../../lab/api/kubeconfig.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import type { Namespace } from '../../lab/namespace.ts';
import { until } from '../../lab/patience.ts';
import { Client } from '../conversation/client.ts';
import type { Json } from '../conversation/format.ts';
import { run } from '../programs.ts';
import type { Programs } from './programs.ts';

const ETCD = '127.0.0.1:2379';
const API = '127.0.0.1:6443';
const ADMIN = 'administrator';
/** A server that starts on a busy machine. */
const PATIENCE_MS = 120_000;

export class ControlPlane {
  /** The administrator's token. */
  readonly administrator = ADMIN;
  readonly credentials: Credentials;
  readonly client: Client;
  readonly ca: string;
  readonly #namespace: Namespace;
  readonly #programs: Programs;
  readonly #directory: string;
  readonly #kubeconfig: string;
  readonly #way: Server;
  #api: ChildProcess | undefined;

  private constructor(namespace: Namespace, programs: Programs, way: Server) {
    this.#namespace = namespace;
    this.#programs = programs;
    this.#way = way;
    this.#directory = mkdtempSync(join(namespace.directory, 'control-plane-'));
    const { ca, cert, key } = issueCertificate();
    this.ca = ca;
    const files = { 'ca.crt': ca, 'tls.crt': cert, 'tls.key': key, tokens: `${ADMIN},admin,admin,system:masters\n` };
    for (const [name, text] of Object.entries(files)) writeFileSync(this.#file(name), text, { mode: 0o600 });
    run('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', this.#file('accounts.key')]);
    this.#kubeconfig = this.#loginOf('admin', ADMIN, `https://${API}`);
    process.env.KUBECONFIG = this.login('tests', ADMIN);
    this.credentials = openCredentials();
    this.client = new Client(this.credentials);
  }

  static async start({ namespace }: { readonly namespace: Namespace }, programs: Programs): Promise<ControlPlane> {
    const way = createServer((socket) => void carry(socket, namespace));
    await once(way.listen(0, '127.0.0.1'), 'listening');
    const plane = new ControlPlane(namespace, programs, way);
    plane.#startEtcd();
    await plane.startApi();
    return plane;
  }

  /** Starts the API server and waits until it is ready. Without a watch cache each watch is one of etcd's own. */
  async startApi({ watchCache = true } = {}): Promise<void> {
    const options = {
      'etcd-servers': `http://${ETCD}`,
      // Only the tests compact.
      'etcd-compaction-interval': '0',
      'bind-address': '127.0.0.1',
      'secure-port': API.split(':')[1]!,
      'advertise-address': '10.0.0.1',
      'tls-cert-file': this.#file('tls.crt'),
      'tls-private-key-file': this.#file('tls.key'),
      'token-auth-file': this.#file('tokens'),
      'authorization-mode': 'RBAC',
      'service-account-issuer': 'https://kubernetes.default.svc',
      'service-account-key-file': this.#file('accounts.key'),
      'service-account-signing-key-file': this.#file('accounts.key'),
      'service-cluster-ip-range': '10.96.0.0/16',
      // Conditions that are always there from 1.22 on.
      'feature-gates': 'EndpointSliceTerminatingCondition=true',
      'watch-cache': String(watchCache),
    };
    const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    this.#api = this.#spawn('kube-apiserver', this.#programs.apiServer, args);
    await this.#until('the API server is ready', async () => {
      const { status } = await this.client.ask('GET', '/readyz');
      return status === 200;
    });
  }

  /** Kills it; its connections break. */
  async killApi(): Promise<void> {
    const ended = once(this.#api!, 'exit');
    this.#api!.kill('SIGKILL');
    await ended;
  }

  /** It keeps its connections and says nothing, until `thaw`. */
  freeze(): void {
    this.#api!.kill('SIGSTOP');
  }

  thaw(): void {
    this.#api!.kill('SIGCONT');
  }

  /** Has etcd forget all versions but the last; returns that. */
  async compact(): Promise<string> {
    const { header } = await this.#ask('/v3/kv/range', { key: 'AA==' });
    await this.#ask('/v3/kv/compaction', { revision: header.revision, physical: true });
    return header.revision;
  }

  /** Runs kubectl as the administrator; throws with what it says. */
  kubectl(...args: readonly string[]): string {
    return this.#run(this.#programs.kubectl, args);
  }

  /** Runs one of our scripts as an administrator would. */
  script(path: string, ...args: readonly string[]): string {
    return this.#run('bash', [path, ...args]);
  }

  /** Asks and throws for an answer that is none of success. */
  async ask(method: string, path: string, body?: Json): Promise<unknown> {
    const answer = await this.client.ask(method, path, body);
    if (answer.status < 300) return answer.body;
    throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  }

  /** A token of a service account, from the server itself. */
  async tokenOf(namespace: string, name: string): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`;
    const asked = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { audiences: [] } };
    const { status } = (await this.ask('POST', path, asked)) as { status: { token: string } };
    return status.token;
  }

  /** Does the work of the namespace controller, which is no part of this: a namespace that was deleted goes. */
  async finalize(name: string): Promise<void> {
    const path = `/api/v1/namespaces/${name}`;
    const { status } = await this.client.ask('GET', path);
    if (status === 404) return;
    const body = { apiVersion: 'v1', kind: 'Namespace', metadata: { name }, spec: { finalizers: [] } };
    await this.ask('PUT', `${path}/finalize`, body);
  }

  /** A kubeconfig with a token for our own client: here by way of this process, `inside` the namespace directly. */
  login(name: string, token: string, where: 'here' | 'inside' = 'here'): string {
    const { port } = this.#way.address() as AddressInfo;
    const directory = this.#file(name);
    mkdirSync(directory);
    return writeKubeconfig(directory, {
      url: where === 'inside' ? `https://${API}` : `https://127.0.0.1:${port}`,
      ca: this.ca,
      token,
    });
  }

  close(): void {
    this.#way.close();
  }

  #startEtcd(): void {
    const peer = 'http://127.0.0.1:2380';
    const options = {
      name: 'default',
      'data-dir': this.#file('etcd'),
      'listen-client-urls': `http://${ETCD}`,
      'advertise-client-urls': `http://${ETCD}`,
      'listen-peer-urls': peer,
      'initial-advertise-peer-urls': peer,
      'initial-cluster': `default=${peer}`,
      'log-level': 'error',
    };
    this.#spawn(
      'etcd',
      this.#programs.etcd,
      Object.entries(options).map(([name, value]) => `--${name}=${value}`),
    );
  }

  #spawn(name: string, program: string, args: readonly string[]): ChildProcess {
    const log = openSync(this.#file(`${name}.log`), 'a');
    // etcd before 3.5 wants to hear that arm64 is meant.
    const env = { ...process.env, ETCD_UNSUPPORTED_ARCH: process.arch };
    const child = this.#namespace.spawn(program, args, { stdio: ['ignore', log, log], env });
    closeSync(log);
    return child;
  }

  #run(command: string, args: readonly string[]): string {
    // kubectl keeps what it discovered below HOME.
    const env = [`HOME=${this.#directory}`, `KUBECONFIG=${this.#kubeconfig}`];
    const path = `PATH=${dirname(this.#programs.kubectl)}:${process.env.PATH}`;
    return this.#namespace.run('env', [...env, path, command, ...args]);
  }

  /** For kubectl, which does not know our way to name a file with a token. */
  #loginOf(name: string, token: string, server: string): string {
    const cluster = { server, 'certificate-authority': this.#file('ca.crt') };
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'test',
      clusters: [{ name: 'test', cluster }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: name } }],
      users: [{ name, user: { token } }],
    };
    writeFileSync(this.#file(`${name}.kubeconfig`), JSON.stringify(config));
    return this.#file(`${name}.kubeconfig`);
  }

  /** Asks etcd, whose gateway speaks JSON. */
  async #ask(path: string, body: Json): Promise<{ header: { revision: string } }> {
    const asked = request({ path, method: 'POST', createConnection: () => this.#namespace.connect(ETCD) });
    asked.end(JSON.stringify(body));
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    const text = Buffer.concat(await response.toArray()).toString('utf8');
    if (response.statusCode !== 200) throw new Error(`etcd ${path}: ${response.statusCode} ${text}`);
    return JSON.parse(text) as { header: { revision: string } };
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const now = () => {
      if (this.#api!.exitCode !== null) throw new Error(`${what}: it ended with exit code ${this.#api!.exitCode}`);
      return holds().catch(() => false);
    };
    await until(what, now, { limit: PATIENCE_MS, every: 200 }).catch((error: Error) => {
      const last = readFileSync(this.#file('kube-apiserver.log'), 'utf8').split('\n').slice(-15).join('\n');
      throw new Error(`${error.message}; its log ends with\n${last}`);
    });
  }

  #file(name: string): string {
    return join(this.#directory, name);
  }
}

/** Carries a connection of this process into the namespace; one that nobody takes there is closed here, too. */
async function carry(socket: Socket, namespace: Namespace): Promise<void> {
  socket.on('error', () => {});
  const there = await opened(namespace);
  if (there === undefined || socket.destroyed) {
    there?.destroy();
    socket.destroy();
    return;
  }
  there.on('error', () => socket.destroy()).on('close', () => socket.destroy());
  socket.on('close', () => there.destroy());
  socket.pipe(there).pipe(socket);
}

/** On a machine under load a connection may take longer than the lab waits for one. */
async function opened(namespace: Namespace): Promise<Socket | undefined> {
  for (let tries = 0; tries < 5; tries++) {
    try {
      return namespace.connect(API);
    } catch (error) {
      if (/ECONNREFUSED/.test((error as Error).message)) return undefined;
    }
    await sleep(100);
  }
  return undefined;
}
