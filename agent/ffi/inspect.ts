/** Calls that only look: what doctor asks of the kernel and the agent itself never does. */
import koffi from 'koffi';
import { cString } from './c-string.ts';
import { SystemError } from './errno.ts';
import { call, libc } from './libc.ts';

/** BPF_TCX_INGRESS of uapi/linux/bpf.h. */
const TCX_INGRESS = 46;
const MOST_PROGRAMS = 64;
/** struct bpf_prog_query_opts of libbpf 1.x: size, flags, ids by pointer, their number. */
const QUERY = { bytes: 40, ids: 16, count: 24 } as const;
/** struct bpf_prog_info up to and with its name. */
const INFO = { bytes: 80, name: 64, nameBytes: 16 } as const;
/** struct ifreq: a name, then a pointer for SIOCETHTOOL (linux/sockios.h). */
const IFREQ = { bytes: 40, data: 16 } as const;
const SIOCETHTOOL = 0x8946;
const ioctl = call('int ioctl(int fd, unsigned long request, void *argument)');

let calls: ReturnType<typeof bind> | undefined;

function bind() {
  const libbpf = koffi.load('libbpf.so.1');
  return {
    query: libbpf.func('int bpf_prog_query_opts(int target, int type, void *opts)'),
    programById: libbpf.func('int bpf_prog_get_fd_by_id(uint32_t id)'),
    info: libbpf.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *length)'),
  };
}

/** Ids of the programs on an interface's tcx ingress, in the order in which they run. Throws SystemError. */
export function tcxPrograms(ifindex: number): number[] {
  calls ??= bind();
  const ids = new Uint32Array(MOST_PROGRAMS);
  const options = new DataView(new ArrayBuffer(QUERY.bytes));
  options.setBigUint64(0, BigInt(QUERY.bytes), true);
  options.setBigUint64(QUERY.ids, koffi.address(ids), true);
  options.setUint32(QUERY.count, ids.length, true);
  const result: number = calls.query(ifindex, TCX_INGRESS, new Uint8Array(options.buffer));
  if (result < 0) throw new SystemError('bpf_prog_query', -result);
  return [...ids.subarray(0, options.getUint32(QUERY.count, true))];
}

/** The name of a program; undefined where the kernel does not tell (it wants SYS_ADMIN). */
export function programName(id: number): string | undefined {
  calls ??= bind();
  const fd: number = calls.programById(id);
  if (fd < 0) return undefined;
  const info = new Uint8Array(INFO.bytes);
  const result: number = calls.info(fd, info, new Uint32Array([info.length]));
  libc.close(fd);
  if (result < 0) return undefined;
  return cString(info.subarray(INFO.name, INFO.name + INFO.nameBytes));
}

/** One ethtool command (linux/ethtool.h); its answer is written into `command`. False where the interface has no answer. */
export function ethtool(fd: number, name: string, command: Uint8Array): boolean {
  const request = new Uint8Array(IFREQ.bytes);
  request.set(Buffer.from(name).subarray(0, 15));
  new DataView(request.buffer).setBigUint64(IFREQ.data, koffi.address(command), true);
  return ioctl(fd, SIOCETHTOOL, request) >= 0;
}
