/** k8s/check-cluster.sh against a kubectl that answers from a table. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { K8S } from './tools.ts';

/** A part of kubectl's arguments, and what it prints then; null: nothing, and it fails, as without the right to ask. */
type Answers = Readonly<Record<string, string | null>>;

const SCRIPT = join(K8S, 'check-cluster.sh');
const CONFIG = `
listeners:
  # Tenant A
  - name: syslog
    bind: "0.0.0.0:5514"     # Listener port
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: logging     # where
      service: vector-aggregators
      port: 5514
`;

const EDITED =
  '"/etc/udp-fanout/config.yaml" was edited and is refused, the agent goes on by the config it had: /etc/udp-fanout/config.yaml:3:11: not a port';

/** A k3s cluster with MetalLB on which all is well. */
const GOOD: Answers = {
  'get --raw /version': '{\n  "major": "1",\n  "gitVersion": "v1.29.5+k3s1"\n}',
  'get --raw /apis/discovery.k8s.io': '{"versions":[{"groupVersion":"discovery.k8s.io/v1","version":"v1"}]}',
  'nodeInfo.kernelVersion':
    'vm1|5.15.0-113-generic|amd64|linux\nvm2|6.12.43|arm64|linux\nwin|10.0.20348|amd64|windows\n',
  'get daemonsets -A': 'kube-system/kube-proxy\nmetallb-system/speaker\nkube-flannel/kube-flannel-ds\n',
  'get configmap udp-fanout': CONFIG,
  'auth can-i': 'yes',
  '-n logging get service vector-aggregators': 'UDP',
  'kubernetes.io/service-name=vector-aggregators': '5514 10.42.0.5=true 10.42.1.6=true 10.42.1.7=false \n',
  'get namespace udp-fanout': 'udp-fanout privileged',
  'get daemonset udp-fanout': '2 2',
  'jsonpath={.items[*].metadata.name}': 'a b',
  'proxy/readyz': 'ok',
};

let bin = '';
beforeAll(() => {
  bin = mkdtempSync(join(tmpdir(), 'kubectl-'));
});
afterAll(() => rmSync(bin, { recursive: true }));

function check(change: Answers = {}, args: readonly string[] = []) {
  const rows = Object.entries({ ...GOOD, ...change }).map(([part, answer]) => {
    const said = answer === null ? 'exit 1' : `cat <<'ANSWER'\n${answer}\nANSWER\nexit 0`;
    return `*'${part}'*)\n${said}\n;;`;
  });
  // Of two parts that fit the longer one is meant.
  rows.sort((a, b) => b.indexOf("'*)") - a.indexOf("'*)"));
  const text = `#!/bin/bash\ncase "$*" in\n${rows.join('\n')}\nesac\necho "NotFound: $*" >&2\nexit 1\n`;
  writeFileSync(join(bin, 'kubectl'), text, { mode: 0o755 });
  const { stdout, stderr, status } = spawnSync(SCRIPT, args, {
    encoding: 'utf8',
    env: { PATH: `${bin}:/usr/bin:/bin` },
  });
  return { code: status, stdout, stderr, lines: stdout.trim().split('\n') };
}

