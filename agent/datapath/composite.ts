/**
 * Which datapath serves which listener, as one datapath. `tc_ebpf`: the kernel path, with the safety net under it.
 * `userspace`: worker threads. `auto`: the kernel path where it attaches when the listener's endpoints are first known,
 * else worker threads, which stay, also as the safety net should the program attach later after all. A listener that goes over
 * from one to the other is served by both for a moment, and never by none.
 */
import type { Family } from '../address.ts';
import type { Log } from '../log.ts';
import type { Listener } from '../model.ts';
import type { Blueprint, Datapath, ListenerBlueprint, ListenerCounters, Problem } from './datapath.ts';
import type { KernelDatapath } from './tc/datapath.ts';
import type { UserspaceDatapath } from './userspace/datapath.ts';

export interface CompositeDependencies {
  readonly log: Log;
  /** Throws where this machine has no kernel path; the message says why. Called when the first listener wants it. */
  readonly openKernel: () => KernelDatapath;
  /** Takes off the host what an agent before this one has left there; called where the kernel path is not opened. */
  readonly removeLeft: () => void;
  /** `isSafetyNet` is asked when a listener is first served. */
  readonly openUserspace: (isSafetyNet: (listener: Listener) => boolean) => UserspaceDatapath;
}

export interface RemarkingDatapath extends Datapath {
  /** Which listeners are not served as they would rather be, and why: for /readyz. */
  remarks(): readonly string[];
  /** The downstreams that an agent before this one has left to a listener; undefined where there are none, or no more. */
  left(listener: Listener, family: Family): ReadonlySet<string> | undefined;
  /** Lets go of the kernel path, and serves on by sockets and threads, as long as nobody else does. */
  handOver(): HandedOver;
}

/** What sockets and threads still serve of a datapath that was handed over. */
export interface HandedOver {
  /** Ends all listeners but these. */
  keepOnly(names: ReadonlySet<string>): void;
  close(): void;
}

/** Opens what the listeners' modes ask for, as soon as there is one that does. */
export function openDatapath(dependencies: CompositeDependencies): RemarkingDatapath {
  return new CompositeDatapath(dependencies);
}

class CompositeDatapath implements RemarkingDatapath {
  readonly #log: Log;
  readonly #openKernel: () => KernelDatapath;
  readonly #userspace: UserspaceDatapath;
  #removeLeft: (() => void) | undefined;
  #kernel: KernelDatapath | undefined;
  /** Why there is no kernel path though a listener asks for it; as long as one does, it is not tried again. */
  #obstacle: string | undefined;
  /** Of mode auto, by what serves them; decided once, so that no listener goes to and fro. With the reason. */
  readonly #fallen = new Map<string, string>();
  readonly #attached = new Set<string>();
  /** What the kernel path was told last. */
  #kernels: readonly ListenerBlueprint[] = [];

  constructor({ log, openKernel, openUserspace, removeLeft }: CompositeDependencies) {
    this.#removeLeft = removeLeft;
    this.#log = log;
    this.#openKernel = openKernel;
    this.#userspace = openUserspace((listener) => this.#isKernels(listener));
  }

