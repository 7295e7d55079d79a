/** A certificate authority of one test run, and what it signs for the API server. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface ServerCertificate {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
const NAMES = 'subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:::1';

/** A new authority and a certificate for the loopback addresses. Throws where there is no openssl. */
export function issueCertificate(): ServerCertificate {
  const directory = mkdtempSync(join(tmpdir(), 'fake-ca-'));
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
  const read = (name: string) => readFileSync(join(directory, name), 'utf8');
  try {
    openssl('req', '-x509', ...KEY, '-subj', '/CN=fake-ca', '-keyout', 'ca.key', '-out', 'ca.crt');
    const signed = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-addext', NAMES, '-addext', 'basicConstraints=CA:FALSE'];
    openssl('req', '-x509', ...KEY, ...signed, '-subj', '/CN=kube-apiserver', '-keyout', 'tls.key', '-out', 'tls.crt');
    return { ca: read('ca.crt'), cert: read('tls.crt'), key: read('tls.key') };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