describe('check-cluster.sh', () => {
  test('a cluster on which all is well', () => {
    const { code, stdout, lines } = check();
    expect(lines.filter((line) => !/^ok {4}/.test(line))).toEqual([]);
    expect(code).toBe(0);
    for (const line of [
      'ok    API server: Kubernetes v1.29.5+k3s1',
      'ok    EndpointSlice API: discovery.k8s.io/v1',
      'ok    node vm1: amd64, kernel 5.15.0-113-generic',
      'ok    node vm2: arm64, kernel 6.12.43',
      'ok    node win: runs windows, where no agent is scheduled',
      'ok    RBAC logging: the agent may get, list and watch endpointslices',
      'ok    Service logging/vector-aggregators: 2 of 3 endpoints are ready',
      'ok    DaemonSet: 2 of 2 pods are Ready',
    ]) {
      expect(lines).toContain(line);
    }
    expect(stdout).toMatch(/ok {4}MetalLB: .*\nok {4}CNI: flannel in kube-flannel: .*1450/);
    expect(stdout).toMatch(/ok {4}listener syslog: takes interface eth0: /);
    expect(stdout).toMatch(/udp-fanout doctor --config/);
  });

  /** What is different, the line that says so, and the exit code. */
  const rows: readonly (readonly [name: string, change: Answers, line: RegExp, code?: number])[] = [
    [
      'no API server',
      { 'get --raw /version': null },
      /^fail {2}API server: does not answer; see `kubectl cluster-info/m,
    ],
    [
      '1.18',
      { 'get --raw /version': '{"gitVersion": "v1.18.20"}' },
      /^fail {2}API server: Kubernetes v1\.18\.20 is older/m,
    ],
    [
      '1.20 with v1beta1 alone',
      { 'get --raw /apis/discovery.k8s.io': '{"versions":[{"groupVersion":"discovery.k8s.io/v1beta1"}]}' },
      /^ok {4}EndpointSlice API: discovery\.k8s\.io\/v1beta1 alone/m,
      0,
    ],
    [
      'an old kernel',
      { 'nodeInfo.kernelVersion': 'a|5.4.0|amd64|linux' },
      /^fail {2}node a: kernel 5\.4\.0 is older than 5\.10/m,
    ],
    ['5.9 is older than 5.10', { 'nodeInfo.kernelVersion': 'a|5.9.16|amd64|linux' }, /^fail {2}node a: /m],
    ['another architecture', { 'nodeInfo.kernelVersion': 'a|6.1.0|s390x|linux' }, /^fail {2}node a: is s390x/m],
    ['no right to see nodes', { 'nodeInfo.kernelVersion': null }, /^warn {2}nodes: cannot be listed/m, 0],
    ['a cluster without nodes', { 'nodeInfo.kernelVersion': '' }, /^warn {2}nodes: the cluster has none; no agent/m, 0],
    ['no right to see DaemonSets', { 'get daemonsets -A': null }, /^warn {2}CNI: cannot be seen/m, 0],
    ['no right to see nodes, and the rest is well', { 'get nodes': null }, /^ok {4}CNI: flannel/m, 0],
    ['Cilium', { 'get daemonsets -A': 'kube-system/cilium' }, /^warn {2}CNI: Cilium: .*enable-tcx: "false"/m, 0],
    [
      'Cilium that runs after us',
      {
        'get daemonsets -A': 'kube-system/cilium',
        '-n kube-system get configmap cilium-config -o jsonpath={.data.enable-tcx}': 'false',
        '-n kube-system get configmap cilium-config -o jsonpath={.data.bpf-filter-priority}': '50000',
      },
      /^ok {4}CNI: Cilium, at pref 50000/m,
      0,
    ],
    [
      'Cilium in place of kube-proxy',
      {
        'get daemonsets -A': 'kube-system/cilium',
        '-n kube-system get configmap cilium-config -o jsonpath={.data.kube-proxy-replacement}': 'true',
      },
      /^warn {2}CNI: Cilium replaces kube-proxy/m,
      0,
    ],
    [
      'Calico',
      { 'get daemonsets -A': 'calico-system/calico-node' },
      /^ok {4}CNI: calico-node in calico-system: .*rp_filter/m,
      0,
    ],
    [
      'OVN',
      { 'get daemonsets -A': 'openshift-ovn-kubernetes/ovnkube-node' },
      /^ok {4}CNI: OVN in .*1400.*add-scc-to-user/m,
      0,
    ],
    [
      'flannel inside k3s',
      { 'get daemonsets -A': '', 'backend-type': 'vxlan vxlan' },
      /^ok {4}CNI: flannel, built in \(k3s\)/m,
      0,
    ],
    [
      'no Service',
      { '-n logging get service vector-aggregators': '' },
      /^fail {2}Service logging\/vector-aggregators: is not there/m,
    ],
    [
      'no right to see the Service',
      { '-n logging get service vector-aggregators': null },
      /^warn {2}Service logging\/vector-aggregators: cannot be read/m,
      0,
    ],
    [
      'no right to see endpoints',
      { 'kubernetes.io/service-name=vector-aggregators': null },
      /^warn {2}Service logging\/vector-aggregators: its endpoints cannot be listed/m,
      0,
    ],
    ['a TCP Service', { '-n logging get service vector-aggregators': 'TCP TCP' }, /has no UDP port, only TCP TCP/m],
    [
      'no endpoints',
      { 'kubernetes.io/service-name=vector-aggregators': '' },
      /^fail {2}Service \S+: has no endpoints/m,
    ],
    [
      'none ready',
      { 'kubernetes.io/service-name=vector-aggregators': '5514 10.42.0.5=false ' },
      /^fail {2}Service \S+: has no ready endpoint/m,
    ],
    [
      'a condition that is not set means ready',
      { 'kubernetes.io/service-name=vector-aggregators': '5514 10.42.0.5= ' },
      /^ok {4}Service \S+: 1 of 1 endpoints are ready/m,
      0,
    ],
    [
      'the Service’s port in place of the receivers’',
      { 'kubernetes.io/service-name=vector-aggregators': '8080 10.42.0.5=true ' },
      /^warn {2}Service \S+: no endpoint has port 5514; .*targetPort/m,
      0,
    ],
    [
      'no rights',
      { 'auth can-i watch': 'no' },
      /^fail {2}RBAC logging: the agent may not watch endpointslices; .*components\/tenant/m,
    ],
    [
      'rights that cannot be seen',
      { 'auth can-i': 'Error: cannot impersonate' },
      /^warn {2}RBAC logging: cannot be checked/m,
      0,
    ],
    ['no config', { 'get configmap udp-fanout': '' }, /^warn {2}config: there is no ConfigMap/m, 0],
    [
      'no right to see the config',
      { 'get configmap udp-fanout': null },
      /^warn {2}config: the ConfigMap udp-fanout in udp-fanout cannot be read/m,
      0,
    ],
    [
      'no namespace',
      { 'get namespace udp-fanout': '' },
      /^warn {2}namespace: udp-fanout is not there; kubectl apply -k/m,
      0,
    ],
    [
      'no right to see the namespace',
      { 'get namespace udp-fanout': null },
      /^warn {2}namespace: udp-fanout cannot be read; .*\nok {4}DaemonSet: 2 of 2/m,
      0,
    ],
    [
      'pod security',
      { 'get namespace udp-fanout': 'udp-fanout baseline' },
      /^fail {2}namespace: .*refuses hostNetwork/m,
    ],
    ['no DaemonSet', { 'get daemonset udp-fanout': '' }, /^warn {2}DaemonSet: udp-fanout is not in/m, 0],
    [
      'no right to see the DaemonSet',
      { 'get daemonset udp-fanout': null },
      /^warn {2}DaemonSet: udp-fanout in udp-fanout cannot be read/m,
      0,
    ],
    ['no node', { 'get daemonset udp-fanout': '0 0' }, /^warn {2}DaemonSet: is scheduled on no node/m, 0],
    [
      'a pod that is not Ready',
      { 'get daemonset udp-fanout': '2 1', 'app.kubernetes.io/name=udp-fanout': 'a|vm1|True\nb|vm2|False' },
      /^fail {2}DaemonSet: 1 of 2 pods are Ready.*\nfail {2}pod b: on vm2 is not Ready/m,
    ],
    [
      'a config that was edited and is refused',
      { 'pods/a/proxy/readyz': `ok\nconfig: ${EDITED}` },
      /^fail {2}pod a: config: "\/etc\/udp-fanout\/config\.yaml" was edited and is refused, the agent goes on/m,
    ],
    [
      'another remark of an agent that is ready',
      { 'pods/b/proxy/readyz': 'ok\nhealth(syslog): all probes fail' },
      /^warn {2}pod b: health\(syslog\): all probes fail; kubectl -n udp-fanout logs b/m,
      0,
    ],
    ['agents that are ready and say no more', {}, /^ok {4}DaemonSet: 2 of 2 pods are Ready\nok {4}next: /m, 0],
    [
      'no right to list pods',
      { 'jsonpath={.items[*].metadata.name}': null },
      /^warn {2}pods: cannot be listed, and so not be asked whether they follow their config; .*right to list pods.*\nok {4}next: /m,
      0,
    ],
    [
      'no right to ask pods is said once',
      { 'auth can-i get pods --subresource=proxy': 'no', 'proxy/readyz': null },
      /Ready\nwarn {2}pods: cannot be asked whether they follow their config; ask for the right to get pods\/proxy in udp-fanout, or run doctor in each: .*\nok {4}next: /m,
      0,
    ],
    [
      'no right to ask pods, with a reason',
      { 'auth can-i get pods --subresource=proxy': 'no - no RBAC policy matched', 'proxy/readyz': null },
      /Ready\nwarn {2}pods: cannot be asked .*\nok {4}next: /m,
      0,
    ],
    [
      'a pod that does not answer, and the next one does',
      { 'pods/a/proxy/readyz': null, 'pods/b/proxy/readyz': `ok\nconfig: ${EDITED}` },
      /^warn {2}pod a: cannot be asked whether it follows its config: .*exec a -- udp-fanout doctor --config.*\nfail {2}pod b: config: /m,
    ],
    [
      'pods of which none answers are not all waited for',
      { 'jsonpath={.items[*].metadata.name}': 'a b c d e', 'proxy/readyz': null },
      /^(warn {2}pod [abc]: cannot be asked .*\n){3}warn {2}pods: 2 of 5 were not asked, since 3 did not answer; .*\nok {4}next: /m,
      0,
    ],
    [
      'a pod is waited for no longer than a few seconds',
      { 'proxy/readyz': null, '/pods/a/proxy/readyz --request-timeout=5s': 'ok\nhealth(syslog): waited' },
      /^warn {2}pod a: health\(syslog\): waited; .*\nwarn {2}pod b: cannot be asked/m,
      0,
    ],
  ];
  for (const [name, change, line, code = 1] of rows) {
    test(name, () => {
      const found = check(change);
      expect(found.stdout).toMatch(line);
      expect(found.code, found.stdout).toBe(code);
      expect(found.stderr).toBe('');
    });
  }

  test('a config file: several listeners, one line maps, fixed lists', () => {
    const file = join(bin, 'config.yaml');
    writeFileSync(
      file,
      `listeners:
  - name: one
    interfaces: [eth0, ens3.100]
    bind: "0.0.0.0:1"
    kubernetes: { namespace: tenant-a, service: "log-receivers", port: syslog }
  - name: two
    bind: "0.0.0.0:2"
    mode: userspace
    downstream:
      - name: receiver-1
        address: "10.0.1.10:9000"
  - name: three
    bind: "0.0.0.0:3"
    interface: 'eth1'
    kubernetes:
      service: other
metrics:
  bind: "0.0.0.0:9090"
`,
    );
    const answers = {
      'get service log-receivers': 'UDP',
      'service-name=log-receivers': '9 10.0.0.1=true ',
      'get service other': '',
    };
    const { stdout } = check(answers, ['--config', file]);
    expect(stdout).toMatch(/listener one: takes interface eth0 ens3\.100:/);
    expect(stdout).toMatch(/ok {4}RBAC tenant-a/);
    expect(stdout).toMatch(/ok {4}Service tenant-a\/log-receivers: 1 of 1/);
    expect(stdout).toMatch(/listener two: has a fixed list/);
    expect(stdout).toMatch(/fail {2}Service udp-fanout\/other: is not there/);
  });

  test('usage', () => {
    expect(check({}, ['--help'])).toMatchObject({ code: 0, stdout: expect.stringContaining('--config FILE') });
    expect(check({}, ['--what'])).toMatchObject({ code: 2, stderr: expect.stringContaining('unknown option --what') });
    expect(check({}, ['--config'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('--config wants a value'),
    });
    expect(check({}, ['--config', '/nowhere'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('no such file'),
    });
  });

  test('without kubectl', () => {
    const env = { PATH: bin };
    rmSync(join(bin, 'kubectl'));
    const { stdout, status } = spawnSync('/bin/bash', [SCRIPT], { encoding: 'utf8', env });
    expect(stdout).toMatch(/^fail {2}kubectl: is not on PATH/);
    expect(status).toBe(1);
  });
});
