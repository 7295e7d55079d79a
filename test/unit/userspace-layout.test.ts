/** What the userspace datapath writes for the kernel, held against the C types and against independent arithmetic. */
import fc from 'fast-check';
import koffi from 'koffi';
import { describe, expect, test } from 'vitest';
import { ipBytes } from '../../agent/address.ts';
import {
  CMSG,
  encodeSockaddr,
  IOVEC,
  MMSGHDR,
  PKTINFO,
  SOCKADDR,
} from '../../agent/datapath/userspace/messages/layout.ts';
import { UDP_HEADER, writeUdpHeader } from '../../agent/datapath/userspace/messages/udp-header.ts';
import { Memory } from '../../agent/ffi/mmsg.ts';
import { udp4, udp6 } from '../../lab/frame.ts';

describe('the layouts', () => {
  const msghdr = koffi.struct({
    name: 'void *',
    namelen: 'uint32_t',
    iov: 'void *',
    iovlen: 'size_t',
    control: 'void *',
    controllen: 'size_t',
    flags: 'int',
  });
  const mmsghdr = koffi.struct({ header: msghdr, len: 'unsigned int' });
  const iovec = koffi.struct({ base: 'void *', len: 'size_t' });
  const cmsghdr = koffi.struct({ len: 'size_t', level: 'int', type: 'int' });

  test('are those of the C types', () => {
    const { size, len, ...header } = MMSGHDR;
    expect([size, len]).toEqual([koffi.sizeof(mmsghdr), koffi.offsetof(mmsghdr, 'len')]);
    for (const [member, offset] of Object.entries(header)) expect(koffi.offsetof(msghdr, member)).toBe(offset);
    expect([IOVEC.size, IOVEC.len]).toEqual([koffi.sizeof(iovec), koffi.offsetof(iovec, 'len')]);
    expect([CMSG.level, CMSG.type]).toEqual(['level', 'type'].map((member) => koffi.offsetof(cmsghdr, member)));
    expect(CMSG.data).toBe(koffi.sizeof(cmsghdr));
    // CMSG_LEN and CMSG_SPACE of 2 bytes, of struct in_pktinfo (12) and of struct in6_pktinfo (20).
    const space = (bytes: number) => Math.ceil((CMSG.data + bytes) / 8) * 8;
    expect([CMSG.dataLen, CMSG.size]).toEqual([CMSG.data + 2, space(2)]);
    expect([PKTINFO.v4.len, PKTINFO.v4.size]).toEqual([CMSG.data + 12, space(12)]);
    expect([PKTINFO.v6.len, PKTINFO.v6.size]).toEqual([CMSG.data + 20, space(20)]);
  });

  test('socket addresses are as the kernel has them', () => {
    const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
    expect(hex(encodeSockaddr({ family: 4, ip: '10.1.2.3', port: 0x1234 }))).toBe('020012340a0102030000000000000000');
    const six = encodeSockaddr({ family: 6, ip: 'fd00::1', port: 53 });
    expect(hex(six)).toBe('0a00003500000000fd00000000000000000000000000000100000000');
    expect(six.length).toBeLessThanOrEqual(SOCKADDR.room);
  });

  test('a pointer is written as its two words', () => {
    const memory = new Memory(64);
    memory.point(8, 0x1234_5678_9abc_def0n);
    expect([memory.u32[2], memory.u32[3]]).toEqual([0x9abcdef0, 0x12345678]);
    const address = memory.address(24);
    expect((BigInt(memory.high(24)) << 32n) + BigInt(memory.low(24))).toBe(address);
  });
});

describe('a UDP header of our own', () => {
  const address = {
    4: fc.ipV4(),
    6: fc.constantFrom('fd00::9', '2001:db8::1:2', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'),
  };

  test.each([4, 6] as const)('IPv%i: has the checksum that the lab’s own arithmetic finds', (family) => {
    fc.assert(
      fc.property(
        address[family],
        address[family],
        fc.integer({ min: 0, max: 0xffff }),
        fc.integer({ min: 0, max: 0xffff }),
        fc.uint8Array({ maxLength: 300 }),
        fc.nat({ max: 7 }),
        (src, dst, sport, dport, payload, shift) => {
          const frame = family === 4 ? udp4 : udp6;
          const whole = frame({ src, dst, sport, dport, payload: Buffer.from(payload) });
          const expected = whole.subarray(whole.length - payload.length - UDP_HEADER, whole.length - payload.length);

          const memory = new Memory(1024);
          const at = 512 + shift;
          memory.bytes.set(payload, at);
          const source = new Uint32Array(5);
          const bytes = new Uint8Array(source.buffer);
          bytes.set([family, 0, sport >> 8, sport & 0xff]);
          bytes.set(ipBytes(family, src), 4);
          const target = new Uint32Array(ipBytes(family, dst).buffer);
          const targetPort = ((dport & 0xff) << 8) | (dport >> 8);
          const ends = { source, sourceAt: 0, target, targetAt: 0, targetPort };
          writeUdpHeader(memory, 16, ends, memory, at, payload.length);
          expect(Buffer.from(memory.bytes.subarray(16, 24)).toString('hex')).toBe(expected.toString('hex'));
        },
      ),
    );
  });
});
