/** Puts the program of an object file on an interface's tcx ingress until its input ends; says so. */
import koffi from 'koffi';
import { loadObject } from '../../agent/datapath/tc/object.ts';
import { openHost } from '../../agent/netlink/host.ts';
import { findLink } from '../../agent/netlink/link.ts';

/** BPF_TCX_INGRESS of uapi/linux/bpf.h. */
const TCX_INGRESS = 46;

const [object = '', nic = ''] = process.argv.slice(2);
const { index } = findLink(openHost().links(), nic)!;
const create = koffi.load('libbpf.so.1').func('int bpf_link_create(int prog, int target, int type, const void *opts)');
const link: number = create(loadObject(object).program.fd, index, TCX_INGRESS, null);
process.stdout.write(link < 0 ? `not attached: ${link}\n` : 'attached\n');
process.stdin.on('end', () => process.exit(0)).resume();
