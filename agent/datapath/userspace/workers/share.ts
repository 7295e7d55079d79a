/**
 * One socket of a listener's, as the agent sees it that has given it to a thread: what it counts, the table that it goes by,
 * and who stands in while no thread serves it.
 */
import { check } from '../../../ffi/errno.ts';
import { F_DUPFD_CLOEXEC, F_SETFL, libc } from '../../../ffi/libc.ts';
import { maxDescriptors } from '../forward/forwarder.ts';
import type { ForwarderGroup } from '../forwarder-group.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { ShareJob, Terms } from './job.ts';
import { addTotals, ForwarderState, NO_TOTALS, type Totals } from './state.ts';

/** Serves a socket on the agent's own thread. */
export type OpenStandIn = (terms: Terms, snapshot: TableSnapshot) => ForwarderGroup;

const READ_MS = 20;

export class Share {
  readonly id: number;
  readonly state = new ForwarderState();
  /** How often a thread died that served it. */
  deaths = 0;
  readonly #terms: Terms;
  readonly #descriptors: Descriptors;
  readonly #openStandIn: OpenStandIn;
  #snapshot: TableSnapshot;
  #standIn: ForwarderGroup | undefined;
  /** Of stand-ins that are no more. */
  #stood = NO_TOTALS;

  /** The terms' descriptor stays the caller's. */
  constructor(id: number, terms: Terms, snapshot: TableSnapshot, openStandIn: OpenStandIn) {
    this.id = id;
    this.#terms = terms;
    this.#snapshot = snapshot;
    this.#openStandIn = openStandIn;
    this.#descriptors = new Descriptors(maxDescriptors(terms.preserve));
    this.state.generation = snapshot.generation;
  }

  /** What a thread is told that is to serve it, with a descriptor of its own. Throws SystemError. */
  give(): ShareJob {
    const fd = this.#descriptors.own(check('fcntl', libc.fcntl(this.#terms.fd, F_DUPFD_CLOEXEC, 0)));
    this.state.enter();
    const { memory: descriptors } = this.#descriptors;
    return {
      ...this.#terms,
      fd,
      id: this.id,
      descriptors,
      state: this.state.memory,
      snapshot: this.#snapshot,
    };
  }

  /** Only where nothing runs that could still use a descriptor of the thread's. */
  takeBack(): void {
    this.#descriptors.closeAll();
    this.state.bookLost();
    this.state.leave();
  }

  /** The thread has been told of the snapshot, or there is none. */
  goBy(snapshot: TableSnapshot): void {
    this.#snapshot = snapshot;
    this.state.generation = snapshot.generation;
    this.#standIn?.publish(snapshot);
  }

  totals(): readonly Totals[] {
    return [this.state.read(READ_MS), this.#stood, ...(this.#standIn?.totals() ?? [])];
  }

  get isStoodInFor(): boolean {
    return this.#standIn !== undefined;
  }

  stepIn(): void {
    if (!this.state.stopping) this.#standIn ??= this.#openStandIn(this.#terms, this.#snapshot);
  }

  stepBack(): void {
    if (!this.#standIn) return;
    this.#standIn.close();
    this.#stood = [this.#stood, ...this.#standIn.totals()].reduce(addTotals);
    this.#standIn = undefined;
    // The event loop has made the socket one whose receives do not wait; a worker's do.
    libc.fcntl(this.#terms.fd, F_SETFL, 0);
  }
}
