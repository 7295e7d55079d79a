/** Which kernels the program and the agent are held against, and where each comes from. */
import type { Architecture } from '../apt/root.ts';

/** A kernel of Debian's: the newest package of a series and flavour that is served. */
export interface PackagedKernel {
  /** What it is called on the command line and in the table. */
  readonly name: string;
  readonly architecture: Architecture;
  /** The version's first numbers, or `newest`. */
  readonly series: string;
  /** The end of the package's name: `cloud-amd64`. */
  readonly flavour: string;
  /** Further words of the kernel's command line. */
  readonly parameters?: string;
  /** Modules that are not to be found, as on a kernel that was built without them. */
  readonly without?: readonly string[];
  /** Other test files than the usual. */
  readonly tests?: readonly string[];
  /** What it stands for. */
  readonly why: string;
}

/** A kernel that is built here, small and without modules. */
export interface BuiltKernel {
  readonly name: string;
  readonly architecture: 'amd64';
  /** Debian's package of sources; undefined where there is none: then from the tree that --source names. */
  readonly sources: string | undefined;
  readonly why: string;
}

export type Kernel = PackagedKernel | BuiltKernel;

const amd64 = (series: string, why: string): PackagedKernel => ({
  name: `${series}-amd64`,
  architecture: 'amd64',
  series,
  flavour: 'cloud-amd64',
  why,
});
const arm64 = (series: string, why: string, flavour = 'cloud-arm64'): PackagedKernel => ({
  name: `${series}-${flavour.replace('cloud-', '')}`,
  architecture: 'arm64',
  series,
  flavour,
  why,
});

const lacking = (module: string): PackagedKernel => ({
  ...amd64('6.1', `a kernel without ${module}`),
  name: `6.1-no-${module.replace('_', '-')}`,
  without: [module],
  tests: ['test/e2e/lacking-kernel.test.ts'],
});

export const KERNELS: readonly Kernel[] = [
  amd64('5.10', 'the oldest that is promised; Debian 11'),
  amd64('6.1', 'Debian 12; Amazon Linux 2023'),
  amd64('6.12', 'Debian 13; RHEL 10'),
  // Here the program alone is of interest.
  { ...amd64('6.16', 'the first that knows BPF_F_IPV6'), tests: ['test/packet'] },
  { ...amd64('6.18', 'a verifier that still forgets bounds in a byte swap'), tests: ['test/packet'] },
  amd64('newest', 'the newest that Debian has'),
  arm64('5.10', 'the oldest, arm64'),
  arm64('newest', 'the newest, arm64'),
  arm64('6.12', 'pages of 16 KiB', 'arm64-16k'),
  {
    ...amd64('6.12', 'lockdown=confidentiality'),
    name: '6.12-lockdown',
    parameters: 'lockdown=confidentiality',
  },
  lacking('cls_bpf'),
  lacking('sch_ingress'),
  {
    name: '6.1-built',
    architecture: 'amd64',
    sources: 'linux-source-6.1',
    why: 'built here, no BTF, no modules: Raspberry Pi OS, own builds',
  },
  { name: '5.15-built', architecture: 'amd64', sources: undefined, why: 'the same of 5.15: Ubuntu 22.04' },
];

/** The three that continuous integration boots: oldest, middle, newest. */
export const SMOKE: readonly string[] = ['5.10-amd64', '6.1-amd64', 'newest-amd64'];

export const isPackaged = (kernel: Kernel): kernel is PackagedKernel => 'series' in kernel;
