/** Alerts fire when they should and only then, as Prometheus itself computes them; and nobody watches what does not exist. */
import { spawnSync } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { CAUSES } from '../../agent/discovery/failure.ts';
import { present } from '../../setup/packages.mjs';
import { container, manifest } from './objects.ts';
import { K8S, ROOT, without } from './tools.ts';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly description: string };
}

const [resource] = manifest('monitoring/prometheusrule.yaml') as unknown as readonly [
  { readonly spec: { readonly groups: readonly { readonly rules: readonly Rule[] }[] } },
];
const rules = resource.spec.groups.flatMap((group) => group.rules);
const directory = mkdtempSync(join(tmpdir(), 'alerts-'));
afterAll(() => rmSync(directory, { recursive: true }));

function promtool(...args: readonly string[]): { readonly status: number | null; readonly text: string } {
  writeFileSync(join(directory, 'rules.yaml'), stringify(resource.spec));
  const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: directory, encoding: 'utf8' });
  return { status, text: stdout + stderr };
}

/** Values at intervals of a minute, in promtool's notation, and which alerts fire at the end of 30 minutes. */
interface Story {
  readonly title: string;
  readonly series: Readonly<Record<string, string>>;
  readonly fires: readonly string[];
}

const labels = (more = '') => `{instance="a", listener="syslog"${more}}`;
const received = (rate: number) => ({ [`udp_fanout_packets_received_total${labels()}`]: `0+${rate * 60}x90` });
const dropped = (rate: number) => ({
  [`udp_fanout_packets_dropped_total${labels(', reason="no_downstream"')}`]: `0+${rate * 60}x90`,
});
const torn = (rate: number) => ({
  [`udp_fanout_packets_torn_total${labels(', reason="no_downstream"')}`]: `0+${rate * 60}x90`,
});
const watchAge = (value: string) => ({
  'udp_fanout_discovery_watch_age_seconds{instance="a", namespace="logging", service="receivers"}': value,
});

