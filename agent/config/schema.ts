/** The shape of the YAML: keys, types, ranges, enumerations, defaults. What spans several keys is in `rules.ts`. */
import * as z from 'zod';
import { LIMITS, MODES, PMTU, SOURCE_MODES, UNREADY } from '../model.ts';
import { refuseBind, refuseDownstream } from './address-text.ts';
import {
  address,
  choice,
  dnsLabel,
  interfaceName,
  pattern,
  section,
  servicePort,
  trueOrFalse,
  wantNumber,
  wholeNumber,
} from './values.ts';

export const PROTOCOLS = ['icmp', 'udp_port', 'udp_echo'] as const;
export const ON_EXIT = ['keep', 'detach'] as const;
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export const LOG_FORMATS = ['text', 'json'] as const;

/** The defaults that rules across keys need too. */
export const DEFAULTS = {
  intervalSecs: 5,
  timeoutSecs: 2,
  metricsBind: '0.0.0.0:9090',
  weight: 1,
  mode: 'auto',
} as const;

const WANT_INTERVAL = 'want seconds as a number from 1 to 3600';
const WANT_TIMEOUT = 'want seconds as a number above 0 and below interval_secs';
/** Thirty days: beyond any outage, and within what may be meant. */
const MOST_LEASE_SECS = 2_592_000;
// ":" and "*" are wildcards to the HTTP router.
const WANT_PATH = 'want a path such as /metrics: it starts with "/" and has no space, "?", "#", ":" or "*"';

const kubernetes = section({
  namespace: dnsLabel()
    .optional()
    .describe("Namespace of the Service. Default: the agent pod's own (POD_NAMESPACE), else `default`."),
  service: dnsLabel().describe('Name of the Service whose EndpointSlices list the receivers. Required.'),
  port: servicePort()
    .optional()
    .describe(
      "Receivers' UDP port, by number or by its name in the EndpointSlice. Default: the slice's only UDP port.",
    ),
  unready: choice(UNREADY)
    .optional()
    .describe(
      'Endpoints that are not ready, where none is: last_resort (those that answer health probes are in use) or never. Default: last_resort where health is on, else never.',
    ),
});

const downstream = section({
  name: pattern(/^[^\p{Cc}\u2028\u2029]{1,253}$/u, '1 to 253 characters on one line')
    .optional()
    .describe('Name of the receiver in logs and metrics, unique within the listener. Default: its address.'),
  address: address(refuseDownstream).describe(
    'Unicast "IP:port" of the receiver, unique within the listener. Required.',
  ),
  weight: wholeNumber(1, LIMITS.weight)
    .default(DEFAULTS.weight)
    .describe('Share of the datagrams relative to the other downstreams, 1 to 256. Default: 1.'),
});

const settings = section({
  max_packet_size: wholeNumber(1, 65507)
    .default(9000)
    .describe('Largest datagram the userspace datapath takes, in bytes of UDP payload, 1 to 65507. Default: 9000.'),
  batch_size: wholeNumber(1, 1024)
    .default(64)
    .describe('Datagrams that the userspace datapath takes with one system call, 1 to 1024. Default: 64.'),
  workers: wholeNumber(0, 256)
    .default(0)
    .describe(
      'Worker threads of the userspace datapath that serve the listener, 0 to 256; all listeners share them. Default: 0, one for each CPU within the limits of CPU and memory.',
    ),
  pin_cpus: trueOrFalse()
    .default(true)
    .describe('Pin each worker thread to a CPU, as long as all listeners that it serves want that. Default: true.'),
  recv_buf_size: wholeNumber(0, 2 ** 31 - 1)
    .default(0)
    .describe('Receive buffer of each userspace socket, in bytes, 0 to 2147483647. Default: 0, 4 MiB.'),
  max_sources: wholeNumber(1, 65536)
    .default(512)
    .describe(
      'Clients that each worker thread of the listener keeps a socket for to preserve their source, 1 to 65536. Default: 512.',
    ),
});

