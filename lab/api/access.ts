/** Who may do what: bearer tokens, and rights in namespaces as RBAC gives them. */
import { forbidden, type Refusal, UNAUTHORIZED } from './status.ts';

const AGENT = 'system:serviceaccount:udp-fanout:udp-fanout';

export class Access {
  #tokens = new Map([['first-token', AGENT]]);
  #denied = new Set<string>();

  /** Takes this token from now on, and no other. */
  rotate(token: string): void {
    this.#tokens = new Map([[token, AGENT]]);
  }

  /** Takes the right away: `deny('list', 'tenant-c')`. */
  deny(verb: string, namespace: string): void {
    this.#denied.add(`${verb} ${namespace}`);
  }

  grant(verb: string, namespace: string): void {
    this.#denied.delete(`${verb} ${namespace}`);
  }

  /** Why a request is refused; undefined if it is not. */
  refuse(authorization: string | undefined, verb: string, namespace: string): Refusal | undefined {
    const user = this.#tokens.get(authorization?.replace(/^Bearer /, '') ?? '');
    if (user === undefined) return UNAUTHORIZED;
    return this.#denied.has(`${verb} ${namespace}`) ? forbidden(user, verb, namespace) : undefined;
  }
}
