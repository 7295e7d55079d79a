/** What the program hands over, as SAFETY_NET has it: struct handed of bpf/udp_fanout.h. */
import { FAMILIES, type Family, ipText, type SocketAddress } from '../../../address.ts';
import { LAYOUT } from '../abi.ts';

export interface Handed {
  /** The packet as it came, from its IP header on. Only for as long as the record is. */
  readonly packet: Uint8Array;
  /** The downstream that was chosen, and the listener's row; absent in a fragment that came before the first. */
  readonly chosen?: { readonly row: number; readonly downstream: SocketAddress };
  /** Index of VERDICTS. */
  readonly verdict: number;
  /** The interface that it came by. */
  readonly ifindex: number;
  /** Bytes of UDP payload of each datagram of a packet of several; 0 if it is one. */
  readonly segment: number;
}

export function decodeHanded(record: Uint8Array): Handed {
  const at = LAYOUT.handed;
  const view = new DataView(record.buffer, record.byteOffset, record.length);
  const u32 = (offset: number) => view.getUint32(offset, true);
  const packet = record.subarray(at.size, at.size + u32(at.len));
  const family: Family = packet[0]! >> 4 === 6 ? 6 : 4;
  const port = view.getUint16(at.slot + LAYOUT.slot.port, false);
  const ip = () => ipText(record.subarray(at.slot, at.slot + FAMILIES[family].bytes));
  return {
    packet,
    ...(port !== 0 && { chosen: { row: u32(at.listener), downstream: { family, ip: ip(), port } } }),
    verdict: u32(at.verdict),
    ifindex: u32(at.ifindex),
    segment: u32(at.segment),
  };
}
