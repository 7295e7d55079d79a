/** The next hop of downstreams: the link that it is on, the bridge's port behind that, and the neighbour who must be there. */
import type { IpAddress } from '../address.ts';
import type { Host } from '../netlink/host.ts';
import type { Link } from '../netlink/link.ts';
import type { Neighbour } from '../netlink/neighbour.ts';

/** So long a neighbour who was asked may take. A proxy answers after up to 0.8 s (neigh/proxy_delay, arp(7)). */
const ANSWER_MS = 1000;
/** Between two questions to one who does not answer. */
const PAUSE_MS = { first: 1000, most: 10_000 };
/** ARPHRD_LOOPBACK of linux/if_arp.h. */
const LOOPBACK = 772;

export type HopHost = Pick<Host, 'link' | 'neighbour' | 'station'>;

export class Hop {
  readonly ifindex: number;
  readonly address: IpAddress;
  /** Why nothing can be sent to it; undefined while something can, or nobody knows. */
  trouble: string | undefined;
  /** The bridge's port that its station was last seen behind; while it is down the bridge has forgotten that. */
  port: number | undefined;
  mac = '';
  /** Somebody has asked for its MAC, and goes by it. */
  isNamed = false;
  /** Whether it was doubted when it was looked at last. */
  wasDoubted = false;
  /** Since when it is not known to be there. */
  #doubtedSince: number | undefined;
  #askedAt = Number.NEGATIVE_INFINITY;
  #pauseMs = PAUSE_MS.first;
  #silent = false;

  constructor(ifindex: number, address: IpAddress) {
    this.ifindex = ifindex;
    this.address = address;
  }

  /** Looks at it as the kernel knows it now. */
  look(host: HopHost, now: number): void {
    const link = host.link(this.ifindex);
    const down = linkTrouble(link);
    const isResolved = link !== undefined && !link.noArp && link.type !== LOOPBACK;
    if (down === undefined && isResolved) {
      const neighbour = host.neighbour(this.ifindex, this.address);
      this.#see(neighbour, now);
      this.trouble = this.#portTrouble(host, link, neighbour) ?? this.#silence();
      return;
    }
    this.#rest();
    this.trouble = down;
  }

  /** True when the kernel should be told to ask whether it is there. */
  wantsAsking(now: number): boolean {
    return this.#doubtedSince !== undefined && now >= this.#askedAt + (this.#isAsked() ? this.#pauseMs : 0);
  }

  asked(now: number): void {
    if (this.#isAsked()) this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MS.most);
    this.#askedAt = now;
  }

  /** True when who was asked has had the time to answer. */
  isDue(now: number): boolean {
    return this.#isAsked() && !this.#silent && now - this.#askedAt >= ANSWER_MS;
  }

  /** True as long as there is something to wait for. */
  get isDoubted(): boolean {
    return this.#doubtedSince !== undefined;
  }

  /** The kernel has just said that it is there, whatever it may say by the time of the next look. */
  confirm(): void {
    this.#rest();
  }

  /** Its link has changed: whoever was not there may be now, and is asked at once. */
  stir(): void {
    this.#pauseMs = PAUSE_MS.first;
    if (this.#silent) this.#askedAt = Number.NEGATIVE_INFINITY;
  }

  #isAsked(): boolean {
    return this.#doubtedSince !== undefined && this.#askedAt >= this.#doubtedSince;
  }

  /**
   * Unresolved proves nothing: somebody may have flushed the table, or nobody has sent for long. Only who was asked and
   * has not answered is silent; and who cannot be asked, so that there still is no entry, is not.
   */
  #see(neighbour: Neighbour | undefined, now: number): void {
    if (neighbour && !neighbour.unresolved) {
      this.#rest();
      this.mac = neighbour.mac;
      return;
    }
    if (this.isDue(now)) {
      if (neighbour) this.#silent = true;
      else this.#rest();
    } else this.#doubtedSince ??= now;
  }

  #rest(): void {
    this.#doubtedSince = undefined;
    this.#silent = false;
    this.#pauseMs = PAUSE_MS.first;
  }

  #silence(): string | undefined {
    return this.#silent ? `neighbour ${this.address.ip} does not answer` : undefined;
  }

  /** Of a bridge's ports only one leads to the station, and a port that goes down takes what was learned with it. */
  #portTrouble(host: HopHost, link: Link, neighbour: Neighbour | undefined): string | undefined {
    if (link.kind !== 'bridge') return undefined;
    const mac = neighbour?.mac || this.mac;
    if (mac !== this.mac) this.port = undefined;
    const learned = mac === '' ? undefined : host.station(this.ifindex, mac)?.port;
    // The bridge's own address is no port.
    if (learned !== undefined && learned !== this.ifindex) this.port = learned;
    return this.port === undefined ? undefined : linkTrouble(host.link(this.port));
  }
}

export function hopKey(ifindex: number, ip: string): string {
  return `${ifindex} ${ip}`;
}

function linkTrouble(link: Link | undefined): string | undefined {
  if (!link) return 'link is gone';
  if (!link.up) return `link ${link.name} is down`;
  return link.carrier ? undefined : `link ${link.name} has no carrier`;
}