  get mode() {
    return this.#kernel?.mode ?? 'userspace';
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const kernels = blueprint.listeners.filter(({ listener }) => listener.mode !== 'userspace');
    this.#forget(new Set(kernels.flatMap(({ listener: { name, mode } }) => (mode === 'auto' ? [name] : []))));
    if (kernels.length > 0) this.#open();
    else this.#obstacle = undefined;
    const leaving = this.#leaving(blueprint);
    let found = this.#applyKernels(blueprint, [...leaving, ...kernels]) ?? kernels.flatMap((one) => one.absent);
    for (const one of kernels) this.#decide(one, found);
    const served = blueprint.listeners.filter(({ listener }) => this.#isServed(listener));
    const others = this.#userspace.apply({ ...blueprint, listeners: served });
    const left = leaving.filter(({ listener: { name } }) => !isByThreads(name, blueprint, others));
    if (left.length < leaving.length) found = this.#applyKernels(blueprint, [...left, ...kernels]) ?? [];
    const problems = [...found.filter((problem) => !this.#isMooted(problem, kernels)), ...this.#impossible(blueprint)];
    problems.push(...others);
    if (this.#kernel) this.#removeLeft = undefined;
    else if (served.length === blueprint.listeners.length) this.#takeOver(served);
    return problems;
  }

  /** One row for each listener and mode that serves it; the kernel path's last, since its downstreams are the main ones. */
  counters(): readonly ListenerCounters[] {
    return [...this.#userspace.counters(), ...(this.#kernel?.counters() ?? [])];
  }

  remarks(): readonly string[] {
    return [...this.#fallen].map(([name, cause]) => `datapath(${name}): fell back to userspace: ${cause}`);
  }

  beat(): void {
    this.#kernel?.beat();
    this.#userspace.beat();
  }

  left(listener: Listener, family: Family): ReadonlySet<string> | undefined {
    if (listener.mode !== 'userspace') this.#open();
    return this.#kernel?.left(listener, family);
  }

  /** The kernel path first: what still comes meanwhile, the safety net takes. */
  remove(): void {
    this.#kernel?.remove();
    this.#userspace.remove();
  }

  release(): void {
    this.handOver().close();
  }

  handOver(): HandedOver {
    this.#kernel?.release();
    return {
      keepOnly: (names) => this.#userspace.keepOnly(names),
      close: () => this.#userspace.release(),
    };
  }

  /**
   * Listeners that go over to worker threads are the kernel path's until these serve. They are to be told first: who has
   * their bind by now wins.
   */
  #leaving({ listeners }: Blueprint): readonly ListenerBlueprint[] {
    const users = listeners.filter(({ listener }) => listener.mode === 'userspace');
    return users.flatMap((now) => {
      const before = this.#kernels.find(({ listener }) => listener.name === now.listener.name);
      if (before) return [now.tables.length > 0 ? { ...before, tables: now.tables } : before];
      // Of mode userspace it has no interfaces; an agent before this one had it on these.
      const interfaces = this.#kernel?.leftLinks(now.listener) ?? [];
      return interfaces.length > 0 ? [{ ...now, interfaces }] : [];
    });
  }

  #applyKernels(blueprint: Blueprint, listeners: readonly ListenerBlueprint[]): readonly Problem[] | undefined {
    this.#kernels = this.#kernel ? listeners : [];
    return this.#kernel?.apply({ ...blueprint, listeners });
  }

  #open(): void {
    if (this.#kernel || this.#obstacle !== undefined) return;
    try {
      this.#kernel = this.#openKernel();
    } catch (error) {
      this.#obstacle = (error as Error).message;
    }
  }

  /** Once worker threads serve all, a dead agent's program only takes their datagrams away. */
  #takeOver(served: readonly ListenerBlueprint[]): void {
    if (!this.#removeLeft || served.some(({ tables }) => tables.length === 0)) return;
    this.#removeLeft();
    this.#removeLeft = undefined;
  }

  /** Whoever comes back is decided on anew. */
  #forget(present: ReadonlySet<string>): void {
    for (const name of this.#fallen.keys()) if (!present.has(name)) this.#fallen.delete(name);
    for (const name of this.#attached) if (!present.has(name)) this.#attached.delete(name);
  }

  #decide({ listener, tables }: ListenerBlueprint, problems: readonly Problem[]): void {
    const { name, mode } = listener;
    // Without tables the kernel path attaches nothing yet.
    if (mode !== 'auto' || this.#fallen.has(name) || this.#attached.has(name) || tables.length === 0) return;
    const cause = this.#cause(listener, problems);
    if (cause === undefined) {
      this.#attached.add(name);
      return;
    }
    // One machine has one reason, and a hundred listeners.
    const isSaid = [...this.#fallen.values()].includes(cause);
    this.#fallen.set(name, cause);
    this.#log.warn(`listener "${name}" falls back to userspace: ${isSaid ? 'for the same reason' : cause}`);
  }

  /** Why the kernel path does not serve the listener on any interface; undefined if it does on one. */
  #cause({ name, interfaces }: Listener, problems: readonly Problem[]): string | undefined {
    if (this.#obstacle !== undefined) return this.#obstacle;
    const why = (what: string) => problems.find(({ subject }) => subject === what)?.message;
    const causes = interfaces.map((link) => why(`listener(${name})`) ?? why(`attachment(${link})`));
    return causes.includes(undefined) ? undefined : causes[0];
  }

  /** True if what the problem is of is missed by nobody but listeners that have fallen back. */
  #isMooted({ subject }: Problem, kernels: readonly ListenerBlueprint[]): boolean {
    const users = kernels.filter(
      ({ listener: { name, interfaces } }) =>
        subject === `listener(${name})` || interfaces.some((link) => subject === `attachment(${link})`),
    );
    return users.length > 0 && users.every(({ listener }) => this.#fallen.has(listener.name));
  }

  /** The reason is said once, and by itself where every listener insists on the kernel path. */
  #impossible({ listeners }: Blueprint): readonly Problem[] {
    if (this.#obstacle === undefined) return [];
    const insisting = listeners.filter(({ listener }) => listener.mode === 'tc_ebpf');
    const isAll = insisting.length === listeners.length;
    return insisting.map(({ listener: { name } }, at) => {
      const reason = at === 0 ? this.#obstacle! : 'for the same reason';
      return { subject: `listener(${name})`, message: isAll && at === 0 ? reason : `listener "${name}": ${reason}` };
    });
  }

  /** A listener that insists on a kernel path that is not there is not served by anything else. */
  #isServed({ mode }: Listener): boolean {
    return mode !== 'tc_ebpf' || this.#kernel !== undefined;
  }

  #isKernels({ name, mode }: Listener): boolean {
    return mode !== 'userspace' && !this.#fallen.has(name);
  }
}

/** Whether worker threads, which found these problems, serve the listener. */
function isByThreads(name: string, { listeners }: Blueprint, problems: readonly Problem[]): boolean {
  const isKnown = listeners.some(({ listener, tables }) => listener.name === name && tables.length > 0);
  return isKnown && !problems.some(({ subject }) => subject === `listener(${name})`);
}
