/** What EndpointSlices mean, by the text of discovery/v1. */
import { describe, expect, test } from 'vitest';
import { formatAddress } from '../../agent/address.ts';
import { countStates, resolveEndpoints } from '../../agent/discovery/endpoints.ts';
import { readSlice, type Slice } from '../../agent/discovery/slice.ts';
import { anEndpoint, aSlice, aTerminating, UDP_9000 } from '../../lab/api/slices.ts';

const TCP_9000 = { name: 'syslog-tcp', protocol: 'TCP', port: 9000 };
const UDP_53 = { name: 'dns', protocol: 'UDP', port: 53 };

function read(...objects: readonly object[]): Slice[] {
  return objects.map((object) => {
    const slice = readSlice(object);
    if (!slice) throw new Error(`not read: ${JSON.stringify(object)}`);
    return slice;
  });
}

const addresses = (objects: readonly object[], port?: number | string) =>
  resolveEndpoints(read(...objects), port).endpoints.map(({ address }) => formatAddress(address));
const remarks = (objects: readonly object[], port?: number | string) =>
  resolveEndpoints(read(...objects), port).remarks;

describe('conditions', () => {
  test.each([
    ['ready', { ready: true }, true],
    ['ready unknown', { ready: null }, true],
    ['not ready', { ready: false }, false],
    ['ready and terminating, as publishNotReadyAddresses makes it', { ready: true, terminating: true }, false],
    ['terminating and serving', { ready: false, serving: true, terminating: true }, false],
    ['terminating unknown', { ready: true, terminating: null }, true],
    ['serving but not ready', { ready: false, serving: true }, false],
  ])('%s, beside a ready one: in use %s', (_, conditions, isIn) => {
    const found = addresses([aSlice('a', [anEndpoint('10.0.0.1', conditions), '10.0.0.9'])], 9000);
    expect(found).toEqual(isIn ? ['10.0.0.1:9000', '10.0.0.9:9000'] : ['10.0.0.9:9000']);
  });

  test.each([
    ['terminating and serving', { ready: false, serving: true, terminating: true }, true],
    ['terminating, serving unknown, not ready', { ready: false, serving: null, terminating: true }, false],
    ['terminating, all else unknown', { ready: null, serving: null, terminating: true }, true],
    ['terminating and not serving', { ready: false, serving: false, terminating: true }, false],
    ['not ready', { ready: false }, false],
  ])('%s, and nothing else is left: in use %s', (_, conditions, isIn) => {
    const found = addresses([aSlice('a', [anEndpoint('10.0.0.1', conditions)])], 9000);
    expect(found).toEqual(isIn ? ['10.0.0.1:9000'] : []);
  });

  test('conditions absent or null mean ready', () => {
    const bare = [{ addresses: ['10.0.0.1'] }, { addresses: ['10.0.0.2'], conditions: null }];
    expect(addresses([aSlice('a', bare)], 9000)).toEqual(['10.0.0.1:9000', '10.0.0.2:9000']);
  });

  test('a family whose endpoints all drain keeps them, whatever the other family has', () => {
    const v6 = aSlice('b', [aTerminating('fd00::1')], { addressType: 'IPv6' });
    expect(addresses([aSlice('a', ['10.0.0.1']), v6], 9000)).toEqual(['10.0.0.1:9000', '[fd00::1]:9000']);
  });
});

describe('several slices', () => {
  test('are united, each endpoint once, in the order of addresses', () => {
    const slices = [aSlice('b', ['10.0.0.3', '10.0.0.1']), aSlice('a', ['10.0.0.2', '10.0.0.1'])];
    expect(addresses(slices, 9000)).toEqual(['10.0.0.1:9000', '10.0.0.2:9000', '10.0.0.3:9000']);
    expect(addresses(slices.toReversed(), 9000)).toEqual(addresses(slices, 9000));
  });

  test.each(['old first', 'new first'])('an endpoint that moves stays, %s', (order) => {
    const slices = [aSlice('old', [aTerminating('10.0.0.1'), '10.0.0.2']), aSlice('new', ['10.0.0.1'])];
    expect(addresses(order === 'old first' ? slices : slices.toReversed(), 9000)).toContain('10.0.0.1:9000');
  });

  test('of both families feed both families, IPv6 in its canonical text', () => {
    const v6 = aSlice('b', ['FD00:0:0:0::1'], { addressType: 'IPv6' });
    expect(addresses([aSlice('a', ['10.0.0.1']), v6], 9000)).toEqual(['10.0.0.1:9000', '[fd00::1]:9000']);
  });

  test('may have each its own number for one port name', () => {
    const at = (name: string, ip: string, port: number) =>
      aSlice(name, [ip], { ports: [{ name: 'syslog', protocol: 'UDP', port }] });
    const slices = [at('a', '10.0.0.1', 5514), at('b', '10.0.0.2', 6514)];
    expect(addresses(slices, 'syslog')).toEqual(['10.0.0.1:5514', '10.0.0.2:6514']);
    expect(addresses(slices)).toEqual(['10.0.0.1:5514', '10.0.0.2:6514']);
  });

  test('give each state its count, a duplicate its best one', () => {
    const all = ['10.0.0.1', anEndpoint('10.0.0.2', { ready: false }), aTerminating('10.0.0.3')];
    const slices = read(aSlice('a', all), aSlice('b', [aTerminating('10.0.0.1'), aTerminating('10.0.0.4', false)]));
    expect(countStates(slices)).toEqual({ ready: 1, unready: 1, draining: 1, terminating: 1 });
  });
});

