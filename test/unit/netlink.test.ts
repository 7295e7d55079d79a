/** Netlink as bytes, the request protocol against a fake kernel, and the watch against a fake clock. */
import { constants } from 'node:os';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeAddress } from '../../agent/netlink/address.ts';
import type { Channel } from '../../agent/netlink/channel.ts';
import { decodeFilter } from '../../agent/netlink/filter.ts';
import { openHost } from '../../agent/netlink/host.ts';
import { decodeLink, findLink } from '../../agent/netlink/link.ts';
import {
  Attributes,
  attribute,
  decodeMessages,
  decodePayload,
  encodeMessage,
  joined,
  u32,
} from '../../agent/netlink/message.ts';
import { decodeRoute, routeRequest } from '../../agent/netlink/route.ts';
import { NLM_F_DUMP, Rtnetlink } from '../../agent/netlink/socket.ts';
import { type ChangeCause, watchNetwork } from '../../agent/netlink/watch.ts';

const { EAGAIN, EINTR, EINVAL, ENOBUFS, ENODEV, ENETUNREACH } = constants.errno;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_ACK_TLVS = 0x200;
const NLA_F_NESTED = 0x8000;

/** What decoding says of bytes that are not what they claim to be; anything else that it throws is a fault of its own. */
const FORMAT =
  /^(Error: )?(\d+ bytes are left, |(message|attribute) length |payload of |attribute \d+ has |IPv[46] address of |RTM_\w+: an ending of )/;
const hex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const text = (value: string) => new Uint8Array(Buffer.from(`${value}\0`));

describe('messages', () => {
  test('are written as struct nlmsghdr and payload', () => {
    const bytes = encodeMessage({ type: 18, flags: 0x301, sequence: 7, payload: hex('0a0b') });
    expect(bytes).toEqual(hex('12000000 1200 0103 07000000 00000000 0a0b'));
  });

  test('follow each other on 4-byte boundaries; the last needs no padding', () => {
    const first = encodeMessage({ type: 1, flags: 2, sequence: 3, payload: hex('aa') });
    const second = encodeMessage({ type: 4, flags: 5, sequence: 6, payload: hex('bbcc') });
    expect(decodeMessages(joined(first, hex('000000'), second))).toEqual([
      { type: 1, flags: 2, sequence: 3, payload: hex('aa') },
      { type: 4, flags: 5, sequence: 6, payload: hex('bbcc') },
    ]);
  });

  test.each([
    ['shorter than a header', '10000000 0000', '6 bytes are left'],
    ['length 0', '00000000 0000 0000 00000000 00000000', 'message length 0: want 16 to 16'],
    ['length below the header', '0f000000 0000 0000 00000000 00000000', 'message length 15'],
    ['length beyond the end', '11000000 0000 0000 00000000 00000000', 'message length 17'],
    ['length of 4 GiB', 'ffffffff 0000 0000 00000000 00000000', 'message length 4294967295'],
  ])('with a %s are refused', (_, bytes, message) => {
    expect(() => decodeMessages(hex(bytes))).toThrow(message);
  });
});

describe('attributes', () => {
  test('are written as struct nlattr, value and padding', () => {
    expect(attribute(4, u32(1500))).toEqual(hex('0800 0400 dc050000'));
    expect(attribute(3, text('eth0'))).toEqual(hex('0900 0300 6574683000 000000'));
    expect(attribute(5, hex(''))).toEqual(hex('0400 0500'));
  });

  test('are read back by type, nested and repeated, whatever their flags', () => {
    const inner = joined(attribute(1, text('vxlan')), attribute(2 | NLA_F_NESTED, attribute(15, hex('12b5'))));
    const names = joined(attribute(53, text('one')), attribute(53, text('two')));
    const attributes = new Attributes(joined(attribute(18 | NLA_F_NESTED, inner), attribute(52, names)));
    expect(attributes.nested(18).text(1)).toBe('vxlan');
    expect(attributes.nested(18).nested(2).u16be(15)).toBe(4789);
    expect(attributes.nested(52).all(53)).toHaveLength(2);
    expect(attributes.bytes(99)).toBeUndefined();
    expect(attributes.nested(99).u32(1)).toBeUndefined();
  });

  test.each([
    ['a length of 0', '0000 0100'],
    ['a length below the header', '0300 0100'],
    ['a length beyond the end', '0900 0100 00000000'],
    ['less than a header at the end', '0400 0100 0000'],
  ])('with %s are refused', (_, bytes) => {
    expect(() => new Attributes(hex(bytes))).toThrow(FORMAT);
  });

  test('too short for what is asked are refused', () => {
    const attributes = new Attributes(attribute(4, hex('01')));
    expect(() => attributes.u32(4)).toThrow('attribute 4 has 1 bytes: want 4');
    expect(() => attributes.u16be(4)).toThrow('attribute 4 has 1 bytes: want 2');
    expect(() => decodePayload(hex('0102'), 16)).toThrow('payload of 2 bytes: want at least 16');
  });

  test('larger than a length can say are refused', () => {
    expect(() => attribute(1, new Uint8Array(65532))).toThrow(RangeError);
  });

  test('round trip', () => {
    const entry = fc.tuple(fc.integer({ min: 0, max: 0x3fff }), fc.uint8Array({ maxLength: 64 }));
    fc.assert(
      fc.property(fc.array(entry), (entries) => {
        const decoded = new Attributes(joined(...entries.map(([type, value]) => attribute(type, value))));
        for (const [type] of entries) {
          const values = entries.filter((other) => other[0] === type).map((other) => other[1]);
          expect(decoded.all(type).map((value) => [...value])).toEqual(values.map((value) => [...value]));
        }
      }),
    );
  });
});

