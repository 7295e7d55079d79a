/** Descriptors that are not Node's on Node's own event loop (koffi.node.poll, by uv_poll_t). */
import koffi from 'koffi';

/** Calls `onReadable` in the event loop as long as something waits on the descriptor; does not keep the process alive. */
export function watchReadable(fd: number, onReadable: () => void): { close(): void } {
  const handle = koffi.node.poll(fd, { readable: true }, () => onReadable());
  handle.unref();
  return { close: () => handle.close() };
}
