/** A datapath that keeps what it was told, and fails where it is told to. */
import { formatAddress } from '../../agent/address.ts';
import type { Blueprint, Datapath, ListenerCounters, Problem } from '../../agent/datapath/datapath.ts';

export class FakeDatapath implements Datapath {
  readonly mode = 'tc_ebpf';
  applied = 0;
  closed = false;
  problems: readonly Problem[] = [];
  /** Downstreams by listener, of the last blueprint that named any. */
  readonly downstreams = new Map<string, readonly string[]>();
  interfaces = new Map<string, readonly string[]>();
  addresses: readonly string[] = [];

  apply({ listeners, addresses }: Blueprint): readonly Problem[] {
    this.applied++;
    this.addresses = addresses.map(({ ip }) => ip);
    this.interfaces = new Map(
      listeners.map(({ listener, interfaces }) => [
        listener.name,
        interfaces.map(({ name, index }) => `${name}#${index}`),
      ]),
    );
    for (const { listener, tables } of listeners) {
      if (tables.length === 0) continue;
      const slots = tables.flatMap((table) => table.slots.map(({ address }) => formatAddress(address)));
      this.downstreams.set(listener.name, slots);
    }
    return this.problems;
  }

  counters(): readonly ListenerCounters[] {
    return [];
  }

  close(): void {
    this.closed = true;
  }
}
