/** `npm run test:k8s`: the conversations that the fake API server is held to, with the API server of KUBECONFIG. */
import { openCredentials } from '../../agent/discovery/credentials.ts';
import { conversations } from './format.ts';
import { hold, inFreshNamespace } from './hold.ts';

if (!process.env.KUBECONFIG) {
  process.stderr.write(
    'test:k8s: KUBECONFIG is not set: want the path of a kubeconfig whose user may create namespaces and EndpointSlices\n',
  );
  process.exit(2);
}

const credentials = openCredentials();
const failed: string[] = [];
try {
  await inFreshNamespace(credentials, async (namespace) => {
    process.stdout.write(`in namespace ${namespace}\n`);
    for (const conversation of conversations()) {
      const wrong = await hold(conversation, credentials, namespace).catch((error: Error) => error.message);
      process.stdout.write(wrong === undefined ? `ok ${conversation.name}\n` : `not ok ${wrong}\n`);
      if (wrong !== undefined) failed.push(conversation.name);
    }
  });
} catch (error) {
  process.stderr.write(`test:k8s: ${(error as Error).message}\n`);
  process.exit(1);
}
process.stdout.write(`${conversations().length - failed.length} passed, ${failed.length} failed\n`);
process.exit(failed.length === 0 ? 0 : 1);
