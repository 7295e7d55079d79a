/** Which datagrams are a listener's, and that all others pass untouched. */
import { arp, tcp4, tcp6, udp4, udp6 } from '../../../lab/frame.ts';
import { ETHER, ethernet, ip4, ip6, PROTOCOL } from '../../../lab/ip.ts';
import { ownOf, portOf, SECOND_VIP, secondOf, VIP, vipOf } from '../listeners.ts';
import { NET, PEER_IPS, PEER_MAC } from '../node.ts';
import {
  datagram,
  forwarded,
  forwardedLocal,
  handed,
  passed,
  type Row,
  type Side,
  toListener,
  twins,
  untouched,
} from '../rows.ts';

/** Sources that may not be forwarded, and their neighbours that may (RFC 1812, 5.3.7; RFC 4291, 2.5). */
const SOURCES = {
  4: {
    martian: ['0.0.0.0', '0.255.255.255', '127.0.0.1', '127.255.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255'],
    proper: ['1.0.0.0', '126.255.255.255', '128.0.0.1', '223.255.255.255'],
  },
  6: {
    martian: ['::', '::1', 'ff02::1', 'ff00::', 'fe80::1', 'febf::1'],
    proper: ['::2', 'fd00::1', 'fe7f::1', '1::'],
  },
} as const;

const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const STRANGER = '02:00:00:00:00:77';
const multicast = (side: Side) => (side.family === 4 ? '01:00:5e:00:00:01' : '33:33:00:00:00:01');

const shared = twins((side) => {
  const here = { ip: side.ip(NET.clients, 1), port: 9017 };
  const there = { ip: PEER_IPS[side.family === 4 ? 0 : 1]!, port: 9017 };
  const from = (fields: object) => toListener(side, 'shared', fields);
  const peers = { smac: PEER_MAC };
  const first = from({ ...peers, fragment: { offset: 0, more: true, id: 9 } });
  const later = from({ ...peers, fragment: { offset: 64, more: false, id: 9 } });
  return [
    {
      name: 'what another node’s agent has sent to the receiver here is left to it',
      steps: [passed('shared', from(peers)), passed('shared', from({ ...peers, payload: Buffer.alloc(0) }))],
    },
    {
      name: 'all fragments of it are',
      steps: [passed('shared', first), untouched(later.frame)],
    },
    {
      name: 'what comes from elsewhere is spread',
      steps: [forwardedLocal('shared', from({}), here), forwarded('shared', from({}), there)],
    },
    {
      name: 'what the other node has sent itself is spread, the third time to itself only by another’s turn',
      steps: [forwardedLocal('shared', from({ ...peers, src: there.ip }), here)],
    },
    {
      name: 'what it may have routed, since the way back is not by this link, is spread',
      steps: [forwardedLocal('shared', from({ ...peers, src: side.ip(NET.pods, 10) }), here)],
    },
    {
      name: 'what is for another address of this node is spread',
      steps: [forwardedLocal('shared', from({ ...peers, dst: side.ip(NET.second, 1) }), here)],
    },
  ];
});

const addresses = twins((side) => {
  const pod = (host: number, port: number) => ({ ip: side.ip(NET.pods, host), port });
  const { family } = side;
  const wild = (dst: string) => toListener(side, 'wild', { dst });
  const strangers = {
    'an address of the clients’ network that is not the node’s': side.ip(NET.clients, 77),
    'transit to a pod, though the port is a listener’s': side.ip(NET.pods, 10),
    'transit to elsewhere': side.ip(NET.nowhere, 1),
    'a VIP that nobody binds': side.ip(NET.vips, 102),
    'the family’s unspecified address': family === 4 ? '0.0.0.0' : '::',
    'a multicast group in a unicast frame': family === 4 ? '224.0.0.1' : 'ff02::1',
  };
  return [
    {
      name: 'a wildcard takes every address of the node, whatever interface has it',
      steps: [NET.clients, NET.pods, NET.overlay, NET.second].map((net) =>
        forwarded('wild', wild(side.ip(net, 1)), pod(10, 9000)),
      ),
    },
    ...Object.entries(strangers).map(([name, dst]) => ({
      name: `a wildcard does not take ${name}`,
      steps: [untouched(wild(dst).frame)],
    })),
    {
      name: 'a VIP that no interface has is its listener’s, beside a wildcard with the same port',
      steps: [
        forwarded(vipOf(family), toListener(side, vipOf(family), { dst: VIP[family] }), pod(11, 9001)),
        forwarded(secondOf(family), toListener(side, 'second', { dst: SECOND_VIP[family] }), pod(12, 9000)),
        forwarded('wild', wild(side.node), pod(10, 9000)),
      ],
    },
    {
      name: 'a VIP is no address of the node: a wildcard with another port does not take it',
      steps: [untouched(toListener(side, 'three', { dst: VIP[family] }).frame)],
    },
    {
      name: 'the specific bind of a node’s address wins over the wildcard, which keeps the others',
      steps: [
        forwarded(ownOf(family), toListener(side, 'own'), pod(11, 9002)),
        forwarded('any', toListener(side, 'any', { dst: side.ip(NET.pods, 1) }), pod(12, 9002)),
      ],
    },
    {
      name: 'the wildcard of IPv4 alone wins over that of both families',
      steps: [
        family === 4
          ? forwarded('only4', toListener(side, 'only4'), pod(11, 9003))
          : forwarded('dual', toListener(side, 'dual'), pod(10, 9003)),
      ],
    },
    {
      name: 'another port',
      steps: [8999, 0, 65535].map((dport) => untouched(toListener(side, 'wild', { dport }).frame)),
    },
    {
      name: 'the listener’s port as the source',
      steps: [untouched(toListener(side, 'wild', { sport: 9000, dport: 40000 }).frame)],
    },
    {
      name: 'a listener is on its own interfaces only',
      steps: [
        untouched(toListener(side, 'elsewhere').frame),
        forwarded('elsewhere', toListener(side, 'elsewhere'), pod(10, 9004), { on: 'eth1' }),
        forwarded('both', toListener(side, 'both'), pod(10, 9005)),
        forwarded('both', toListener(side, 'both'), pod(10, 9005), { on: 'eth1' }),
        untouched(toListener(side, 'wild').frame, { on: 'eth1' }),
      ],
    },
    {
      name: 'a source address that may not be forwarded: the receiver would drop it without a word',
      steps: SOURCES[family].martian.map((src) =>
        handed('wild', 'martian_source', toListener(side, 'wild', { src }), pod(10, 9000)),
      ),
    },
    {
      name: 'the source addresses next to those',
      steps: SOURCES[family].proper.map((src) => forwarded('wild', toListener(side, 'wild', { src }), pod(10, 9000))),
    },
    {
      name: 'a frame of another host, which we see because the interface is promiscuous',
      steps: [untouched(toListener(side, 'wild', { dmac: STRANGER }).frame)],
    },
    {
      name: 'broadcast and multicast frames are the safety net’s, if they are a listener’s at all',
      steps: [BROADCAST, multicast(side)].flatMap((dmac) => [
        handed('wild', 'not_unicast', toListener(side, 'wild', { dmac }), pod(10, 9000)),
        untouched(toListener(side, 'wild', { dmac, dport: 8999 }).frame),
      ]),
    },
    // A tag that the driver has moved into the packet's metadata cannot be set in a test run; this one is in the frame.
    { name: 'a VLAN’s', steps: [0, 7, 4095].map((vlan) => untouched(toListener(side, 'wild', { vlan }).frame)) },
  ];
});

