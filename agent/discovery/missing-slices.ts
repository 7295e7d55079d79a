/** A selection that matches nothing is an empty list, never a 404: the operator must be told all the same. */

import type { Timer } from '../clock.ts';
import type { LogLimiter } from '../log-limit.ts';

const AFTER_MS = 5000;
const TROUBLE = 'absence';

const WHY =
  "wrong namespace in config (verify the receivers' namespace), Service doesn't exist (create a headless Service for " +
  'the receivers), or missing RBAC (verify that the Role has endpointslices read permission)';

export interface MissingSlicesDependencies {
  readonly namespace: string;
  readonly service: string;
  readonly alerts: LogLimiter;
  readonly timer: Timer;
}

/** Says "EndpointSlice not found" after five seconds without any. */
export class MissingSlices {
  readonly #deps: MissingSlicesDependencies;
  /** Set while there are none. */
  #cancel: (() => void) | undefined;

  constructor(dependencies: MissingSlicesDependencies) {
    this.#deps = dependencies;
  }

  /** Whether there are no slices now. */
  set(isEmpty: boolean): void {
    if (isEmpty === (this.#cancel !== undefined)) return;
    const { namespace, service, timer, alerts } = this.#deps;
    this.close();
    if (isEmpty) this.#cancel = timer(AFTER_MS, () => this.#say());
    else alerts.resolve(TROUBLE, { message: 'EndpointSlice found', fields: { namespace, service } });
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #say(): void {
    const { namespace, service, alerts } = this.#deps;
    alerts.raise(TROUBLE, { message: `EndpointSlice not found: ${WHY}`, fields: { namespace, service } });
  }
}
