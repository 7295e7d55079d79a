/** `npm run test:k8s`: the conversations that the fake API server is held to, with the API server of KUBECONFIG. */
import { openCredentials } from '../../agent/discovery/credentials.ts';
import { conversations } from './format.ts';
import { hold, inFreshNamespace, servedVersion } from './hold.ts';

if (!process.env.KUBECONFIG) {
  process.stderr.write(
    'test:k8s: KUBECONFIG is not set: want the path of a kubeconfig whose user may create namespaces and EndpointSlices\n',
  );
  process.exit(2);
}

const credentials = openCredentials();
const failed: string[] = [];
let skipped = 0;
try {
  await inFreshNamespace(credentials, async (namespace) => {
    const version = await servedVersion(credentials);
    process.stdout.write(`in namespace ${namespace}, with discovery.k8s.io/${version}\n`);
    for (const conversation of conversations()) {
      const { name } = conversation;
      try {
        const why = await hold(conversation, credentials, namespace);
        if (why !== undefined) skipped++;
        process.stdout.write(why === undefined ? `ok ${name}\n` : `skipped ${name}: ${why}\n`);
      } catch (error) {
        failed.push(name);
        process.stdout.write(`not ok ${(error as Error).message}\n`);
      }
    }
  });
} catch (error) {
  process.stderr.write(`test:k8s: ${(error as Error).message}\n`);
  process.exit(1);
}
const passed = conversations().length - failed.length - skipped;
process.stdout.write(`${passed} passed, ${failed.length} failed, ${skipped} skipped\n`);
process.exit(failed.length === 0 ? 0 : 1);