describe('random bytes', () => {
  const decoders = { decodeMessages, decodeLink, decodeAddress, decodeRoute, decodeFilter };

  /** Bytes with lengths that are often right, so that the inner parts are reached. */
  const attributes = fc
    .array(fc.tuple(fc.integer({ min: 0, max: 60 }), fc.uint8Array({ maxLength: 24 })), { maxLength: 6 })
    .map((entries) => joined(...entries.map(([type, value]) => attribute(type, value))));
  const header = fc.constantFrom(0, 8, 12, 16, 20).chain((size) => fc.uint8Array({ minLength: size, maxLength: size }));
  const plausible = fc.tuple(header, attributes, fc.nat()).map(([head, rest, at]) => {
    const bytes = joined(head, rest);
    if (bytes.length > 0) bytes[at % bytes.length]! ^= at & 0xff;
    return bytes;
  });

  test.each(Object.entries(decoders))('make %s throw a format error or nothing', (_, decode) => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 256 }), plausible), (bytes) => {
        try {
          decode(bytes);
        } catch (error) {
          expect(String(error)).toMatch(FORMAT);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('decoding', () => {
  const ifinfomsg = hex('00 00 0100 05000000 01000000 00000000');

  test('a vxlan link with an alternative name', () => {
    const data = attribute(2 | NLA_F_NESTED, attribute(15, hex('12b5')));
    const link = decodeLink(
      joined(
        ifinfomsg,
        attribute(3, text('vx0')),
        attribute(4, u32(1450)),
        attribute(1, hex('02005e000001')),
        attribute(10, u32(9)),
        attribute(52 | NLA_F_NESTED, attribute(53, text('overlay'))),
        attribute(18, joined(attribute(1, text('vxlan')), data)),
      ),
    );
    expect(link).toEqual({
      index: 5,
      name: 'vx0',
      altNames: ['overlay'],
      type: 1,
      up: true,
      carrier: false,
      noArp: false,
      mtu: 1450,
      mac: '02:00:5e:00:00:01',
      kind: 'vxlan',
      master: 9,
      udpPort: 4789,
    });
    expect(findLink([link], 'overlay')).toBe(link);
    expect(findLink([link], 'vx1')).toBeUndefined();
  });

  test('a bare link', () => {
    const link = decodeLink(ifinfomsg);
    expect(link).toMatchObject({ index: 5, name: '', altNames: [], type: 1, up: true, mtu: 0, mac: '', master: 0 });
  });

  test('an address: its own, not the peer’s; none after failed duplicate detection', () => {
    const local = attribute(2, hex('0a000001'));
    const peer = attribute(1, hex('0a000002'));
    const ipv4 = hex('02 20 00 00 03000000');
    expect(decodeAddress(joined(ipv4, peer, local))).toEqual({ family: 4, ip: '10.0.0.1', ifindex: 3 });
    expect(decodeAddress(joined(ipv4, peer))).toEqual({ family: 4, ip: '10.0.0.2', ifindex: 3 });
    expect(decodeAddress(joined(ipv4, local, attribute(8, u32(0x88))))).toBeUndefined();
    expect(decodeAddress(joined(hex('02 20 08 00 03000000'), local))).toBeUndefined();
    expect(decodeAddress(joined(hex('1c 20 00 00 03000000'), local))).toBeUndefined();
    expect(() => decodeAddress(joined(ipv4, attribute(2, hex('0a00'))))).toThrow('IPv4 address of 2 bytes: want 4');
  });

  test('a route by an IPv6 router to an IPv4 address', () => {
    const via = attribute(18, joined(hex('0a00'), hex('fe80 0000 0000 0000 0000 0000 0000 0001')));
    const metrics = attribute(8, attribute(2, u32(1400)));
    expect(decodeRoute(joined(hex('02 20 00 00 fe 00 00 01 00000000'), attribute(4, u32(2)), via, metrics))).toEqual({
      ifindex: 2,
      gateway: { family: 6, ip: 'fe80::1' },
      mtu: 1400,
      local: false,
    });
  });

  test('a route request names family, prefix length and destination', () => {
    expect(routeRequest({ family: 4, ip: '10.0.0.1' })).toEqual(
      hex('02 20 00 00 00 00 00 00 00000000 0800 0100 0a000001'),
    );
    expect(routeRequest({ family: 6, ip: 'fd00::1' }).subarray(0, 16)).toEqual(
      hex('0a 80 00 00 00 00 00 00 00000000 1400 0100'),
    );
  });

  test('a bpf filter, and the entry that only heads its priority', () => {
    const kind = attribute(1, text('bpf'));
    const options = joined(
      attribute(7, text('udp_fanout')),
      attribute(10, hex('0123456789abcdef')),
      attribute(11, u32(42)),
    );
    const tcmsg = (handle: string) => hex(`00 00 0000 04000000 ${handle} f2ffffff 0003 00c0`);
    expect(decodeFilter(joined(tcmsg('01000000'), kind, attribute(11, u32(5)), attribute(2, options)))).toEqual({
      kind: 'bpf',
      priority: 49152,
      protocol: 3,
      handle: 1,
      chain: 5,
      bpfName: 'udp_fanout',
      bpfId: 42,
    });
    expect(decodeFilter(joined(tcmsg('00000000'), kind))).toBeUndefined();
  });
});

/** A kernel that answers every request with what `answer` makes of its sequence number; then it has nothing to say. */
function fakeKernel(answer: (sequence: number, attempt: number) => (Uint8Array | number)[]) {
  const state = { opened: 0, closed: 0, requests: [] as { type: number; flags: number }[] };
  const open = (): Channel => {
    state.opened++;
    let queue: (Uint8Array | number)[] = [];
    return {
      send(bytes) {
        const [request] = decodeMessages(bytes);
        state.requests.push({ type: request!.type, flags: request!.flags });
        queue = answer(request!.sequence, state.requests.length);
        return bytes.length;
      },
      receive(buffer) {
        const next = queue.shift() ?? -EAGAIN;
        if (typeof next === 'number') return next;
        buffer.set(next.subarray(0, buffer.length));
        return next.length;
      },
      close: () => void state.closed++,
    };
  };
  return { state, socket: new Rtnetlink(open) };
}

const part = (sequence: number, flags = 0, payload = hex('aabbccdd')) =>
  encodeMessage({ type: 16, flags, sequence, payload });
const done = (sequence: number, flags = 0) => encodeMessage({ type: NLMSG_DONE, flags, sequence, payload: u32(0) });
const failure = (sequence: number, errno: number, words?: string) => {
  const extended = words === undefined ? hex('') : attribute(1, text(words));
  const flags = words === undefined ? 0 : NLM_F_ACK_TLVS;
  const payload = joined(u32(-errno), new Uint8Array(16), extended);
  return encodeMessage({ type: NLMSG_ERROR, flags, sequence, payload });
};

describe('a request', () => {
  test('collects a dump over several datagrams up to its end', () => {
    const { socket, state } = fakeKernel((sequence) => [part(sequence), joined(part(sequence), done(sequence))]);
    expect(socket.request('RTM_GETLINK', NLM_F_DUMP, hex(''))).toHaveLength(2);
    expect(state.requests).toEqual([{ type: 18, flags: 0x301 }]);
  });

  test('that is no dump asks for an acknowledgement and ends with it', () => {
    const { socket, state } = fakeKernel((sequence) => [part(sequence), failure(sequence, 0)]);
    expect(socket.request('RTM_GETROUTE', 0, hex(''))).toHaveLength(1);
    expect(state.requests).toEqual([{ type: 26, flags: 0x05 }]);
  });

  test('passes over what belongs to an earlier one, and over interrupted receives', () => {
    const { socket } = fakeKernel((sequence) => [-EINTR, failure(sequence - 1, ENODEV), done(sequence)]);
    expect(socket.request('RTM_GETLINK', NLM_F_DUMP, hex(''))).toEqual([]);
  });

  test('that fails throws the errno and the kernel’s words', () => {
    const { socket } = fakeKernel((sequence) => [failure(sequence, EINVAL, 'Invalid values in header')]);
    expect(() => socket.request('RTM_GETROUTE', 0, hex(''))).toThrow('RTM_GETROUTE: EINVAL: Invalid values in header');
  });

  test('that fails without words throws the errno', () => {
    const { socket } = fakeKernel((sequence) => [failure(sequence, ENODEV)]);
    expect(() => socket.request('RTM_GETTFILTER', 0, hex(''))).toThrow(/^RTM_GETTFILTER: ENODEV$/);
  });

  test('is repeated when the tables changed during the dump', () => {
    const { socket, state } = fakeKernel((sequence, attempt) => [
      part(sequence, attempt < 3 ? NLM_F_DUMP_INTR : 0),
      done(sequence),
    ]);
    expect(socket.request('RTM_GETADDR', NLM_F_DUMP, hex(''))).toHaveLength(1);
    expect(state).toMatchObject({ opened: 1, requests: { length: 3 } });
  });

  test('gives up when the tables change for ever', () => {
    const { socket } = fakeKernel((sequence) => [done(sequence, NLM_F_DUMP_INTR)]);
    expect(() => socket.request('RTM_GETADDR', NLM_F_DUMP, hex(''))).toThrow('answer incomplete 16 times');
  });

  test('is repeated on a fresh socket with more room when a datagram was larger than the buffer', () => {
    const large = new Uint8Array(100_000);
    const { socket, state } = fakeKernel((sequence) => [part(sequence, 0, large), done(sequence)]);
    expect(socket.request('RTM_GETLINK', NLM_F_DUMP, hex(''))[0]!.payload).toHaveLength(100_000);
    expect(state).toMatchObject({ opened: 2, closed: 1, requests: { length: 2 } });
  });

  test('without an answer ends, and leaves no half-read socket behind', () => {
    const { socket, state } = fakeKernel(() => []);
    expect(() => socket.request('RTM_GETLINK', NLM_F_DUMP, hex(''))).toThrow('RTM_GETLINK: ETIMEDOUT');
    expect(state).toMatchObject({ opened: 1, closed: 1 });
  });

  test('with a malformed answer throws a format error, and leaves no half-read socket behind', () => {
    const { socket, state } = fakeKernel(() => [hex('00')]);
    expect(() => socket.request('RTM_GETLINK', NLM_F_DUMP, hex(''))).toThrow(FORMAT);
    expect(state).toMatchObject({ opened: 1, closed: 1 });
  });

  test('for a route that does not exist is undefined; any other failure is thrown', () => {
    const errno = (number: number) => openHost(fakeKernel((sequence) => [failure(sequence, number)]).socket);
    expect(errno(ENETUNREACH).route({ family: 4, ip: '10.0.0.1' })).toBeUndefined();
    expect(() => errno(ENOBUFS).route({ family: 4, ip: '10.0.0.1' })).toThrow('RTM_GETROUTE: ENOBUFS');
  });
});

describe('the watch', () => {
  function start() {
    const causes: ChangeCause[] = [];
    const timers = new Map<number, () => void>();
    const state = { queue: [] as number[], receives: 0, closed: 0, groups: [] as readonly number[] };
    const channel: Channel = {
      send: () => 0,
      receive: () => {
        state.receives++;
        return state.queue.shift() ?? -EAGAIN;
      },
      close: () => void state.closed++,
    };
    const open = (groups: readonly number[]) => {
      state.groups = groups;
      return channel;
    };
    const ticker = (milliseconds: number, tick: () => void) => {
      timers.set(milliseconds, tick);
      return () => void timers.delete(milliseconds);
    };
    const watch = watchNetwork({ onChange: (cause) => causes.push(cause) }, { open, ticker });
    return { causes, timers, state, watch, drain: () => timers.get(100)!() };
  }

  test('costs one receive a tick while nothing happens', () => {
    const { causes, state, drain } = start();
    drain();
    drain();
    expect(state.receives).toBe(2);
    expect(causes).toEqual([]);
  });

  test('calls once a drain, however many notices there were', () => {
    const { causes, state, drain } = start();
    state.queue.push(100, 200, 300);
    drain();
    drain();
    expect(causes).toEqual(['notice']);
  });

  test('takes an overflow for a change and reads on', () => {
    const { causes, state, drain } = start();
    state.queue.push(100, -ENOBUFS, 100);
    drain();
    expect(causes).toEqual(['overflow']);
    expect(state.queue).toEqual([]);
  });

  test('leaves a flood to the next tick', () => {
    const { causes, state, drain } = start();
    state.queue.push(...new Array<number>(5000).fill(100));
    drain();
    expect(state.queue.length).toBeGreaterThan(0);
    drain();
    expect(state.queue).toEqual([]);
    expect(causes).toEqual(['notice', 'notice']);
  });

  test('hears of links, filters and addresses, and not of routes', () => {
    expect(start().state.groups).toEqual([1, 4, 5, 9]);
  });

  test('stops its timers and closes its socket', () => {
    const { timers, state, watch } = start();
    watch.close();
    expect(timers.size).toBe(0);
    expect(state.closed).toBe(1);
  });
});
