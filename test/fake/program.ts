/** The program's eye on the fake kernel: how far a datagram gets by what its maps and hooks hold at this moment. */
import { formatAddress, ipText, type SocketAddress } from '../../agent/address.ts';
import {
  CONSTANTS,
  encodeAddressKey,
  encodeBindKey,
  encodeU32,
  LAYOUT,
  tableIndex,
} from '../../agent/datapath/tc/abi.ts';
import type { FakeBpf } from './bpf.ts';

export class FakeProgramView {
  readonly #bpf: FakeBpf;
  readonly #maps;

  /** Of a loaded object; its maps are seen on after their descriptors are closed, as by a program that goes on. */
  constructor(bpf: FakeBpf) {
    const [addresses, binds, tables] = [bpf.map('ADDRESSES'), bpf.map('BINDS'), bpf.map('TABLES')];
    this.#bpf = bpf;
    this.#maps = { addresses, binds, tables, stats: bpf.map('STATS'), ports: bpf.map('udp_fano.bss') };
  }

  /** `untouched`, `no downstream`, the first slot's downstream, or what is half there. */
  meets(to: SocketAddress, ifindex = 2): string {
    const { addresses, binds, tables, stats } = this.#maps;
    const flags = this.#ports()[to.port]!;
    if (!this.#attached(ifindex) || flags === 0) return 'untouched';
    const specific = flags & CONSTANTS.PORT_SPECIFIC ? binds.bytes(encodeBindKey(to, to.family, ifindex)) : undefined;
    const isLocal = ((addresses.bytes(encodeAddressKey(to))?.[0] ?? 0) & CONSTANTS.ADDRESS_LOCAL) !== 0;
    const wildcard = { ...to, ip: to.family === 4 ? '0.0.0.0' : '::' };
    const isWildcard = isLocal && (flags & CONSTANTS.PORT_WILDCARD) !== 0;
    const bind = specific ?? (isWildcard ? binds.bytes(encodeBindKey(wildcard, to.family, ifindex)) : undefined);
    if (!bind) return 'untouched';
    if (!stats.bytes(bind.subarray(0, 4))) return 'a bind without a row';
    const table = tables.inner(bind.subarray(4, 8));
    if (!table) return 'a bind without a table';
    const slots = new DataView(table.bytes(encodeU32(0))!.buffer).getUint32(0, true);
    if (slots === 0) return 'no downstream';
    const slot = table.bytes(encodeU32(1))!;
    const ip = ipText(slot.subarray(0, to.family === 4 ? 4 : 16));
    return formatAddress({ family: to.family, ip, port: new DataView(slot.buffer, slot.byteOffset).getUint16(16) });
  }

  /** Which parts of an IPv4 listener are there: its row, its table, a bind, its port, an attachment. */
  parts(bind: SocketAddress, row: number, ifindex = 2): string {
    const { binds, tables, stats } = this.#maps;
    const is = {
      row: stats.bytes(encodeU32(row)) !== undefined,
      table: tables.inner(encodeU32(tableIndex(row, 4))) !== undefined,
      bind: binds.bytes(encodeBindKey(bind, 4, ifindex)) !== undefined,
      port: this.#ports()[bind.port] !== 0,
      attachment: this.#attached(ifindex),
    };
    return Object.entries(is)
      .flatMap(([part, there]) => (there ? [part] : []))
      .join(' ');
  }

  /** As if the program had forwarded so many datagrams of a row on the CPU with this id, all to one slot. */
  forwards(row: number, datagrams: number, { slot = 0, cpu = 0 } = {}): void {
    const stats = new BigUint64Array(this.#maps.stats.bytes(encodeU32(row))!.buffer);
    for (const word of [0, 1, LAYOUT.stats.forwarded / 8]) stats[word]! += BigInt(datagrams);
    const table = this.#maps.tables.inner(encodeU32(tableIndex(row, 4)))!;
    const head = new DataView(table.bytes(encodeU32(0))!.buffer);
    const { counters, counters_a_cpu } = LAYOUT.table_head;
    const index = head.getUint32(counters, true) + cpu * head.getUint32(counters_a_cpu, true) + (slot >> 2);
    if (index >= table.maxEntries) return;
    const cell = table.bytes(encodeU32(index))!.slice();
    new BigUint64Array(cell.buffer)[slot & 3]! += BigInt(datagrams);
    table.entries.set(Buffer.from(encodeU32(index)).toString('hex'), cell);
  }

  #ports(): Uint8Array {
    return this.#maps.ports.bytes(encodeU32(0))!;
  }

  #attached(ifindex: number): boolean {
    return this.#bpf.filters(ifindex).some(({ bpfName }) => bpfName?.startsWith('udp_fanout:['));
  }
}
