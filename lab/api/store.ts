/** What a Kubernetes API server keeps of EndpointSlices: objects, one counter of resource versions, and a history. */

/** An API object, as far as a store has to know it. Anything else in it is kept as it came. */
export interface ApiObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly resourceVersion?: string;
    readonly [key: string]: unknown;
  };
  readonly [key: string]: unknown;
}

export interface Change {
  readonly namespace: string;
  readonly version: number;
  /** Absent: it was created. */
  readonly before?: ApiObject;
  /** Absent: it was deleted. */
  readonly after?: ApiObject;
}

export type Selector = (object: ApiObject) => boolean;

export class ApiStore {
  #version = 1000;
  #oldest = 1000;
  #uids = 0;
  #history: Change[] = [];
  #objects = new Map<string, ApiObject>();
  #followers = new Set<(change: Change) => void>();

  get version(): number {
    return this.#version;
  }

  /** The oldest version from which a watch can go on. */
  get oldest(): number {
    return this.#oldest;
  }

  get(namespace: string, name: string): ApiObject | undefined {
    return this.#objects.get(`${namespace}/${name}`);
  }

  /** In the order of their names, as etcd has them. */
  list(namespace: string, selects: Selector): ApiObject[] {
    const keys = [...this.#objects.keys()].filter((key) => key.startsWith(`${namespace}/`)).sort();
    return keys.map((key) => this.#objects.get(key)!).filter(selects);
  }

  put(namespace: string, object: ApiObject): ApiObject {
    const { name } = object.metadata;
    const before = this.get(namespace, name);
    const version = ++this.#version;
    const metadata = {
      uid: before?.metadata.uid ?? `00000000-0000-4000-8000-${String(++this.#uids).padStart(12, '0')}`,
      ...object.metadata,
      namespace,
      resourceVersion: String(version),
    };
    const after = { ...object, metadata };
    this.#objects.set(`${namespace}/${name}`, after);
    this.#tell({ namespace, version, ...(before && { before }), after });
    return after;
  }

  /** The object as it was last, with the version of its deletion; undefined if there is none. */
  delete(namespace: string, name: string): ApiObject | undefined {
    const old = this.get(namespace, name);
    if (!old) return undefined;
    const version = ++this.#version;
    const before = { ...old, metadata: { ...old.metadata, resourceVersion: String(version) } };
    this.#objects.delete(`${namespace}/${name}`);
    this.#tell({ namespace, version, before });
    return before;
  }

  /** Changes after a version, in their order. */
  since(version: number): readonly Change[] {
    return this.#history.filter((change) => change.version > version);
  }

  follow(follower: (change: Change) => void): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  /** Forgets the history: a watch from an older version is told that it is gone. */
  compact(): void {
    this.#history = [];
    this.#oldest = ++this.#version;
  }

  /** As after a restore from a backup: the objects given, and versions that begin again far below. */
  restore(namespace: string, objects: readonly ApiObject[]): void {
    this.#objects.clear();
    this.#history = [];
    this.#version = 10;
    this.#oldest = 10;
    for (const object of objects) this.put(namespace, object);
  }

  #tell(change: Change): void {
    this.#history.push(change);
    for (const follower of this.#followers) follower(change);
  }
}
