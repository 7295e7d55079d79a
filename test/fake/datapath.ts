/** A datapath that keeps what it was told, and fails where it is told to. */
import { type Family, formatAddress } from '../../agent/address.ts';
import type { Blueprint, DatapathMode, Interface, ListenerCounters, Problem } from '../../agent/datapath/datapath.ts';
import type { KernelDatapath } from '../../agent/datapath/tc/datapath.ts';
import type { Listener, SlotTable } from '../../agent/model.ts';

export class FakeDatapath implements KernelDatapath {
  readonly mode: DatapathMode;
  applied = 0;
  beats = 0;
  /** What an agent before this one has left, by listener and family. */
  readonly leftBefore = new Map<string, ReadonlySet<string>>();
  /** Where that agent had it, by listener, until there is a table of ours. */
  readonly linksBefore = new Map<string, readonly Interface[]>();
  /** How it ended. */
  end: 'removed' | 'released' | undefined;
  problems: readonly Problem[] = [];
  /** The listeners of the last blueprint, and the tables that each had last. */
  listeners: readonly Listener[] = [];
  readonly tables = new Map<string, readonly SlotTable[]>();
  /** Downstreams by listener, of the last blueprint that named any. */
  readonly downstreams = new Map<string, readonly string[]>();
  interfaces = new Map<string, readonly string[]>();
  addresses: readonly string[] = [];

  constructor(mode: DatapathMode = 'tc_ebpf') {
    this.mode = mode;
  }

  apply({ listeners, addresses }: Blueprint): readonly Problem[] {
    this.applied++;
    this.listeners = listeners.map(({ listener }) => listener);
    for (const name of this.downstreams.keys())
      if (!this.listeners.some((one) => one.name === name)) this.#forget(name);
    this.addresses = addresses.map(({ ip }) => ip);
    this.interfaces = new Map(
      listeners.map(({ listener, interfaces }) => [
        listener.name,
        interfaces.map(({ name, index }) => `${name}#${index}`),
      ]),
    );
    for (const { listener, tables } of listeners) {
      if (tables.length === 0) continue;
      this.linksBefore.delete(listener.name);
      const slots = tables.flatMap((table) => table.slots.map(({ address }) => formatAddress(address)));
      this.downstreams.set(listener.name, slots);
      this.tables.set(listener.name, tables);
    }
    const absent = this.mode === 'tc_ebpf' ? listeners.flatMap((one) => one.absent) : [];
    return [...absent, ...this.problems];
  }

  #forget(name: string): void {
    this.downstreams.delete(name);
    this.tables.delete(name);
  }

  beat(): void {
    this.beats++;
  }

  left({ name }: Listener, family: Family): ReadonlySet<string> | undefined {
    return this.leftBefore.get(`${name} ${family}`);
  }

  /** Of the listeners, those that are served on after it was handed over. */
  kept: ReadonlySet<string> | undefined;

  keepOnly(names: ReadonlySet<string>): void {
    this.kept = names;
  }

  leftLinks({ name }: Listener): readonly Interface[] {
    return this.linksBefore.get(name) ?? [];
  }

  counters(): readonly ListenerCounters[] {
    return [];
  }

  remove(): void {
    this.end = 'removed';
  }

  release(): void {
    this.end = 'released';
  }
}