const PORTS = { sport: 40000, dport: portOf('wild') };
const TO4 = { src: '10.0.0.9', dst: '10.0.0.1' };
const TO6 = { src: 'fd00::9', dst: 'fd00::1' };
/** As a body of another protocol these bytes would be a datagram of a listener's. */
const like = datagram(udp4, { ...TO4, ...PORTS }).frame.subarray(34);
const behind = (type: number, frame: Buffer) => ethernet({}, type, frame.subarray(14));

const protocols: Row[] = Object.entries({
  'TCP over IPv4': tcp4({ ...TO4, ...PORTS }),
  'TCP over IPv6': tcp6({ ...TO6, ...PORTS }),
  'ICMP echo': ip4(TO4, PROTOCOL.ICMP, Buffer.from('080000000001000100000000', 'hex')),
  'ICMPv6 neighbour advertisement': ip6(TO6, PROTOCOL.ICMPV6, Buffer.alloc(24, 0x88)),
  'an ICMP error about a listener’s datagram': ip4(
    TO4,
    PROTOCOL.ICMP,
    Buffer.concat([Buffer.from('0303fcfc00000000', 'hex'), udp4({ ...TO4, ...PORTS }).subarray(14)]),
  ),
  SCTP: ip4(TO4, 132, like),
  'UDP-Lite over IPv4': ip4(TO4, 136, like),
  'UDP-Lite over IPv6': ip6(TO6, 136, like),
  GRE: ip4(TO4, 47, like),
  'IPv4 in IPv4': ip4(TO4, 4, udp4({ ...TO4, ...PORTS }).subarray(14)),
  'ARP request': arp({ operation: 'request', src: '10.0.0.9', dst: '10.0.0.1' }),
  'ARP reply': arp({ operation: 'reply', src: '10.0.0.9', dst: '10.0.0.1' }),
  'IPv4 behind the type of IPv6': behind(ETHER.IPV6, udp4({ ...TO4, ...PORTS, payload: Buffer.alloc(40) })),
  'IPv6 behind the type of IPv4': behind(ETHER.IPV4, udp6({ ...TO6, ...PORTS })),
  'IPv4 behind the type of ARP': behind(ETHER.ARP, udp4({ ...TO4, ...PORTS })),
  'a VLAN in a VLAN (802.1ad)': ethernet({}, 0x88a8, udp4({ ...TO4, ...PORTS, vlan: 7 }).subarray(12)),
  'an 802.3 length in the place of the type': behind(46, udp4({ ...TO4, ...PORTS })),
  'a PPPoE session': ethernet({}, 0x8864, Buffer.concat([Buffer.alloc(8), udp4({ ...TO4, ...PORTS }).subarray(14)])),
  'IPv4 of a version that does not exist': flipped(udp4({ ...TO4, ...PORTS }), 14, 0x45 ^ 0x55),
  'IPv6 of a version that does not exist': flipped(udp6({ ...TO6, ...PORTS }), 14, 0x60 ^ 0x50),
  'a header of 4 words, which IPv4 does not have': flipped(udp4({ ...TO4, dst: VIP[4], ...PORTS }), 14, 0x45 ^ 0x44),
}).map(([name, frame]) => ({ name: `nothing but UDP: ${name}`, steps: [untouched(frame)] }));

function flipped(frame: Buffer, at: number, bits: number): Buffer {
  frame[at]! ^= bits;
  return frame;
}

export const MATCHING: readonly Row[] = [...addresses, ...shared, ...protocols];
