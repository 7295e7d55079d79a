/**
 * `npm start`: a client, this node and three receivers in network namespaces, the agent between them forwarding real
 * datagrams through the kernel path, and a live table of what it does. Ctrl-C removes all of it.
 */
import { parseArgs } from 'node:util';
import { startAgent } from '../lab/agent.ts';
import { labObstacle } from '../lab/lab.ts';
import { singleNode } from '../lab/single-node.ts';
import { receive, startSending } from '../lab/traffic.ts';
import { Screen, table } from './screen.ts';

const LISTENER = 'syslog';
const TICK_MS = 1000;

const { values } = parseArgs({ options: { seconds: { type: 'string' }, rate: { type: 'string', default: '3000' } } });
const obstacle = labObstacle();
if (obstacle) {
  process.stderr.write(`npm start: ${obstacle}; with a config of your own: npm start -- --config FILE\n`);
  process.exit(1);
}

const ended = Promise.race([
  ...(['SIGINT', 'SIGTERM'] as const).map((signal) => new Promise((resolve) => process.once(signal, resolve))),
  ...(values.seconds ? [new Promise((resolve) => setTimeout(resolve, Number(values.seconds) * 1000))] : []),
]);
await using lab = singleNode();
const { client, node, pods } = lab;
const agent = startAgent(node, {
  listeners: [
    {
      name: LISTENER,
      bind: '0.0.0.0:9000',
      interface: 'eth0',
      mode: 'tc_ebpf',
      downstream: pods.map(({ address }, index) => ({ name: `receiver-${index + 1}`, address })),
    },
  ],
  metrics: { enabled: true, bind: '127.0.0.1:9090' },
});
await agent.waitFor(/attached TC eBPF program/);
await using receivers = await receive(pods);
const sending = await startSending(client, {
  mayFail: true,
  least: 1,
  to: `${node.ip}:9000`,
  from: `${client.ip}:40000`,
  rate: Number(values.rate),
});

process.stdout.write(`${introduction()}\n`);
const screen = new Screen();
let before = await agent.metrics();
let seen = pods.map(() => 0);
let at = performance.now();
const tick = setInterval(async () => {
  const [metrics, report] = await Promise.all([agent.metrics(), receivers.peek()]).catch(() => []);
  if (!metrics || !report) return;
  const seconds = (performance.now() - at) / 1000;
  at = performance.now();
  const rate = (key: string) => Math.round(((metrics.get(key) ?? 0) - (before.get(key) ?? 0)) / seconds);
  const counts = report.receivers.map(({ count }) => count);
  const rows = pods.map(({ address }, index) => {
    const labels = `{listener="${LISTENER}",endpoint="${address}"}`;
    const sources = Object.keys(report.receivers[index]!.sources).join(' ');
    const arrived = Math.round((counts[index]! - seen[index]!) / seconds);
    return [address, String(rate(`udp_fanout_downstream_packets_total${labels}`)), String(arrived), sources];
  });
  screen.show([
    ...table(['downstream', 'forwarded/s', 'arrived/s', 'source that the receiver sees'], rows),
    '',
    ...losses(metrics, before),
  ]);
  before = metrics;
  seen = counts;
}, TICK_MS);

await ended;
clearInterval(tick);
screen.close();
await sending.stop();
await agent.stop();

function introduction(): string {
  const name = node.namespace.name;
  const { ip, hostInterface } = pods.at(-1)!;
  return `client ${client.ip}:40000  ->  node ${node.ip}:9000 on eth0 (udp_fanout)  ->  three receivers, in turn

Try in another terminal, as root:
  the program on the node's interface       ip netns exec ${name} tc filter show dev eth0 ingress
  the counters in the kernel                bpftool map dump name STATS
  what Prometheus would scrape              ip netns exec ${name} curl -s 127.0.0.1:9090/metrics
  a loss, by its name, in the table below   ip -n ${name} route replace blackhole ${ip}
  and the end of it                         ip -n ${name} route replace ${ip} dev ${hostInterface}
Ctrl-C ends the demo and removes everything.
`;
}

/** Every reason for which a datagram did not reach a receiver; one line that says so if there is none. */
function losses(metrics: ReadonlyMap<string, number>, last: ReadonlyMap<string, number>): string[] {
  const reasons = [...metrics].filter(
    ([key, value]) => /_packets_(dropped|to_safety_net)_total\{/.test(key) && value > 0,
  );
  if (reasons.length === 0) return ['dropped: none     by the safety net: none'];
  return reasons.map(([key, value]) => {
    const what = key.includes('_dropped_') ? 'dropped' : 'by the safety net';
    return `${what}: ${/reason="([^"]+)"/.exec(key)?.[1]}  ${value} in all, ${value - (last.get(key) ?? 0)} since the last look`;
  });
}
