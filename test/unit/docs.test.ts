/** What the docs name exists, what exists is in the docs, and their examples are valid. */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parse } from 'yaml';
import { parseConfig } from '../../agent/config/load.ts';
import { allowedKeys, LOG_FORMATS, LOG_LEVELS, PROTOCOLS } from '../../agent/config/schema.ts';
import type { ListenerCounters } from '../../agent/datapath/datapath.ts';
import { OUT_PROGRAM, RENEW_PROGRAM, VERDICTS } from '../../agent/datapath/tc/abi.ts';
import { REASONS } from '../../agent/datapath/userspace/reasons.ts';
import { CAUSES } from '../../agent/discovery/failure.ts';
import { MODES, SOURCE_MODES } from '../../agent/model.ts';
import { watchLosses } from '../../agent/observe/losses.ts';
import { aListener, aLog } from '../fake/words.ts';

const PROGRAMS = [OUT_PROGRAM, RENEW_PROGRAM];
const ROOT = join(import.meta.dirname, '../..');
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const PAGES = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', ...globSync('docs/*.md', { cwd: ROOT })].sort();
const TEXT = new Map(PAGES.map((page) => [page, read(page)]));
const ALL_DOCS = [...TEXT.values()].join('\n');
const SOURCES = ['agent/**/*.ts', 'bpf/*.{h,c}', 'k8s/**/*.{yaml,sh}', 'setup/*.{mjs,ts}', 'Dockerfile'];
const CODE = globSync(SOURCES, { cwd: ROOT }).map(read).join('\n');
const usage = /const USAGE = `(.*?)`;/s.exec(read('agent/cli.ts'))?.[1] ?? '';

/** Inline code of a page, outside of code blocks. */
function spans(text: string): string[] {
  return [...text.replaceAll(/^ *```.*?^ *```/gms, '').matchAll(/`([^`\n]+)`/g)].map(([, span]) => span!);
}

/** Code blocks of a language, each without its common indent. */
function blocks(text: string, language: string): string[] {
  const found = text.matchAll(new RegExp(`^( *)\`\`\`${language}\\n(.*?)^ *\`\`\``, 'gms'));
  return [...found].map(([, indent = '', block = '']) => block.replaceAll(new RegExp(`^${indent}`, 'gm'), ''));
}

