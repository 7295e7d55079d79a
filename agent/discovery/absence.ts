/** A selection that matches nothing is an empty list, never a 404: the operator must be told all the same. */
import type { Timer } from '../reconciler.ts';
import type { Troubles } from '../troubles.ts';

const AFTER_MS = 5000;
const TROUBLE = 'absence';

const WHY =
  "wrong namespace in config (verify the receivers' namespace), Service doesn't exist (create a headless Service for " +
  'the receivers), or missing RBAC (verify that the Role has endpointslices read permission)';

export interface AbsenceDependencies {
  readonly namespace: string;
  readonly service: string;
  readonly troubles: Troubles;
  readonly timer: Timer;
}

/** Says "EndpointSlice not found" after five seconds without any. */
export class Absence {
  readonly #with: AbsenceDependencies;
  /** Set while there are none. */
  #cancel: (() => void) | undefined;

  constructor(dependencies: AbsenceDependencies) {
    this.#with = dependencies;
  }

  /** Whether there are no slices now. */
  set(isEmpty: boolean): void {
    if (isEmpty === (this.#cancel !== undefined)) return;
    const { namespace, service, timer, troubles } = this.#with;
    this.close();
    if (isEmpty) this.#cancel = timer(AFTER_MS, () => this.#say());
    else troubles.isOver(TROUBLE, { message: 'EndpointSlice found', fields: { namespace, service } });
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #say(): void {
    const { namespace, service, troubles } = this.#with;
    troubles.happens(TROUBLE, { message: `EndpointSlice not found: ${WHY}`, fields: { namespace, service } });
  }
}
