/** What only time brings: an hour without news, and versions that the server has forgotten. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatAddress } from '../../agent/address.ts';
import { openSliceApi, type SliceApi } from '../../agent/discovery/api.ts';
import type { EndpointSource } from '../../agent/discovery/endpoint-source.ts';
import { openKubernetesSource } from '../../agent/discovery/kubernetes.ts';
import { until } from '../../lab/patience.ts';
import { aListener, aLog } from '../fake/words.ts';
import type { ControlPlane } from './control-plane.ts';
import type { Report } from './report.ts';
import { PORT, Service } from './services.ts';

const NAMESPACE = 'watches';
/** An hour of discovery's own clock in two minutes. The server's does not run faster: to discovery it is a slow one. */
const FASTER = 30;
const HOUR_MS = 3_600_000;
/** Discovery takes an end that comes sooner for a server that goes away. */
const SHORT_WATCH_SECONDS = 6;
const PATIENCE = { limit: 60_000, every: 50 };

export async function checkWatches(plane: ControlPlane, report: Report): Promise<void> {
  plane.kubectl('create', 'namespace', NAMESPACE);
  await report.check('discovery: a quiet hour has no list, no error and no line, and the next change is followed', () =>
    quietHour(plane, new Service(plane, NAMESPACE, 'quiet')),
  );
  await plane.killApi();
  await plane.startApi({ watchCache: false });
  await report.check('discovery: a version that etcd has compacted (410) leads to a list, without a gap', () =>
    compacted(plane, new Service(plane, NAMESPACE, 'compacted')),
  );
}

async function quietHour(plane: ControlPlane, service: Service): Promise<void> {
  await service.has(['10.9.0.1']);
  const log = aLog();
  const source = openKubernetesSource({
    log,
    api: withTimeouts(openSliceApi(plane.credentials), (seconds) => Math.max(1, Math.round(seconds / FASTER))),
    now: () => performance.now() * FASTER,
    timer: (ms, task) => {
      const timer = setTimeout(task, ms / FASTER);
      return () => clearTimeout(timer);
    },
  });
  source.want([listenerOf(service)]);
  source.start(() => {});
  try {
    await comesTo(source, service, ['10.9.0.1']);
    await sleep(HOUR_MS / FASTER);
    const [status] = source.status();
    const errors = Object.entries(status!.errors).filter(([, count]) => count > 0);
    // Which version of discovery.k8s.io is served is found out by one error, before the first list.
    const unexpected = errors.filter(([cause, count]) => !(cause === 'not_found' && count === 1));
    const lines = log.lines.filter((line) => !line.includes('no discovery.k8s.io/v1 here, trying v1beta1'));
    const quiet = { relists: 0, unexpected: [], lines: [] };
    assert.deepEqual({ relists: status!.relists, unexpected, lines: beforeAndAfter(lines) }, quiet);
    await service.has(['10.9.0.2']);
    await comesTo(source, service, ['10.9.0.2']);
  } finally {
    source.close();
  }
}

/** That it follows (again) after that one error is said, too. */
function beforeAndAfter(lines: readonly string[]): string[] {
  return lines.filter((line) => !/INFO following EndpointSlices again/.test(line));
}

async function compacted(plane: ControlPlane, service: Service): Promise<void> {
  await service.has(['10.9.0.1', '10.9.0.2']);
  const api = withTimeouts(openSliceApi(plane.credentials), () => SHORT_WATCH_SECONDS);
  const source = openKubernetesSource({ log: aLog(), api });
  source.want([listenerOf(service)]);
  const gaps: string[] = [];
  source.start(() => {
    const found = addresses(source, service);
    if (found?.join() !== '10.9.0.1,10.9.0.2') gaps.push(String(found));
  });
  try {
    await comesTo(source, service, ['10.9.0.1', '10.9.0.2']);
    // Others change, so that the version that we stand at is one of the past.
    for (const name of ['a', 'b', 'c']) plane.kubectl('-n', NAMESPACE, 'create', 'configmap', `other-${name}`);
    await plane.compact();
    await until(
      `an answer 410 of ${JSON.stringify(source.status())}`,
      () => source.status()[0]!.errors.gone > 0,
      PATIENCE,
    );
    await until('a watch after it', () => source.status()[0]!.connected, PATIENCE);
    assert.equal(source.status()[0]!.relists, 1);
    assert.deepEqual(gaps, []);
    await service.has(['10.9.0.1']);
    await comesTo(source, service, ['10.9.0.1']);
  } finally {
    source.close();
  }
}

/** The same API with watches that the server ends after another time. */
function withTimeouts(api: SliceApi, seconds: (asked: number) => number): SliceApi {
  return {
    list: api.list,
    watch: (selection, options, signal) =>
      api.watch(selection, { ...options, timeoutSeconds: seconds(options.timeoutSeconds) }, signal),
  };
}

function listenerOf({ namespace, name }: Service) {
  return aListener({ endpoints: { kind: 'kubernetes', namespace, service: name, port: PORT } });
}

function addresses(source: EndpointSource, service: Service): string[] | undefined {
  return source.endpoints(listenerOf(service))?.list.map(({ address }) => formatAddress(address).split(':')[0]!);
}

async function comesTo(source: EndpointSource, service: Service, wanted: readonly string[]): Promise<void> {
  await until(`endpoints ${wanted}`, () => addresses(source, service)?.join() === wanted.join(), PATIENCE);
}
