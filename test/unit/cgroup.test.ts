/** What control groups leave the agent, by the files of machines, pods and containers; and the threads that follow. */
import { availableParallelism } from 'node:os';
import { expect, test } from 'vitest';
import { affordableThreads, threadBytes } from '../../agent/datapath/userspace/workers/pool-size.ts';
import { cgroupLimits } from '../../agent/kernel/cgroup.ts';

const MIB = 1 << 20;
const NO_LIMIT = Number.POSITIVE_INFINITY;
const V2 = '31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n';
const V1 = (root: string) =>
  [
    `33 25 0:29 ${root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct`,
    `34 25 0:30 ${root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`,
    '35 25 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw',
    '',
  ].join('\n');
const V1_GROUPS = (path: string) => `9:memory:${path}\n4:cpu,cpuacct:${path}\n1:name=systemd:${path}\n0::${path}\n`;

test.each([
  ['nothing mounted', {}, [NO_LIMIT, NO_LIMIT]],
  [
    'the root of version 2, which has no limits',
    { '/proc/self/cgroup': '0::/\n', '/proc/self/mountinfo': V2 },
    [NO_LIMIT, NO_LIMIT],
  ],
  [
    'a container with a namespace of its own: the mounted folder is its group',
    {
      '/proc/self/cgroup': '0::/\n',
      '/proc/self/mountinfo': V2,
      '/sys/fs/cgroup/cpu.max': '200000 100000\n',
      '/sys/fs/cgroup/memory.max': '268435456\n',
    },
    [2, 256 * MIB],
  ],
  [
    'the least of a group and those above it',
    {
      '/proc/self/cgroup': '0::/kubepods.slice/pod1.slice/agent.scope\n',
      '/proc/self/mountinfo': V2,
      '/sys/fs/cgroup/kubepods.slice/cpu.max': '400000 100000\n',
      '/sys/fs/cgroup/kubepods.slice/memory.max': '134217728\n',
      '/sys/fs/cgroup/kubepods.slice/pod1.slice/cpu.max': '150000 100000\n',
      '/sys/fs/cgroup/kubepods.slice/pod1.slice/memory.max': 'max\n',
      '/sys/fs/cgroup/kubepods.slice/pod1.slice/agent.scope/cpu.max': 'max 100000\n',
      '/sys/fs/cgroup/kubepods.slice/pod1.slice/agent.scope/memory.max': '268435456\n',
    },
    [1.5, 128 * MIB],
  ],
  [
    'version 1, mounted whole',
    {
      '/proc/self/cgroup': V1_GROUPS('/pods/a'),
      '/proc/self/mountinfo': V1('/'),
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
      '/sys/fs/cgroup/cpu,cpuacct/pods/a/cpu.cfs_quota_us': '50000\n',
      '/sys/fs/cgroup/cpu,cpuacct/pods/a/cpu.cfs_period_us': '100000\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
      '/sys/fs/cgroup/memory/pods/a/memory.limit_in_bytes': '134217728\n',
    },
    [0.5, 128 * MIB],
  ],
  [
    'version 1 in a container: the group is named as on the host, and mounted alone',
    {
      '/proc/self/cgroup': V1_GROUPS('/pods/a'),
      '/proc/self/mountinfo': V1('/pods/a'),
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '300000\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '134217728\n',
    },
    [3, 128 * MIB],
  ],
  [
    'a group that is not below what is mounted: the mounted one',
    {
      '/proc/self/cgroup': '0::/../other\n',
      '/proc/self/mountinfo': V2,
      '/sys/fs/cgroup/cpu.max': '100000 100000\n',
      '/sys/fs/other/cpu.max': '10000 100000\n',
    },
    [1, NO_LIMIT],
  ],
])('limits of %s', (_, files: Readonly<Record<string, string | undefined>>, [cpus, memory]) => {
  expect(cgroupLimits((path) => files[path])).toEqual({ cpus, memory });
});

test('limits of this very process are no less than what it lives in', () => {
  const { cpus, memory } = cgroupLimits();
  expect(cpus).toBeGreaterThan(0);
  expect(memory).toBeGreaterThan(process.memoryUsage.rss());
  // Where this Node looks at the quota itself, the two agree.
  expect(Math.max(1, Math.ceil(cpus))).toBeGreaterThanOrEqual(availableParallelism());
});

const listeners = (count: number, batchSize = 64) =>
  Array.from({ length: count }, () => ({ batchSize, maxSources: 512 }));
const means = { cpus: 32, limits: { cpus: NO_LIMIT, memory: NO_LIMIT } };

test.each([
  ['one for each CPU where nothing is limited', 1, means, 32],
  ['however many listeners there are', 256, means, 32],
  ['no more than the quota, rounded up', 1, { ...means, limits: { cpus: 1.5, memory: NO_LIMIT } }, 2],
  ['the quota of the manifest, whose memory is enough', 256, { ...means, limits: { cpus: 2, memory: 256 * MIB } }, 2],
  ['no more than there is memory', 1, { ...means, limits: { cpus: NO_LIMIT, memory: 256 * MIB } }, 8],
  ['for sockets too', 64, { ...means, limits: { cpus: NO_LIMIT, memory: 256 * MIB } }, 6],
  ['one, however little there is', 1, { ...means, limits: { cpus: 0.1, memory: 64 * MIB } }, 1],
])('threads: %s', (_, count, given, threads) => {
  expect(affordableThreads(listeners(count), given)).toBe(threads);
});

test('a thread takes 18 MiB with the default batch, and what other sizes of batches reserve, rounded up', () => {
  expect(threadBytes(listeners(256))).toBe(18 * MIB);
  expect(threadBytes(listeners(1, 1024))).toBe(78 * MIB);
  expect(threadBytes([...listeners(2), ...listeners(1, 65), ...listeners(1, 100)])).toBe(26 * MIB);
});
