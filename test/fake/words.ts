/** Listeners, endpoints, links and logs for tests, with everything that a test does not care about filled in. */
import type { Log, LogLevel } from '../../agent/log.ts';
import type { Endpoint, Listener } from '../../agent/model.ts';
import type { Link } from '../../agent/netlink/link.ts';

const SETTINGS = { maxPacketSize: 9000, batchSize: 64, workers: 0, pinCpus: true, recvBufSize: 0, maxSources: 512 };

export function aListener(fields: Partial<Listener> = {}): Listener {
  const id = fields.id ?? 0;
  return {
    id,
    name: `listener-${id}`,
    bind: { family: 4, ip: '0.0.0.0', port: 9000 + id },
    interfaces: ['eth0'],
    mode: 'tc_ebpf',
    endpoints: { kind: 'static', list: [] },
    source: 'auto',
    pmtu: 'fragment',
    settings: SETTINGS,
    ...fields,
  };
}

export function anEndpoint(ip: string, port = 9000, weight = 1): Endpoint {
  return { address: { family: ip.includes(':') ? 6 : 4, ip, port }, weight };
}

export function aLink(fields: Partial<Link> = {}): Link {
  return {
    index: 2,
    name: 'eth0',
    altNames: [],
    type: 1,
    up: true,
    carrier: true,
    noArp: false,
    mtu: 1500,
    mac: '02:00:00:00:00:01',
    kind: 'veth',
    master: 0,
    ...fields,
  };
}

/** A log that keeps its lines: `LEVEL message key=value`. */
export function aLog(): Log & { readonly lines: string[] } {
  const lines: string[] = [];
  const at =
    (level: LogLevel) =>
    (message: string, fields: object = {}) => {
      const text = Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`);
      lines.push(`${level.toUpperCase()} ${message}${text.join('')}`);
    };
  return { lines, trace: at('trace'), debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
