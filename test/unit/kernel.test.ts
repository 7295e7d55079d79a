/** Kernels that refuse: what is said, what is tried instead, and which features are missed where. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { chargedBytes, firstThatFits, lessenedMaps, SIZES, type Sizes } from '../../agent/datapath/tc/sizes.ts';
import { sectionText } from '../../agent/ffi/elf.ts';
import { SystemError } from '../../agent/ffi/errno.ts';
import { FEATURES, hasCoalescing, hasSegmentation, lacks, predates, versionOf } from '../../agent/kernel/features.ts';
import { isMemoryLimited, memoryShortage, readMemlock } from '../../agent/kernel/memlock.ts';
import {
  attachRefusal,
  lastWords,
  loadRefusal,
  mapRefusal,
  permissionDenied,
  type Surroundings,
} from '../../agent/kernel/refusal.ts';

const { EPERM, EACCES, ENOENT, EOPNOTSUPP, E2BIG } = constants.errno;
const MIB = 1 << 20;
const UNLIMITED = 2n ** 64n - 1n;
const OBJECT = { path: '/app/udp_fanout.bpf.o', compiler: 'clang version 19.1.7' };

/** A machine on which nothing is missing, with changes. */
const on = (release: string, change: Partial<Surroundings> = {}): Surroundings => ({
  release: () => release,
  missing: () => [],
  memlock: () => ({ soft: 65536n, hard: 8388608n }),
  modulesDisabled: () => false,
  ...change,
});