const STORIES: readonly Story[] = [
  {
    title: 'all is well',
    series: {
      ...received(1000),
      ...dropped(0),
      ...watchAge('20x90'),
      [`udp_fanout_packets_to_safety_net_total${labels()}`]: '0x90',
      [`udp_fanout_downstream_active${labels()}`]: '3x90',
      [`udp_fanout_downstream_health${labels(', endpoint="10.0.1.10:5514"')}`]: '1x90',
      [`udp_fanout_health_fail_open${labels()}`]: '0x90',
      [`udp_fanout_health_last_resort${labels()}`]: '0x90',
      'udp_fanout_discovery_errors_total{instance="a", cause="forbidden"}': '0x90',
      'udp_fanout_ready{instance="a"}': '1x90',
      'udp_fanout_config_last_reload_successful{instance="a"}': '1x90',
      'udp_fanout_scrape_failures_total{instance="a"}': '0x90',
      'udp_fanout_internal_errors_total{instance="a", where="losses"}': '0x90',
      'up{instance="a", namespace="udp-fanout", container="udp-fanout"}': '1x90',
    },
    fires: [],
  },
  { title: 'a few are lost of many', series: { ...received(1000), ...dropped(1) }, fires: ['UdpFanoutHighDropRate'] },
  {
    title: 'many are lost',
    series: { ...received(100), ...dropped(50) },
    fires: ['UdpFanoutHighDropRate', 'UdpFanoutDropRatio'],
  },
  { title: 'many are forwarded in part', series: { ...received(100), ...torn(50) }, fires: ['UdpFanoutDropRatio'] },
  {
    title: 'a few are lost and a few in part, for one reason',
    series: { ...received(1000), ...dropped(6), ...torn(6) },
    fires: ['UdpFanoutHighDropRate', 'UdpFanoutDropRatio'],
  },
  {
    title: 'no receiver',
    series: { [`udp_fanout_downstream_active${labels()}`]: '0x90' },
    fires: ['UdpFanoutNoDownstream'],
  },
  {
    title: 'all probes fail',
    series: { [`udp_fanout_health_fail_open${labels()}`]: '1x90' },
    fires: ['UdpFanoutFailOpen'],
  },
  {
    title: 'no receiver is ready, and they answer',
    series: { [`udp_fanout_health_last_resort${labels()}`]: '1x90' },
    fires: ['UdpFanoutLastResort'],
  },
  {
    title: 'one receiver is down',
    series: { [`udp_fanout_downstream_health${labels(', endpoint="10.0.1.10:5514"')}`]: '0x90' },
    fires: ['UdpFanoutDownstreamUnhealthy'],
  },
  { title: 'the API server is silent', series: watchAge('0+60x90'), fires: ['UdpFanoutStaleWatch'] },
  {
    title: 'the API server was never reached, hence the agent is not ready',
    series: { ...watchAge('-1x90'), 'udp_fanout_ready{instance="a"}': '0x90' },
    fires: ['UdpFanoutStaleWatch'],
  },
  {
    title: 'the Role is missing',
    series: { 'udp_fanout_discovery_errors_total{instance="a", cause="forbidden"}': '0+2x90' },
    fires: ['UdpFanoutForbidden'],
  },
  {
    title: 'the program is on no interface',
    series: { ...watchAge('20x90'), 'udp_fanout_ready{instance="a"}': '0x90' },
    fires: ['UdpFanoutAttachmentLost'],
  },
  {
    title: 'the program is on no interface, and nothing is asked of Kubernetes',
    series: { 'udp_fanout_ready{instance="a"}': '0x90' },
    fires: ['UdpFanoutAttachmentLost'],
  },
  {
    title: 'the senders have gone',
    series: { [`udp_fanout_packets_received_total${labels()}`]: '0+6000x45 270000x45' },
    fires: ['UdpFanoutSilent'],
  },
  {
    title: 'a listener that nobody ever sent to',
    series: { [`udp_fanout_packets_received_total${labels()}`]: '0x90' },
    fires: [],
  },
  {
    title: 'half takes the safety net’s way',
    series: {
      ...received(100),
      [`udp_fanout_packets_to_safety_net_total${labels(', reason="fragment"')}`]: '0+3000x90',
    },
    fires: ['UdpFanoutSlowPath'],
  },
  {
    title: 'half never meets the program',
    series: {
      ...received(100),
      [`udp_fanout_packets_received_total${labels(', mode="tc_ebpf"')}`]: '0+3000x90',
      [`udp_fanout_packets_received_total${labels(', mode="userspace"')}`]: '0+3000x90',
    },
    fires: ['UdpFanoutSlowPath'],
  },
  {
    title: 'an edited config has mistakes',
    series: { 'udp_fanout_config_last_reload_successful{instance="a"}': '1x60 0x30' },
    fires: ['UdpFanoutConfigRefused'],
  },
  {
    title: 'an edited config has mistakes since three minutes ago',
    series: { 'udp_fanout_config_last_reload_successful{instance="a"}': '1x71 0x20' },
    fires: [],
  },
  {
    title: 'counters cannot be read',
    series: { 'udp_fanout_scrape_failures_total{instance="a"}': '0+1x90' },
    fires: ['UdpFanoutScrapeFailures'],
  },
  {
    title: 'the agent outlives an error of its own',
    series: { 'udp_fanout_internal_errors_total{instance="a", where="losses"}': '0+1x90' },
    fires: ['UdpFanoutInternalErrors'],
  },
  {
    title: 'an agent is gone',
    series: { 'up{instance="a", namespace="udp-fanout", container="udp-fanout"}': '0x90' },
    fires: ['UdpFanoutDown'],
  },
];

