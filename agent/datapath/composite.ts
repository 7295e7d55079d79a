/**
 * Which datapath serves which listener, as one datapath. `tc_ebpf`: the kernel path, with the safety net under it.
 * `userspace`: worker threads. `auto`: the kernel path where it attaches when the listener is first seen, else worker
 * threads, which stay, also as the safety net should the program attach later after all.
 */
import type { Log } from '../log.ts';
import type { Listener } from '../model.ts';
import type { Blueprint, Datapath, ListenerBlueprint, ListenerCounters, Problem } from './datapath.ts';

export interface CompositeDependencies {
  readonly log: Log;
  readonly listeners: readonly Listener[];
  /** Throws where this machine has no kernel path; the message says why. */
  readonly openKernel: () => Datapath;
  /** `isSafetyNet` is asked when a listener is first served. */
  readonly openUserspace: (isSafetyNet: (listener: Listener) => boolean) => Datapath;
}

export interface RemarkingDatapath extends Datapath {
  /** Which listeners are not served as they would rather be, and why: for /readyz. */
  remarks(): readonly string[];
}

/** Opens what the listeners' modes ask for. Throws what `openKernel` throws if no listener can do without it. */
export function openDatapath(dependencies: CompositeDependencies): RemarkingDatapath {
  const { listeners, openKernel } = dependencies;
  if (listeners.every(({ mode }) => mode === 'userspace'))
    return new CompositeDatapath(dependencies, undefined, undefined);
  try {
    return new CompositeDatapath(dependencies, openKernel(), undefined);
  } catch (error) {
    if (listeners.every(({ mode }) => mode === 'tc_ebpf')) throw error;
    return new CompositeDatapath(dependencies, undefined, (error as Error).message);
  }
}

class CompositeDatapath implements RemarkingDatapath {
  readonly mode;
  readonly #log: Log;
  readonly #kernel: Datapath | undefined;
  /** Why there is no kernel path though a listener asks for it. */
  readonly #obstacle: string | undefined;
  readonly #userspace: Datapath;
  /** Of mode auto, by what serves them; decided once, so that no listener goes to and fro. With the reason. */
  readonly #fallen = new Map<number, { readonly name: string; readonly cause: string }>();
  readonly #attached = new Set<number>();

  constructor(
    { log, openUserspace }: CompositeDependencies,
    kernel: Datapath | undefined,
    obstacle: string | undefined,
  ) {
    this.mode = kernel ? kernel.mode : 'userspace';
    this.#log = log;
    this.#kernel = kernel;
    this.#obstacle = obstacle;
    this.#userspace = openUserspace((listener) => this.#isKernels(listener));
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const kernels = blueprint.listeners.filter(({ listener }) => listener.mode !== 'userspace');
    const found = this.#kernel?.apply({ ...blueprint, listeners: kernels }) ?? [];
    for (const one of kernels) this.#decide(one, found);
    const problems = [...found.filter((problem) => !this.#isMooted(problem, kernels)), ...this.#impossible(kernels)];
    const served = blueprint.listeners.filter(({ listener }) => this.#isServed(listener));
    return [...problems, ...this.#userspace.apply({ ...blueprint, listeners: served })];
  }

  /** One row for each listener and mode that serves it; the kernel path's last, since its downstreams are the main ones. */
  counters(): readonly ListenerCounters[] {
    const kernels = this.#kernel?.counters().filter(({ listener }) => listener.mode !== 'userspace') ?? [];
    return [...this.#userspace.counters(), ...kernels];
  }

  remarks(): readonly string[] {
    return [...this.#fallen.values()].map(({ name, cause }) => `datapath(${name}): fell back to userspace: ${cause}`);
  }

  /** The kernel path first: what still comes meanwhile, the safety net takes. */
  close(): void {
    this.#kernel?.close();
    this.#userspace.close();
  }

  #decide({ listener, interfaces, tables }: ListenerBlueprint, problems: readonly Problem[]): void {
    const decided = this.#fallen.has(listener.id) || this.#attached.has(listener.id);
    // Without tables the kernel path attaches nothing yet.
    if (listener.mode !== 'auto' || decided || tables.length === 0) return;
    const causes = this.#causes(listener, problems);
    if (causes.length < Math.max(1, interfaces.length)) {
      this.#attached.add(listener.id);
      return;
    }
    const cause = causes[0]!;
    // One machine has one reason, and a hundred listeners.
    const isSaid = [...this.#fallen.values()].some((other) => other.cause === cause);
    this.#fallen.set(listener.id, { name: listener.name, cause });
    this.#log.warn(`listener "${listener.name}" falls back to userspace: ${isSaid ? 'for the same reason' : cause}`);
  }

  /** Why an interface of the listener has no program, once for each that has none. */
  #causes(listener: Listener, problems: readonly Problem[]): readonly string[] {
    if (this.#obstacle !== undefined) return listener.interfaces.map(() => this.#obstacle!);
    const wanted = new Set(listener.interfaces.map((name) => `attachment(${name})`));
    return problems.filter(({ subject }) => wanted.has(subject)).map(({ message }) => message);
  }

  /** True if an attachment is missed by nobody but listeners that have fallen back. */
  #isMooted({ subject }: Problem, kernels: readonly ListenerBlueprint[]): boolean {
    const users = kernels.filter(({ listener }) =>
      listener.interfaces.some((name) => subject === `attachment(${name})`),
    );
    return users.length > 0 && users.every(({ listener }) => this.#fallen.has(listener.id));
  }

  #impossible(kernels: readonly ListenerBlueprint[]): readonly Problem[] {
    if (this.#obstacle === undefined) return [];
    const bound = kernels.filter(({ listener }) => listener.mode === 'tc_ebpf');
    return bound.map(({ listener: { name } }) => ({
      subject: `listener(${name})`,
      message: `listener "${name}": ${this.#obstacle}`,
    }));
  }

  /** A listener that insists on a kernel path that is not there is not served by anything else. */
  #isServed({ mode }: Listener): boolean {
    return mode !== 'tc_ebpf' || this.#kernel !== undefined;
  }

  #isKernels({ id, mode }: Listener): boolean {
    return mode !== 'userspace' && !this.#fallen.has(id);
  }
}