describe('features', () => {
  test('are told of kernels that are too old for them', () => {
    expect(lacks('5.10.0-46-cloud-amd64').join('; ')).toMatch(/before 5\.11 maps count .*; before 5\.12 .*route's own/);
    expect(lacks('5.11.0')).toEqual([expect.stringMatching(/^before 5\.12 unless the distribution/)]);
    expect(lacks('6.12.43+deb13-amd64')).toEqual([]);
    expect(lacks('custom')).toEqual([]);
  });

  test('are listed from old to new, each with what is done without it', () => {
    const versions = FEATURES.map(({ since }) => versionOf(since)!);
    expect(versions).toEqual([...versions].sort((a, b) => a - b));
    for (const { without } of FEATURES) expect(without.length).toBeGreaterThan(10);
  });

  test.each([
    ['6.5.13', 'tcx', true],
    ['6.6.0', 'tcx', false],
    ['5.9.16', 'bpf_redirect_neigh', true],
    ['5.10.0', 'bpf_redirect_neigh', false],
    ['6.12.43', 'BPF_F_IPV6', true],
    ['7.0.1', 'BPF_F_IPV6', false],
  ] as const)('%s is older than %s: %s', (release, feature, is) => {
    expect(predates(release, feature)).toBe(is);
  });

  test('this machine’s own are found by trying', () => {
    // Linux 4.18 and 5.0: every machine that runs these tests.
    expect([hasSegmentation(), hasCoalescing()]).toEqual([true, true]);
  });
});

describe('a refused load', () => {
  const refused = (errno: number, around: Surroundings, log = '') =>
    loadRefusal(OBJECT, { error: new SystemError('bpf_object__load', errno), log, needed: 1_300_000 }, around);

  test('is one line: kernel, compiler, object, the verifier’s last words', () => {
    const log = 'func#0 @0\nmath between map_value pointer and register with unbounded min value is not allowed\n';
    expect(
      refused(EACCES, on('6.1.0-40-amd64'), `${log}processed 31 insns (limit 1000000) max_states_per_insn 0\n`),
    ).toBe(
      'failed to load BPF object "/app/udp_fanout.bpf.o": Linux 6.1.0-40-amd64 refuses it, EACCES, the verifier\'s last words: math between map_value pointer and register with unbounded min value is not allowed (clang version 19.1.7)',
    );
  });

  test('without a word says so', () => {
    expect(refused(E2BIG, on('6.1.0'))).toContain('Linux 6.1.0 refuses it, E2BIG, and gives no reason');
  });

  test('names the capabilities that are missing, whatever the memory', () => {
    const missing = () => ['BPF', 'PERFMON'] as const;
    for (const errno of [EPERM, EACCES])
      expect(refused(errno, on('5.10.0', { missing }))).toBe(
        'failed to attach TC program: permission denied: missing capability BPF, PERFMON: add it under securityContext.capabilities.add',
      );
  });

  test('names RLIMIT_MEMLOCK, with numbers and the mend, where maps count against it', () => {
    const line = refused(EPERM, on('5.10.0-46-cloud-amd64'));
    expect(line).toMatch(
      /^failed to load BPF object: no memory for maps: RLIMIT_MEMLOCK is 65536 bytes \(hard limit 8388608/,
    );
    expect(line).toContain('the smallest maps that would do take about 1300000 bytes');
    expect(line).toContain('add the capability SYS_RESOURCE (k8s/components/with-sys-resource)');
    expect(line).toMatch(
      /\(Linux 5\.10\.0-46-cloud-amd64, BPF object "\/app\/udp_fanout\.bpf\.o", clang version 19\.1\.7\)$/,
    );
    expect(line).not.toMatch(/SELinux|\n/);
  });

  test.each([
    ['where maps count to the cgroup', on('5.11.0')],
    ['where the limit is none', on('5.10.0', { memlock: () => ({ soft: UNLIMITED, hard: UNLIMITED }) })],
  ])('%s, blames a security module', (_, around) => {
    expect(refused(EPERM, around)).toMatch(/permission denied: all capabilities are there, .*SELinux.*\(Linux 5\.1/);
  });

  test('says that the compiler is unknown where the object does not tell', () => {
    const error = new SystemError('bpf_object__load', E2BIG);
    const line = loadRefusal({ ...OBJECT, compiler: undefined }, { error, log: '', needed: 0 }, on('6.1.0'));
    expect(line).toContain('(compiler unknown)');
  });
});

describe('the verifier’s last words', () => {
  test.each([
    ['', ''],
    ['R1 invalid mem access\n', 'R1 invalid mem access'],
    ['func#0 @0\na\n  b  \n\nc\nverification time 12 usec\nstack depth 8\nprocessed 1 insns (limit 9)\n', 'b; c'],
    [`${'x'.repeat(500)}\n`, 'x'.repeat(300)],
  ])('of %j', (log, words) => {
    expect(lastWords(log)).toBe(words);
  });
});

describe('a refused attachment', () => {
  const refused = (operation: string, errno: number, around = on('6.1.0')) =>
    attachRefusal(OBJECT, new SystemError(operation, errno), around);
  const who = '(Linux 6.1.0, BPF object "/app/udp_fanout.bpf.o", clang version 19.1.7)';

  test('without sch_ingress', () => {
    expect(refused('clsact on eth0', ENOENT)).toBe(
      `failed to attach TC program: clsact on eth0: ENOENT: this kernel has no qdisc clsact: modprobe sch_ingress on the node (CONFIG_NET_SCH_INGRESS; some distributions have it in a package of further modules) ${who}`,
    );
  });

  test('without cls_bpf', () => {
    expect(refused('attach to eth0', ENOENT)).toContain('this kernel has no filter bpf: modprobe cls_bpf on the node');
    expect(refused('attach to eth0', EOPNOTSUPP)).toContain('CONFIG_NET_CLS_BPF');
  });

  test('where no module may be loaded any more', () => {
    const line = refused('clsact on eth0', ENOENT, on('6.1.0', { modulesDisabled: () => true }));
    expect(line).toContain('name sch_ingress in /etc/modules-load.d, since kernel.modules_disabled');
  });

  test('for any other reason, or for want of a capability', () => {
    expect(refused('attach to eth0', E2BIG)).toBe(`failed to attach TC program: attach to eth0: E2BIG ${who}`);
    expect(refused('clsact on eth0', EPERM, on('6.1.0', { missing: () => ['NET_ADMIN'] }))).toMatch(
      /permission denied: missing capability NET_ADMIN: add it under securityContext\.capabilities\.add$/,
    );
    expect(permissionDenied(on('6.1.0'))).toContain('all capabilities are there');
  });
});

describe('memory for maps', () => {
  test('is limited before 5.11, unless the limit is none', () => {
    expect(isMemoryLimited('5.10.0', { soft: 65536n, hard: 65536n })).toBe(true);
    expect(isMemoryLimited('5.10.0', { soft: UNLIMITED, hard: UNLIMITED })).toBe(false);
    expect(isMemoryLimited('5.15.0', { soft: 65536n, hard: 65536n })).toBe(false);
  });

  test('a slot table that is refused later says the same', () => {
    expect(mapRefusal(EPERM, on('5.10.0'))).toBe(memoryShortage({ soft: 65536n, hard: 8388608n }));
    expect([mapRefusal(E2BIG, on('5.10.0')), mapRefusal(EPERM, on('6.1.0')), mapRefusal(0, on('5.10.0'))]).toEqual([
      '',
      '',
      '',
    ]);
  });

  test('the limit of this process is read', () => {
    const { soft, hard } = readMemlock();
    expect(soft).toBeGreaterThan(0n);
    expect(hard).toBeGreaterThanOrEqual(soft);
  });
});

describe('map sizes', () => {
  const [limits, ...smaller] = SIZES;

  test('are the limits, whatever the config of the moment', () => {
    expect(limits).toEqual({
      STATS: 256,
      BINDS: 8192,
      ADDRESSES: 65536,
      FRAGMENTS: 16384,
      PEERS: 1024,
      SAFETY_NET: 4194304,
    });
  });

  test('fit 8 MiB where maps are charged, also beside those of the agent that is replaced', () => {
    expect(chargedBytes(limits!, 8)).toBeGreaterThan(8 * MIB);
    for (const sizes of smaller) expect(2 * chargedBytes(sizes, 8)).toBeLessThan(8 * MIB);
    expect(chargedBytes(smaller[1]!, 8)).toBeLessThan(1.05 * MIB);
    expect(chargedBytes(smaller.at(-1)!, 8)).toBeLessThan(0.8 * MIB);
    expect(2 * chargedBytes(smaller.at(-1)!, 128)).toBeLessThan(4 * MIB);
  });

  test('keep rows for all listeners as long as those are not what costs', () => {
    expect(smaller.map(({ STATS }) => STATS)).toEqual([256, 64, 16]);
    expect(lessenedMaps(smaller[1]!)).toContain(
      'room for 64 listeners, 512 pairs of a bind and an interface, 4096 addr',
    );
  });

  test('become smaller until the kernel takes them, and no smaller than that', () => {
    const shortage = new Error('EPERM');
    const kernel = (limit: number) => (sizes: Sizes) => {
      if (chargedBytes(sizes, 2) > limit) throw shortage;
      return sizes.ADDRESSES;
    };
    const tried = (limit: number) => firstThatFits(SIZES, kernel(limit), (error) => error === shortage);
    expect(tried(16 * MIB)).toBe(65536);
    expect(tried(8 * MIB)).toBe(16384);
    expect(tried(MIB)).toBe(4096);
    expect(() => tried(65536)).toThrow(shortage);
  });

  test('are left alone by any other refusal', () => {
    const attempts: Sizes[] = [];
    const refuse = (sizes: Sizes) => {
      attempts.push(sizes);
      throw new Error('EACCES');
    };
    expect(() => firstThatFits(SIZES, refuse, () => false)).toThrow('EACCES');
    expect(attempts).toEqual([limits]);
  });
});

describe('the object file', () => {
  const built = join(import.meta.dirname, '../../dist/udp_fanout.bpf.o');

  test('tells its compiler', () => {
    expect(sectionText(built, '.comment')).toMatch(/clang version \d+/);
    expect(sectionText(built, 'license')).toBe('Dual BSD/GPL');
    expect(sectionText(built, '.nothing')).toBeUndefined();
  });

  test('that is cut off tells nothing, and breaks nothing', () => {
    const folder = mkdtempSync(join(tmpdir(), 'elf-'));
    try {
      const short = join(folder, 'short.o');
      for (const bytes of ['', '\x7fELF', 'x'.repeat(64)]) {
        writeFileSync(short, bytes);
        expect(sectionText(short, '.comment')).toBeUndefined();
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