describe('ports', () => {
  const one = ['10.0.0.1'];
  test.each<[string, readonly unknown[] | null, number | string | undefined, number]>([
    ['a number that the slice has', [UDP_9000], 9000, 9000],
    ['a number among several', [TCP_9000, UDP_53, UDP_9000], 53, 53],
    ['a number where the slice has no ports', [], 5514, 5514],
    ['a number where ports is null', null, 5514, 5514],
    ['a number where a UDP port has none', [{ name: '', protocol: 'UDP', port: null }], 5514, 5514],
    ['a name', [TCP_9000, UDP_53], 'dns', 53],
    ['none, and one UDP port beside TCP', [TCP_9000, UDP_53], undefined, 53],
    ['none, and one UDP port without a name', [{ protocol: 'UDP', port: 514 }], undefined, 514],
  ])('%s', (_, ports, wanted, found) => {
    expect(addresses([aSlice('a', one, { ports })], wanted)).toEqual([`10.0.0.1:${found}`]);
    expect(remarks([aSlice('a', one, { ports })], wanted)).toEqual([]);
  });

  test.each<[string, readonly unknown[] | null, number | string | undefined, string]>([
    [
      'another number: the Service’s port in place of the receiver’s',
      [UDP_9000],
      80,
      'the endpoints have no UDP port 80, they have 9000/UDP "syslog"',
    ],
    [
      'a port without a protocol, which is TCP',
      [{ port: 5514 }],
      5514,
      'the endpoints have no UDP port 5514, they have 5514/TCP',
    ],
    [
      'a name of a TCP port',
      [TCP_9000],
      'syslog-tcp',
      'the endpoints have no UDP port named "syslog-tcp", they have 9000/TCP "syslog-tcp"',
    ],
    [
      'a name without a number',
      [{ name: 'x', protocol: 'UDP' }],
      'x',
      `the endpoints' UDP port "x" has no number: set kubernetes.port to one`,
    ],
    [
      'none, and several',
      [UDP_9000, UDP_53],
      undefined,
      'the endpoints have several UDP ports, 53/UDP "dns", 9000/UDP "syslog": set kubernetes.port to one of them',
    ],
    ['none, and no UDP port', [TCP_9000], undefined, 'the endpoints have no UDP port, they have 9000/TCP "syslog-tcp"'],
    ['none, and no ports', null, undefined, 'the endpoints have no UDP port, they have none'],
    [
      'none, and no number',
      [{ protocol: 'UDP', port: null }],
      undefined,
      "the endpoints' UDP port has no number: set kubernetes.port to one",
    ],
  ])('refused: %s', (_, ports, wanted, remark) => {
    expect(addresses([aSlice('a', one, { ports })], wanted)).toEqual([]);
    expect(remarks([aSlice('a', one, { ports })], wanted)).toEqual([remark]);
  });

  test('of the slice that a Service without pods has are no reason to complain', () => {
    expect(resolveEndpoints(read(aSlice('a', null, { ports: null })), undefined)).toEqual({
      endpoints: [],
      unready: [],
      remarks: [],
    });
  });
});

