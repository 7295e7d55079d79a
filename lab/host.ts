/** The hosts of a topology as tests speak of them. */
import type { Lab } from './lab.ts';
import type { Namespace } from './namespace.ts';

/** A machine: a client, a node, a router. */
export interface Host {
  readonly name: string;
  readonly namespace: Namespace;
  readonly ip: string;
  /** The interface that bears `ip`, and its MAC. */
  readonly nic: string;
  readonly mac: string;
}

/** A receiver's pod. */
export interface Pod extends Host {
  /** The UDP port that its receiver listens on. */
  readonly port: number;
  /** `ip:port`, as a config lists it under `downstream`. */
  readonly address: string;
  /** The pod's veth as its node sees it. */
  readonly hostInterface: string;
}

/** A host of the lab whose namespace bears its name. */
export function hostIn(lab: Lab, name: string, nic: string, { ip, mac }: Pick<Host, 'ip' | 'mac'>): Host {
  return { name, namespace: lab.namespace(name), ip, nic, mac };
}

/** What every topology offers beside its hosts. */
export interface Topology extends Disposable, AsyncDisposable {
  readonly lab: Lab;
  /** Removes it all; blocks until it is done. */
  close(): void;
}

/** The part of a topology that is the same for all. */
export function closing(lab: Lab): Topology {
  return {
    lab,
    close: () => lab.close(),
    [Symbol.dispose]: () => lab.close(),
    [Symbol.asyncDispose]: async () => lab.close(),
  };
}
