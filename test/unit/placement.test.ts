import { describe, expect, test } from 'vitest';
import { placeListener } from '../../agent/placement.ts';
import { aLink, aListener } from '../fake/words.ts';

describe('a listener’s interfaces', () => {
  test('are found by name and by alternative name, dots and all', () => {
    const links = [aLink({ index: 3, name: 'ens3.100' }), aLink({ index: 4, name: 'eno1', altNames: ['enp0s3'] })];
    const listener = aListener({ interfaces: ['ens3.100', 'enp0s3'] });
    expect(placeListener(listener, links)).toEqual({
      interfaces: [
        { index: 3, name: 'ens3.100' },
        { index: 4, name: 'enp0s3' },
      ],
      problems: [],
    });
  });

  test('that are missing are named beside those that exist', () => {
    const { interfaces, problems } = placeListener(aListener({ interfaces: ['eth9', 'eth0'] }), [aLink()]);
    expect(interfaces).toEqual([{ index: 2, name: 'eth0' }]);
    expect(problems).toEqual([{ subject: 'attachment(eth9)', message: 'interface not found: eth9 (there are: eth0)' }]);
  });

  test('without an Ethernet header are refused', () => {
    const { problems } = placeListener(aListener({ interfaces: ['tun0'] }), [aLink({ name: 'tun0', type: 65534 })]);
    expect(problems[0]?.message).toContain('interface "tun0" carries no Ethernet header (link type 65534)');
  });

  test('are none where the port is an overlay’s', () => {
    const links = [aLink(), aLink({ index: 9, name: 'flannel.1', kind: 'vxlan', udpPort: 8472 })];
    const listener = aListener({ bind: { family: 4, ip: '0.0.0.0', port: 8472 } });
    expect(placeListener(listener, links)).toEqual({
      interfaces: [],
      problems: [
        {
          subject: 'listener(listener-0)',
          message:
            'listener "listener-0": UDP port 8472 belongs to vxlan interface "flannel.1", whose traffic it would take: choose another port',
        },
      ],
    });
  });
});