const listener = section({
  name: pattern(
    /^[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$/,
    '1 to 63 letters, digits, "-", "_" and ".", the first a letter or digit',
  ).describe('Name of the listener in logs and metrics, unique in the file. Required.'),
  bind: address(refuseBind).describe(
    'UDP "IP:port" whose datagrams are spread: 0.0.0.0 is every IPv4 address of the node, [::] takes IPv6 and IPv4. Required.',
  ),
  interface: interfaceName()
    .optional()
    .describe('Network interface whose ingress is taken; this or `interfaces` is required unless mode is userspace.'),
  interfaces: z
    .array(interfaceName(), { error: 'want a list of interface names such as [eth0, eth1]' })
    .optional()
    .describe('Several network interfaces whose ingress is taken, in place of `interface`.'),
  mode: choice(MODES)
    .default(DEFAULTS.mode)
    .describe('Datapath: tc_ebpf (kernel), userspace, or auto (kernel if it attaches, else userspace). Default: auto.'),
  source: choice(SOURCE_MODES)
    .default('auto')
    .describe(
      "Source address of what the userspace datapath sends: preserve (the client's, as the kernel path does), nat (this node's), or auto (preserve where the capabilities allow it, else nat). Default: auto.",
    ),
  pmtu: choice(PMTU)
    .default('fragment')
    .describe(
      'A datagram with DF that is larger than the way to its downstream takes: fragment (it is cut up all the same) or report (its sender is told by ICMP, and it is dropped). Of the kernel path. Default: fragment.',
    ),
  kubernetes: kubernetes
    .optional()
    .describe(
      'Receivers from the EndpointSlices of a Service; exactly one of `kubernetes` and `downstream` is required.',
    ),
  downstream: z.array(downstream, { error: 'want a list of downstreams, each a map with an address' }).optional().meta({
    description: 'Receivers from a fixed list, 1 to 4096.',
    minItems: 1,
    maxItems: LIMITS.downstreamsPerListener,
  }),
  settings: settings.prefault({}).describe('Tuning of the userspace datapath. Default: every key its own.'),
});

const health = section({
  enabled: trueOrFalse()
    .default(true)
    .describe('Probe the downstreams. Default: true when the section `health` is written, false when it is absent.'),
  interval_secs: z
    .number({ error: wantNumber(WANT_INTERVAL) })
    .min(1, { error: WANT_INTERVAL })
    .max(3600, { error: WANT_INTERVAL })
    .default(DEFAULTS.intervalSecs)
    .describe('Seconds from one probe of a downstream to the next, 1 to 3600, fractions allowed. Default: 5.'),
  timeout_secs: z
    .number({ error: wantNumber(WANT_TIMEOUT) })
    .gt(0, { error: WANT_TIMEOUT })
    .default(DEFAULTS.timeoutSecs)
    .describe(
      'Seconds without an answer after which a probe failed, above 0 and below interval_secs, fractions allowed. Default: 2.',
    ),
  protocol: choice(PROTOCOLS)
    .default('icmp')
    .describe(
      'Probe: icmp (echo request), udp_port (echo request, then an empty datagram that must not meet a closed port) or udp_echo (a datagram that the receiver must send back). Default: icmp.',
    ),
  fail_open: trueOrFalse().default(true).describe('Keep all downstreams in use when all are down. Default: true.'),
  fall: wholeNumber(1, 10)
    .default(1)
    .describe('Failed probes in a row that take a downstream out, 1 to 10. Default: 1.'),
  rise: wholeNumber(1, 10)
    .default(2)
    .describe('Answered probes in a row that bring a downstream back, 1 to 10. Default: 2.'),
});

const metrics = section({
  enabled: trueOrFalse()
    .default(true)
    .describe('Serve metrics over HTTP. Default: true when the section `metrics` is written, false when it is absent.'),
  bind: address(refuseBind)
    .prefault(DEFAULTS.metricsBind)
    .describe(
      'TCP "IP:port" of the HTTP server, no listener\'s port; [::] takes IPv6 and IPv4. Default: 0.0.0.0:9090.',
    ),
  path: z
    .string({ error: WANT_PATH })
    .regex(/^\/[^\s?#:*\p{Cc}]*$/u, { error: WANT_PATH })
    .refine((path) => path !== '/healthz' && path !== '/readyz', {
      error: 'the probes answer there, want another path',
    })
    .default('/metrics')
    .describe('HTTP path of the metrics, not /healthz or /readyz. Default: /metrics.'),
});

const log = section({
  level: choice(LOG_LEVELS).default('info').describe('Least severe lines that are logged. Default: info.'),
  format: choice(LOG_FORMATS)
    .default('text')
    .describe('Log lines as text or as JSON, one object a line. Default: text.'),
});

const lifecycle = section({
  on_exit: choice(ON_EXIT)
    .default('keep')
    .describe(
      'What a clean stop leaves on the host: keep (program and tables forward on, until the next agent takes over or the lease runs out) or detach (nothing). Default: keep.',
    ),
  lease_secs: wholeNumber(0, MOST_LEASE_SECS)
    .default(300)
    .describe(
      'Seconds that the program forwards on without an agent, before it leaves all datagrams to the stack; 0: for ever. Default: 300.',
    ),
});

/** The whole file. Its input is plain data of the YAML, its output has defaults filled in and addresses read. */
export const configSchema = section({
  listeners: z.array(listener, { error: 'want a list of listeners, each a map that starts with "- name:"' }).meta({
    description: 'UDP addresses whose datagrams are spread, each datagram to one downstream. Required, 1 to 256.',
    minItems: 1,
    maxItems: LIMITS.listeners,
  }),
  health: health.prefault({ enabled: false }).describe('Health checks of the downstreams. Default: off.'),
  metrics: metrics.prefault({ enabled: false }).describe('Metrics for Prometheus over HTTP. Default: off.'),
  lifecycle: lifecycle.prefault({}).describe('What goes on without the agent. Default: every key its own.'),
  log: log.prefault({}).describe('Log to standard output. Default: every key its own.'),
});

/** What a valid file says, before defaults. */
export type ConfigInput = z.input<typeof configSchema>;
/** What a valid file means: defaults filled in, addresses read. */
export type ConfigOutput = z.output<typeof configSchema>;

/** The keys that may stand at a path; empty where no map is expected. */
export function allowedKeys(path: readonly (string | number)[]): readonly string[] {
  let schema: unknown = configSchema;
  for (const step of path) {
    const inner = unwrap(schema);
    if (inner instanceof z.ZodObject) schema = inner.shape[step];
    else schema = inner instanceof z.ZodArray ? inner.element : undefined;
  }
  const place = unwrap(schema);
  return place instanceof z.ZodObject ? Object.keys(place.shape) : [];
}

function unwrap(schema: unknown): unknown {
  const wrapped = schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault;
  return wrapped ? unwrap(schema.unwrap()) : schema;
}