/** As GitHub makes them of headings. */
function anchors(text: string): string[] {
  const headings = [...text.replaceAll(/^ *```.*?^ *```/gms, '').matchAll(/^#+ (.+)$/gm)].map(
    ([, heading]) => heading!,
  );
  return headings.map((heading) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

/** First cells of the table rows below a heading, their code spans. */
function rowsBelow(page: string, heading: string): string[] {
  const [, section = ''] = TEXT.get(page)!.split(`\n## ${heading}\n`);
  const rows = section.split(/\n## /)[0]!.matchAll(/^\| ([^|]+) \|/gm);
  return [...rows].flatMap(([, cell]) => spans(cell!));
}

/** Written of parts; the test of the guide's greps shows them whole. */
const COMPOSED = ['datagrams dropped', 'datagrams took the slow way', 'all capabilities are there'];

const unique = (names: Iterable<string>) => [...new Set(names)].sort();

describe('links', () => {
  test.each(PAGES)('of %s lead somewhere', (page) => {
    const text = TEXT.get(page)!.replaceAll(/^ *```.*?^ *```/gms, '');
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
    const broken = links.filter((link) => {
      if (/^https?:/.test(link)) return false;
      const [path = '', anchor] = link.split('#');
      const target = path === '' ? page : join(dirname(page), path);
      if (!existsSync(join(ROOT, target))) return true;
      return anchor !== undefined && !anchors(read(target)).includes(anchor);
    });
    expect(broken).toEqual([]);
  });
});

describe('names in the docs', () => {
  test('every metric exists, and every metric is in the table', () => {
    const quoted = [...CODE.matchAll(/'(udp_fanout_[a-z_]+)'/g)].map(([, name]) => name!);
    const defined = unique(quoted).filter((name) => !PROGRAMS.includes(name));
    expect(defined.length).toBeGreaterThan(20);
    const bases = (name: string) => [name, name.replace(/_(bucket|sum|count)$/, '')];
    const named = [...ALL_DOCS.matchAll(/\budp_fanout_[a-z_]+(?![a-z_.*])(?!\.)/g)].map(([name]) => name);
    expect(
      unique(named).filter((name) => !PROGRAMS.includes(name) && !bases(name).some((base) => defined.includes(base))),
    ).toEqual([]);
    expect(unique(rowsBelow('docs/DEPLOYMENT.md', 'Metrics').filter((name) => name.startsWith('udp_fanout_')))).toEqual(
      defined,
    );
  });

  test('every verdict of the kernel path is explained, and no other', () => {
    expect(rowsOfNames('By verdict: the kernel path')).toEqual(VERDICTS.map(({ name }) => name));
  });

  test('every reason of userspace is explained, there and in its own page', () => {
    expect(rowsOfNames('By reason: userspace')).toEqual(REASONS.map(({ name }) => name));
    const [, counters = ''] = TEXT.get('docs/USERSPACE.md')!.split('\n## Counters\n');
    expect(REASONS.filter(({ name }) => !counters.includes(`\`${name}\``))).toEqual([]);
  });

  test('every cause of a discovery error is explained', () => {
    expect(rowsOfNames('Causes of discovery errors')).toEqual([...CAUSES]);
  });

  /** The code of the first cell of each row, one name a row. */
  function rowsOfNames(heading: string): string[] {
    const rows = rowsBelow('docs/TROUBLESHOOTING.md', heading);
    return rows.filter((name) => /^\w+$/.test(name));
  }

  test('every alert exists, and every alert has a first look', () => {
    const rules = [...read('k8s/monitoring/prometheusrule.yaml').matchAll(/alert: (\w+)/g)].map(([, name]) => name!);
    expect(rules.length).toBeGreaterThan(5);
    expect(
      unique([...ALL_DOCS.matchAll(/\bUdpFanout\w+/g)].map(([name]) => name)).filter((name) => !rules.includes(name)),
    ).toEqual([]);
    expect(unique(rowsBelow('docs/TROUBLESHOOTING.md', 'Alerts'))).toEqual(unique(rules));
  });

  test('every command and flag exists', () => {
    const ours = ALL_DOCS.split('\n').filter((line) =>
      /(?<!-c |name )udp-fanout(\.js)? (check|doctor|detach|--(config|log|ebpf|version|help))|npm start -- /.test(line),
    );
    expect(ours.length).toBeGreaterThan(8);
    const commands = ours.flatMap((line) =>
      [...line.matchAll(/udp-fanout(?:\.js)? ([a-z]+)(?= |`|$)/gm)].map(([, name]) => name!),
    );
    const known = [...usage.matchAll(/^ {2}udp-fanout ([a-z]+)/gm)].map(([, name]) => name!);
    expect(known.sort()).toEqual(['check', 'detach', 'doctor']);
    expect(unique(commands.filter((name) => /^(check|do|de)/.test(name)))).toEqual(known);
    const flags = (text: string) => unique([...text.matchAll(/(?<![\w-])--[a-z][a-z0-9-]+/g)].map(([flag]) => flag));
    const told = ours.map((line) =>
      line.replace(
        /^.*?(udp-fanout(\.js)? (?:check|doctor|detach|--(?:config|log|ebpf|version|help))|npm start -- )/,
        '$1',
      ),
    );
    expect(flags(told.join('\n')).filter((flag) => !flags(usage).includes(flag))).toEqual([]);
    for (const flag of flags(usage)) expect(ALL_DOCS, flag).toContain(flag);
    const spelt = [...TEXT.values()].flatMap(spans).filter((span) => /^--[a-z]/.test(span));
    const foreign = ['--cap-add', '--disable-sigusr1', '--ulimit'];
    const allowed = [...flags(usage), ...foreign];
    expect(flags(spelt.join('\n')).filter((flag) => !allowed.includes(flag))).toEqual([]);
    expect(usage).toContain(LOG_FORMATS.join('|'));
    expect(LOG_LEVELS).toContain('debug');
  });

  test('every npm script exists', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...ALL_DOCS.matchAll(/npm run ([a-z0-9:]+)/g)].map(([, name]) => name!);
    expect(unique(named).filter((name) => !(name in scripts))).toEqual([]);
    const everyday = ['setup', 'check', 'dev', 'bench', 'schema'];
    expect(everyday.filter((name) => !TEXT.get('docs/DEVELOPMENT.md')!.includes(`npm run ${name}`))).toEqual([]);
  });

  test('the version is one: package, lock, image, changelog, and the tags of images', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string };
    const lock = JSON.parse(read('package-lock.json')) as { version: string; packages: { '': { version: string } } };
    expect([lock.version, lock.packages[''].version]).toEqual([version, version]);
    expect(/^ARG VERSION=(.+)$/m.exec(read('Dockerfile'))?.[1]).toBe(version);
    const [newest, ...older] = [...read('CHANGELOG.md').matchAll(/^## (.+)$/gm)].map(([, heading]) => heading!);
    expect(newest === 'Unreleased' ? older[0] : newest).toBe(version);
    const tags = (text: string) => [...text.matchAll(/\budp-fanout:([\w.-]+)|--tag ([\w.-]+)|newTag: ([\w.-]+)/g)];
    const told = tags(ALL_DOCS).map(([, image, option, kustomized]) => image ?? option ?? kustomized!);
    expect(told).toContain(`v${version}`);
    expect(told.filter((tag) => ![`v${version}`, 'latest'].includes(tag))).toEqual([]);
    const manifests = globSync('k8s/**/*.yaml', { cwd: ROOT }).flatMap((file) => tags(read(file)));
    expect(manifests.length).toBeGreaterThan(2);
    expect(unique(manifests.map(([, image, , kustomized]) => image ?? kustomized!))).toEqual(['latest']);
  });

  test('every flag of our scripts exists', () => {
    for (const script of ['k8s/build-push.sh', 'k8s/check-cluster.sh']) {
      const help = /<<'USAGE'\n(.*?)\nUSAGE/s.exec(read(script))?.[1] ?? '';
      const lines = ALL_DOCS.split('\n').filter((line) => line.includes(script));
      const named = lines.flatMap((line) => [...line.matchAll(/--[a-z][a-z0-9-]+/g)].map(([flag]) => flag));
      expect(lines.length, script).toBeGreaterThan(0);
      expect(named.filter((flag) => !help.includes(flag))).toEqual([]);
      expect(execFileSync(join(ROOT, script), ['--help'], { encoding: 'utf8' })).toBe(`${help}\n`);
    }
  });

  test('every capability is the manifest’s or explained away, and has its row', () => {
    const manifest = /add: \[([A-Z_, ]+)\]/.exec(read('k8s/daemonset.yaml'))?.[1]?.split(', ') ?? [];
    const rows = rowsBelow('docs/SECURITY.md', 'Capabilities').filter((name) => /^[A-Z_]+$/.test(name));
    expect(manifest.filter((name) => !rows.includes(name))).toEqual([]);
    expect(rows.filter((name) => !manifest.includes(name))).toEqual(['SYS_RESOURCE', 'NET_BIND_SERVICE']);
    const judged = [...read('agent/doctor/capabilities.ts').matchAll(/name: '([A-Z_]+)'/g)].map(([, name]) => name!);
    expect(unique(judged)).toEqual(unique(rows));
    const said = [...ALL_DOCS.matchAll(/\b(?:CAP_)?((?:NET|SYS)_[A-Z_]+|PERFMON)\b/g)].map(([, name]) => name!);
    expect(unique(said).filter((name) => !rows.includes(name))).toEqual([]);
    for (const page of TEXT.values())
      for (const list of page.matchAll(/^ *add: \[([A-Z_, ]+)\]/gm))
        expect(unique(list[1]!.split(', '))).toEqual(unique(manifest));
  });

  test('every RBAC verb is the Role’s', () => {
    const verbsIn = (text: string) =>
      unique([...text.matchAll(/verbs: \[([a-z, ]+)\]/g)].map(([, verbs]) => String(verbs)));
    const roles = verbsIn(read('k8s/rbac.yaml'));
    expect(roles).toEqual(unique(['get, list, watch', 'get']));
    expect(verbsIn(ALL_DOCS)).toEqual(roles);
    expect(TEXT.get('docs/DEPLOYMENT.md')).toContain('`get`, `list` and `watch` of EndpointSlices');
  });

  test('every file is there', () => {
    const named = [...TEXT.values()]
      .flatMap(spans)
      .flatMap((span) => span.match(/(?<![\w/.-])(?:agent|bpf|k8s|lab|test|docs|setup|bench|demo)\/[\w./*-]*/g) ?? []);
    const missing = unique(named).filter((path) => globSync(path.replace(/[./]+$/, ''), { cwd: ROOT }).length === 0);
    expect(unique(named).length).toBeGreaterThan(20);
    expect(missing).toEqual([]);
    for (const page of TEXT.values()) {
      const applied = [...page.matchAll(/kubectl apply -[fk] (k8s[\w./-]*)/g)].map(([, path]) => path!);
      expect(applied.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
    }
  });

  test('every config key and value exists', () => {
    const sections = ['', 'listeners', 'health', 'metrics', 'log', 'kubernetes', 'downstream', 'settings'];
    const paths = sections.map((name) => {
      if (name === '') return [];
      return ['kubernetes', 'downstream', 'settings'].includes(name) ? ['listeners', 0, name] : [name];
    });
    const keysOf = (path: (string | number)[]) => {
      const keys = allowedKeys(path);
      return keys.length > 0 ? keys : allowedKeys([...path, 0]);
    };
    const keys = new Set(paths.flatMap(keysOf));
    expect(keys.size).toBeGreaterThan(30);
    const all = [...TEXT.values()].flatMap(spans);
    const dotted = all.flatMap((span) => [...span.matchAll(/^(\w+)(?:\[\])?\.([a-z_]+)$/g)]);
    const ours = dotted.filter(([, section, key]) => sections.includes(section!) && key !== 'ts');
    expect(ours.length).toBeGreaterThan(2);
    for (const [span, section, key] of ours) {
      expect(keysOf(paths[sections.indexOf(section!)]!), span).toContain(key);
    }
    const pairs = all.flatMap((span) => [...span.matchAll(/^([A-Za-z_-]+): (\S+)$/g)]);
    const kubernetes = ['automountServiceAccountToken'];
    expect(
      pairs
        .filter(([, key]) => !keys.has(key!) && !kubernetes.includes(key!) && !CODE.includes(`${key}:`))
        .map(([span]) => span),
    ).toEqual([]);
    const values = { mode: MODES, source: SOURCE_MODES, protocol: PROTOCOLS, fail_open: ['true', 'false'] };
    for (const [span, key, value] of pairs) {
      if (key! in values) expect(values[key as keyof typeof values], span).toContain(value);
    }
  });

  test('every name in code with an underscore is in the code', () => {
    const named = [...TEXT.values()]
      .flatMap(spans)
      .flatMap((span) => span.match(/(?<![\w/.-])[a-z]+(?:_[a-z0-9]+)+(?![\w.(-])/g) ?? []);
    const metrics = /^udp_fanout_/;
    const kernels = ['bpf_redirect_neigh', 'bpf_sk_assign', 'raw_socket'];
    const unknown = unique(named).filter(
      (name) => !metrics.test(name) && !kernels.includes(name) && !CODE.includes(name),
    );
    expect(unknown).toEqual([]);
  });

  test('what is told of log lines is in the code, placeholders aside', () => {
    const page = TEXT.get('docs/TROUBLESHOOTING.md')!;
    const tables = ['The attach line is missing', 'endpoints=0', 'The agent does not start', 'Log lines'];
    const cells = tables.flatMap((heading) => {
      const [, section = ''] = page.split(new RegExp(`\\n##+ ${heading}\\n`));
      return [...section.split(/\n##+ /)[0]!.matchAll(/^\| (`[^|]+`) \|/gm)].flatMap(([, cell]) => spans(cell!));
    });
    expect(cells.length).toBeGreaterThan(20);
    const words = (line: string) =>
      line
        .split(/…|: |"[^"]*"|\(there are: |\d[\d:./A-Z]*|config\.yaml:|list |0\.0\.0\.0/)
        .map((part) => part.replaceAll(/^[\s:(,)]+|[\s:(,)]+$/g, ''));
    const missing = cells
      .flatMap(words)
      .filter((part) => part.length > 4 && !COMPOSED.includes(part) && !CODE.includes(part));
    expect(missing).toEqual([]);
  });
});

describe('the guide', () => {
  const guide = TEXT.get('docs/DEPLOYMENT.md')!;

  test('has a place for each row of its checklist, in order', () => {
    const [, table = ''] = guide.split("\n## The guide's promises, row by row\n");
    const rows = [...table.matchAll(/^\| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm)];
    expect(rows.map(([, number]) => Number(number))).toEqual(Array.from({ length: 63 }, (_, index) => index + 1));
    for (const [row, , , place] of rows) expect(place, row).toMatch(/`|\]\(/);
  });

  test.each([
    'attached TC eBPF program to ingress',
    'updated tc_ebpf downstream set',
    'failed to attach TC program: permission denied',
    'interface not found: ',
    'EndpointSlice not found',
    'health probe failed',
    'FIB lookup failed',
  ])('its line "%s" is one that the agent writes', (line) => {
    const agent = globSync('agent/**/*.ts', { cwd: ROOT }).filter((file) => !file.startsWith('agent/doctor/'));
    expect(agent.map(read).join('\n')).toContain(line);
    expect(ALL_DOCS).toContain(line.trim());
  });

  describe('its greps', () => {
    beforeEach(() => void vi.useFakeTimers());
    afterEach(() => void vi.useRealTimers());

    test('FIB finds FIB failures, and nothing else', () => {
      const log = aLog();
      let count = 0;
      const row = (): ListenerCounters => ({
        listener: aListener({ name: 'syslog' }),
        mode: 'tc_ebpf',
        received: 0,
        forwarded: 0,
        bytesReceived: 0,
        bytesForwarded: 0,
        passed: new Map(),
        torn: new Map(),
        toSafetyNet: new Map([
          ['no_route', count],
          ['fragment', count],
        ]),
        dropped: new Map([['no_downstream', count]]),
        downstreams: new Map(),
        gone: new Map(),
      });
      const meaning = (reason: string) => VERDICTS.find(({ name }) => name === reason)!.meaning;
      const losses = watchLosses({ log, counters: () => [row()], meaning });
      count = 7;
      vi.advanceTimersByTime(10_000);
      losses.close();
      expect(log.lines).toHaveLength(3);
      expect(log.lines).toContainEqual(expect.stringMatching(/^WARN datagrams dropped .*reason="no_downstream"/));
      expect(log.lines).toContainEqual(expect.stringMatching(/^WARN datagrams took the slow way .*reason="fragment"/));
      expect(log.lines.filter((line) => /FIB/.test(line))).toEqual([
        expect.stringMatching(/^WARN FIB lookup failed listener="syslog" .*reason="no_route" datagrams=7/),
      ]);
    });
  });
});

describe('examples', () => {
  const yaml = PAGES.flatMap((page) => blocks(TEXT.get(page)!, 'yaml').map((block) => [page, block] as const));
  const configs = yaml.filter(([, block]) => /^listeners:/m.test(block));
  const rest = yaml.filter(([, block]) => !/^listeners:/m.test(block));

  test('there are some', () => {
    expect(configs.length).toBeGreaterThan(6);
    expect(rest.length).toBeGreaterThan(8);
  });

  test.each(configs)('of %s are configs', (_page, block) => {
    expect(() => parseConfig(block, 'config.yaml')).not.toThrow();
  });

  test.each(rest)('of %s are YAML, and sections of a config are valid', (_page, block) => {
    const value = parse(block) as Record<string, unknown>;
    expect(value).toBeTypeOf('object');
    const listener = { name: 'a', bind: '0.0.0.0:1', mode: 'userspace', downstream: [{ address: '10.0.0.1:1' }] };
    const sections = ['health', 'metrics', 'log'].filter((key) => key in value);
    const settings = 'settings' in value ? { settings: value.settings } : {};
    if (sections.length === 0 && !('settings' in value)) return;
    const whole = { listeners: [{ ...listener, ...settings }], ...('settings' in value ? {} : value) };
    expect(() => parseConfig(JSON.stringify(whole), 'config.yaml')).not.toThrow();
  });

  test('the JSON Schema for editors is that of the schema: npm run schema', () => {
    const fresh = execFileSync(process.execPath, ['setup/schema.ts', '--print'], { cwd: ROOT, encoding: 'utf8' });
    expect(read('docs/udp-fanout.schema.json')).toBe(fresh);
  });
});
