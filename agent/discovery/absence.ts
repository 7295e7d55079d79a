/** A selection that matches nothing is an empty list, never a 404: the operator must be told all the same. */
import type { Log } from '../log.ts';
import type { Timer } from '../reconciler.ts';

const AFTER_MS = 5000;
const AGAIN_MS = 300_000;

const WHY =
  "wrong namespace in config (verify the receivers' namespace), Service doesn't exist (create a headless Service for " +
  'the receivers), or missing RBAC (verify that the Role has endpointslices read permission)';

export interface AbsenceDependencies {
  readonly namespace: string;
  readonly service: string;
  readonly log: Log;
  readonly timer: Timer;
}

/** Says "EndpointSlice not found" after five seconds without any, and again every five minutes. */
export class Absence {
  readonly #with: AbsenceDependencies;
  #cancel: (() => void) | undefined;

  constructor(dependencies: AbsenceDependencies) {
    this.#with = dependencies;
  }

  /** Whether there are no slices now. */
  set(isEmpty: boolean): void {
    if (isEmpty === (this.#cancel !== undefined)) return;
    this.#cancel?.();
    this.#cancel = isEmpty ? this.#with.timer(AFTER_MS, () => this.#say()) : undefined;
  }

  #say(): void {
    const { log, namespace, service, timer } = this.#with;
    log.warn(`EndpointSlice not found: ${WHY}`, { namespace, service });
    this.#cancel = timer(AGAIN_MS, () => this.#say());
  }
}