describe.skipIf(!present('promtool'))(`the alerts${without('promtool', 'comes with Debian’s prometheus')}`, () => {
  test('are rules that Prometheus takes', () => {
    const { status, text } = promtool('check', 'rules', 'rules.yaml');
    expect(text).toContain(`SUCCESS: ${rules.length} rules found`);
    expect(status).toBe(0);
  });

  test.each(STORIES)('$title: $fires', ({ series, fires }) => {
    // The names of those that fire; what each says is written in one place only.
    const query = 'count by (alertname) (ALERTS{alertstate="firing"})';
    const sample = (name: string) => ({ labels: `{alertname="${name}"}`, value: 1 });
    const input_series = Object.entries(series).map(([name, values]) => ({ series: name, values }));
    const promql_expr_test = [{ expr: query, eval_time: '75m', exp_samples: fires.map(sample) }];
    const story = { rule_files: ['rules.yaml'], tests: [{ interval: '1m', input_series, promql_expr_test }] };
    writeFileSync(join(directory, 'story.yaml'), stringify(story));
    expect(promtool('test', 'rules', 'story.yaml')).toMatchObject({ status: 0 });
  });
});

test('every alert has a story in which it fires', () => {
  const told = new Set(STORIES.flatMap(({ fires }) => fires));
  expect(rules.map(({ alert }) => alert).filter((name) => !told.has(name))).toEqual([]);
});

test('row 42: the guide’s alert is as the guide writes it', () => {
  expect(rules[0]).toMatchObject({
    alert: 'UdpFanoutHighDropRate',
    expr: 'rate(udp_fanout_packets_dropped_total[5m]) > 0.01',
    annotations: { summary: 'udp-fanout dropping packets' },
  });
});

test('every alert says how bad, what, and what to do', () => {
  for (const { labels, annotations } of rules) {
    expect(['info', 'warning', 'critical']).toContain(labels.severity);
    expect(annotations.summary).not.toBe('');
    expect(annotations.description).toContain('{{ $labels.instance }}');
  }
});

/** The metrics that the agent defines; a histogram has its three. */
const defined = new Set(
  globSync('agent/observe/*.ts', { cwd: ROOT }).flatMap((file) => {
    const source = readFileSync(join(ROOT, file), 'utf8');
    return [...source.matchAll(/'(udp_fanout_[a-z_]+)'/g)].flatMap(([, name]) =>
      name!.endsWith('_round_trip_seconds') ? ['bucket', 'sum', 'count'].map((part) => `${name}_${part}`) : [name!],
    );
  }),
);

test.each(globSync('k8s/monitoring/*.{yaml,json}', { cwd: ROOT }))('%s names only metrics that exist', (file) => {
  // A word that ends in an underscore stands for several in a sentence.
  const used = readFileSync(join(ROOT, file), 'utf8').match(/\budp_fanout_[a-z_]*[a-z]\b/g) ?? [];
  expect([...new Set(used)].filter((name) => !defined.has(name))).toEqual([]);
  if (/rule|dashboard\.json/.test(file)) expect(used.length).toBeGreaterThan(10);
});

test('causes that an alert names exist', () => {
  const named = rules.flatMap(({ expr }) => [...expr.matchAll(/cause="([^"]*)"/g)].map(([, cause]) => cause));
  expect(named.filter((cause) => !(CAUSES as readonly (string | undefined)[]).includes(cause))).toEqual([]);
});

test('the dashboard’s panels do not overlap and each asks something', () => {
  const { panels } = JSON.parse(readFileSync(join(K8S, 'monitoring/dashboard.json'), 'utf8')) as Dashboard;
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, index) => `${x + (index % w)},${y + Math.floor(index / w)}`),
  );
  expect(new Set(cells).size).toBe(cells.length);
  for (const { targets, title } of panels) {
    expect(title).not.toBe('');
    expect(targets.every(({ expr }) => expr.includes('udp_fanout_'))).toBe(true);
  }
});

test('the PodMonitor finds the port that the DaemonSet names', () => {
  const [monitor] = manifest('monitoring/podmonitor.yaml') as unknown as readonly [
    { readonly spec: { readonly podMetricsEndpoints: readonly { readonly port: string; readonly path: string }[] } },
  ];
  const [endpoint] = monitor.spec.podMetricsEndpoints;
  expect(container(manifest('daemonset.yaml')).ports?.map(({ name }) => name)).toContain(endpoint?.port);
  expect(endpoint?.path).toBe('/metrics');
});

interface Dashboard {
  readonly panels: readonly {
    readonly title: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
    readonly targets: readonly { readonly expr: string }[];
  }[];
}
