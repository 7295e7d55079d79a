/** kube-apiserver out of Debian's source, by the compiler and without the make files, which want far more. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../programs.ts';

export interface Build {
  /** A folder that goes afterwards. */
  readonly work: string;
  readonly goRoot: string;
  /** `…/src/k8s.io/kubernetes`, where the compiler looks for it. */
  readonly source: string;
  /** Debian's: `1.20.5+really1.20.2-1.1`. */
  readonly version: string;
}

const PACKAGE = 'k8s.io/kubernetes';
const OPENAPI = 'pkg/generated/openapi';
/** What is built into no server. */
const NO_SERVER = /^vendor\/k8s\.io\/(code-generator|sample-)/;

/** Returns the program's path. */
export function buildApiServer({ work, goRoot, source, version }: Build): string {
  const env = {
    GOROOT: goRoot,
    GOPATH: join(source, '../../..'),
    GOCACHE: join(work, 'cache'),
    GOTMPDIR: work,
    HOME: work,
    GO111MODULE: 'off',
    GOFLAGS: '',
    CGO_ENABLED: '0',
  };
  // It takes all cores for minutes, and is never urgent.
  const go = (...args: string[]) => run('nice', ['-n', '10', join(goRoot, 'bin/go'), ...args], { cwd: source, env });
  const generator = join(work, 'openapi-gen');
  go('build', '-o', generator, './vendor/k8s.io/kube-openapi/cmd/openapi-gen');
  const described = [
    '--input-dirs',
    tagged(source)
      .map((path) => `${PACKAGE}/${path}`)
      .join(','),
  ];
  const output = ['--output-package', `${PACKAGE}/${OPENAPI}`, '--output-file-base', 'zz_generated.openapi'];
  const header = ['--go-header-file', 'vendor/k8s.io/code-generator/hack/boilerplate.go.txt'];
  const path = { ...env, PATH: `${join(goRoot, 'bin')}:${process.env.PATH}` };
  const rest = ['--report-filename', join(work, 'violations')];
  run(generator, [...described, ...output, ...header, ...rest], { cwd: source, env: path });
  const program = join(work, 'kube-apiserver');
  go('build', '-ldflags', linkerFlags(version), '-o', program, './cmd/kube-apiserver');
  return program;
}

/** The packages whose types the API describes; their description is generated, and no source package has it. */
function tagged(source: string): string[] {
  const staged = readdirSync(join(source, 'staging/src/k8s.io')).map((name) => `vendor/k8s.io/${name}`);
  const roots = [...staged, 'pkg'].filter((path) => !NO_SERVER.test(path));
  const list = ['-RlE', '--include=*.go', '^// \\+k8s:openapi-gen=', ...roots];
  const files = run('grep', list, { cwd: source }).trim().split('\n');
  return [...new Set(files.map((file) => file.slice(0, file.lastIndexOf('/'))))].sort();
}

/** A server that says which it is: without this it is v0.0.0. */
function linkerFlags(debian: string): string {
  const [, upstream = ''] = /(?:\+really|^)(\d+\.\d+\.\d+)(?=[-+])(?!.*\+really)/.exec(debian) ?? [];
  const [major, minor] = upstream.split('.');
  const values = { gitVersion: `v${upstream}`, gitMajor: major, gitMinor: minor };
  const packages = ['component-base/version', 'client-go/pkg/version'].map(
    (name) => `${PACKAGE}/vendor/k8s.io/${name}`,
  );
  const set = packages.flatMap((name) => Object.entries(values).map(([key, value]) => `-X ${name}.${key}=${value}`));
  return ['-s', '-w', ...set].join(' ');
}
