/** What we use of raw-socket 1.8 (its README.md), which brings no types. */
declare module 'raw-socket' {
  import type { EventEmitter } from 'node:events';

  interface Socket extends EventEmitter {
    /** `after` gets the error, whose message is strerror(3)'s, or null. */
    send(
      buffer: Buffer,
      offset: number,
      length: number,
      address: string,
      after: (error: Error | null, bytes: number) => void,
    ): this;
    /** setsockopt(2) with the numbers of the system's headers. */
    setOption(level: number, option: number, value: Buffer, length: number): void;
    close(): this;
  }

  const rawSocket: {
    readonly AddressFamily: { readonly IPv4: number; readonly IPv6: number };
    readonly Protocol: { readonly ICMP: number; readonly ICMPv6: number };
    /** Opens the socket at once; throws an Error with strerror(3)'s text. */
    createSocket(options: { addressFamily: number; protocol: number; bufferSize: number }): Socket;
  };
  export default rawSocket;
}