describe('what is kept and what is refused', () => {
  test('an endpoint keeps its node, zone and pod', () => {
    const { endpoints } = resolveEndpoints(read(aSlice('a', ['10.0.0.1'])), 9000);
    const address = { family: 4, ip: '10.0.0.1', port: 9000 };
    expect(endpoints).toEqual([{ address, weight: 1, name: 'pod-10-0-0-1', nodeName: 'node-a', zone: 'zone-1' }]);
  });

  test('those that are not ready stand apart, and those on their way out do not count among them', () => {
    const objects = [
      aSlice('a', [anEndpoint('10.0.0.1', { ready: false }), aTerminating('10.0.0.2', false), '10.0.0.3']),
      // While it moves, the better of its states counts.
      aSlice('b', [anEndpoint('10.0.0.3', { ready: false }), anEndpoint('10.0.0.4', { ready: false })]),
    ];
    const { endpoints, unready } = resolveEndpoints(read(...objects), 9000);
    expect(endpoints.map(({ address }) => address.ip)).toEqual(['10.0.0.3']);
    expect(unready.map(({ address, name, unready }) => [address.ip, name, unready])).toEqual([
      ['10.0.0.1', 'pod-10-0-0-1', true],
      ['10.0.0.4', 'pod-10-0-0-4', true],
    ]);
    expect(endpoints[0]).not.toHaveProperty('unready');
  });

  test('v1beta1 has node and zone in its topology', () => {
    const topology = { 'kubernetes.io/hostname': 'node-b', 'topology.kubernetes.io/zone': 'zone-2' };
    const [slice] = read(aSlice('a', [{ addresses: ['10.0.0.1'], conditions: {}, topology }]));
    expect(slice?.endpoints[0]).toMatchObject({ nodeName: 'node-b', zone: 'zone-2' });
  });

  test('only the first address of an endpoint is used', () => {
    expect(addresses([aSlice('a', [{ addresses: ['10.0.0.1', '10.0.0.2'] }])], 9000)).toEqual(['10.0.0.1:9000']);
  });

  test('FQDN is refused with a word', () => {
    const fqdn = aSlice('a', [{ addresses: ['example.com'] }], { addressType: 'FQDN' });
    expect(addresses([fqdn, aSlice('b', ['10.0.0.1'])], 9000)).toEqual(['10.0.0.1:9000']);
    const remark = 'EndpointSlice "a" has addressType FQDN: names are not looked up, want IPv4 or IPv6';
    expect(remarks([fqdn], 9000)).toEqual([remark]);
  });

  test.each(['not-an-ip', 'fd00::1', '0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255', '', '10.0.0.1:9000'])(
    'an IPv4 endpoint at "%s" is skipped and counted, the rest is kept',
    (ip) => {
      const [slice] = read(aSlice('a', [ip, '10.0.0.9']));
      expect(slice).toMatchObject({ malformed: 1, endpoints: [{ ip: '10.0.0.9' }] });
    },
  );

  test.each(['::', '::1', 'ff02::1', 'fe80::1', 'fd00::1%eth0', '10.0.0.1'])(
    'an IPv6 endpoint at "%s" is skipped and counted',
    (ip) => {
      const [slice] = read(aSlice('a', [ip, 'fd00::9'], { addressType: 'IPv6' }));
      expect(slice).toMatchObject({ malformed: 1, endpoints: [{ ip: 'fd00::9' }] });
    },
  );

  test.each([null, 7, 'x', [], {}, { addresses: null }, { addresses: [] }, { addresses: [7] }])(
    'an endpoint that is %j is skipped and counted',
    (endpoint) => {
      const [slice] = read({ ...aSlice('a', []), endpoints: [endpoint, anEndpoint('10.0.0.9')] });
      expect(slice).toMatchObject({ malformed: 1, endpoints: [{ ip: '10.0.0.9' }] });
    },
  );

  test.each<[string, unknown]>([
    ['null', null],
    ['a number', 7],
    ['a list', []],
    ['without metadata', { addressType: 'IPv4' }],
    ['without a name', { metadata: {}, addressType: 'IPv4' }],
    ['without addressType', { metadata: { name: 'a' } }],
    ['of an unknown addressType', { metadata: { name: 'a' }, addressType: 'IP' }],
    ['with endpoints that are no list', { metadata: { name: 'a' }, addressType: 'IPv4', endpoints: 'x' }],
    ['with ports that are no list', { metadata: { name: 'a' }, addressType: 'IPv4', ports: {} }],
    ['with port 0', { metadata: { name: 'a' }, addressType: 'IPv4', ports: [{ port: 0 }] }],
    ['with port "9000"', { metadata: { name: 'a' }, addressType: 'IPv4', ports: [{ port: '9000' }] }],
  ])('a slice %s cannot be read', (_, object) => {
    expect(readSlice(object)).toBeUndefined();
  });
});
