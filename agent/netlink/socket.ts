/** Questions to rtnetlink(7): one request, its whole answer. Synchronous; the kernel answers within the send. */
import { constants } from 'node:os';
import { check, SystemError } from '../ffi/errno.ts';
import { type Channel, openRequests } from './channel.ts';
import { Attributes, decodeMessages, encodeMessage, LITTLE_ENDIAN, type Message } from './message.ts';

/** What can be asked (linux/rtnetlink.h). */
const REQUESTS = {
  RTM_GETLINK: 18,
  RTM_GETADDR: 22,
  RTM_GETROUTE: 26,
  RTM_NEWNEIGH: 28,
  RTM_GETNEIGH: 30,
  RTM_GETRULE: 34,
  RTM_GETQDISC: 38,
  RTM_GETTFILTER: 46,
  RTM_GETSTATS: 94,
} as const;
export type Request = keyof typeof REQUESTS;

/** All entries, not one (linux/netlink.h). */
export const NLM_F_DUMP = 0x300;
/** Makes what is not there. */
export const NLM_F_CREATE = 0x400;
const NLM_F_REQUEST = 0x01;
const NLM_F_ACK = 0x04;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_ACK_TLVS = 0x200;
const NLMSG_NOOP = 1;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLMSGERR_ATTR_MSG = 1;

const ATTEMPTS = 16;
const FIRST_BUFFER = 64 * 1024; // the kernel fills at most 32 KiB a datagram of a dump

/**
 * An rtnetlink socket of the network namespace that the thread is in. Opened by the first request, and anew after an
 * answer that was not read to its end: the kernel refuses a second dump (EBUSY) while the first has more to say.
 */
export class Rtnetlink {
  readonly #open: () => Channel;
  #channel: Channel | undefined;
  #buffer = new Uint8Array(FIRST_BUFFER);
  #sequence = 0;

  constructor(open: () => Channel = openRequests) {
    this.#open = open;
  }

  /**
   * Sends one request and returns its answer's messages. Throws SystemError with the kernel's errno and, where it gives
   * one, its text; ETIMEDOUT if there is no answer in time, EAGAIN if the tables changed under every attempt to read them.
   */
  request(type: Request, flags: number, payload: Uint8Array): Message[] {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const answer = this.#attempt(type, flags, payload);
      if (answer !== undefined) return succeeded(type, answer.pop()!, answer);
    }
    throw new SystemError(type, constants.errno.EAGAIN, `answer incomplete ${ATTEMPTS} times`);
  }

  close(): void {
    this.#channel?.close();
    this.#channel = undefined;
  }

  #attempt(type: Request, flags: number, payload: Uint8Array): Message[] | undefined {
    try {
      return this.#exchange(type, flags, payload);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The answer with the message that ends it; undefined if it was incomplete. */
  #exchange(type: Request, flags: number, payload: Uint8Array): Message[] | undefined {
    this.#channel ??= this.#open();
    this.#sequence = (this.#sequence + 1) >>> 0;
    // A dump ends by itself; of anything else, the acknowledgement says that it is over.
    const more = (flags & NLM_F_DUMP) === NLM_F_DUMP ? 0 : NLM_F_ACK;
    const header = { type: REQUESTS[type], flags: flags | NLM_F_REQUEST | more, sequence: this.#sequence };
    check(`send ${type}`, this.#channel.send(encodeMessage({ ...header, payload })));
    const answer: Message[] = [];
    for (;;) {
      const datagram = this.#receive(type, this.#channel);
      if (datagram === undefined) return undefined;
      for (const message of decodeMessages(datagram)) {
        if (message.sequence !== this.#sequence || message.type === NLMSG_NOOP) continue;
        answer.push(message);
        if (message.type !== NLMSG_ERROR && message.type !== NLMSG_DONE) continue;
        return answer.some((part) => part.flags & NLM_F_DUMP_INTR) ? undefined : answer;
      }
    }
  }

  /** A copy of the next datagram; undefined if it was larger than our buffer, which then has grown for the next attempt. */
  #receive(type: Request, channel: Channel): Uint8Array | undefined {
    const length = receiveUninterrupted(channel, this.#buffer);
    if (length === -constants.errno.EAGAIN) throw new SystemError(type, constants.errno.ETIMEDOUT, 'no answer in 5 s');
    check(`recv ${type}`, length);
    if (length <= this.#buffer.length) return this.#buffer.slice(0, length);
    this.#buffer = new Uint8Array(length * 2);
    this.close();
    return undefined;
  }
}

function receiveUninterrupted(channel: Channel, buffer: Uint8Array): number {
  let length: number;
  do length = channel.receive(buffer);
  while (length === -constants.errno.EINTR);
  return length;
}

/** Passes `messages` through if the message that ends them says so; both kinds of ending start with 0 or -errno. */
function succeeded(type: Request, end: Message, messages: Message[]): Message[] {
  if (end.payload.length < 4) throw new Error(`${type}: an ending of ${end.payload.length} bytes: want 4`);
  const result = new DataView(end.payload.buffer, end.payload.byteOffset).getInt32(0, LITTLE_ENDIAN);
  if (result < 0) throw new SystemError(type, -result, extendedText(end));
  return messages;
}

/** The kernel's own words for an error (extended ack), or ''. */
function extendedText({ type, flags, payload }: Message): string {
  if ((flags & NLM_F_ACK_TLVS) === 0) return '';
  // NLMSG_ERROR has the request's header between errno and attributes; the socket is set not to repeat its payload.
  return new Attributes(payload.subarray(type === NLMSG_ERROR ? 20 : 4)).text(NLMSGERR_ATTR_MSG) ?? '';
}
