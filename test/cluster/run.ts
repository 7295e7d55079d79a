/**
 * `npm run test:cluster`: k8s/ and discovery with a real etcd and a real kube-apiserver of Debian's packages, in place of
 * the fake. As root; the first run builds the server, which takes minutes and is kept (UDP_FANOUT_CACHE, else .cache).
 */
import { dirname } from 'node:path';
import { labObstacle } from '../../lab/lab.ts';
import { singleNode } from '../../lab/single-node.ts';
import { checkAgent } from './agent.ts';
import { ControlPlane } from './control-plane.ts';
import { checkConversations } from './conversations.ts';
import { checkDeployments } from './deployments.ts';
import { programs, programsObstacle } from './programs.ts';
import { Report, say } from './report.ts';
import { checkWatches } from './watches.ts';

/** What this is no proof of. */
const NOT_RUN = [
  ['a kubelet, a container runtime and their probes', 'Debian packages none of a release that is still maintained'],
  ['kube-controller-manager', 'the slices here are written by the tests, as its EndpointSlice controller would'],
  ['an API server from 1.21 on (discovery.k8s.io/v1, Pod Security)', 'later sources of Debian have the client alone'],
] as const;

const report = new Report();
const why = labObstacle() ?? programsObstacle();
if (why === undefined) await main();
else report.skip('all of it', why);
process.exitCode = report.end();

async function main(): Promise<void> {
  const found = programs(say);
  for (const [name, version] of Object.entries(found.versions)) say(`${name} ${version}`);
  // The tests' own kustomizations are built by the same kubectl.
  process.env.PATH = `${dirname(found.kubectl)}:${process.env.PATH}`;
  using lab = singleNode();
  const plane = await ControlPlane.start(lab.node, found);
  try {
    // So that it has a past that it has forgotten, as every server but the newest has.
    plane.kubectl('create', 'namespace', 'logging');
    await plane.killApi();
    await plane.startApi();
    await report.part('conversations', () => checkConversations(plane, report));
    await report.part('deployments', () => checkDeployments(plane, report));
    await report.part('agent', () => checkAgent(lab, plane, report));
    await report.part('watches', () => checkWatches(plane, report));
  } finally {
    plane.close();
  }
  for (const [what, reason] of NOT_RUN) report.skip(what, reason);
}
