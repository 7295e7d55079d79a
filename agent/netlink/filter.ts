/** Filters of tc on clsact (linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h). */
import { type Attributes, decodePayload, LITTLE_ENDIAN } from './message.ts';

/** A clsact filter, as `tc filter show dev … ingress` or `… egress` lists it. A tcx link is no filter and is not listed. */
export interface Filter {
  /** `bpf`, `matchall`, `flower`, … */
  readonly kind: string;
  /** tc's pref: lower ones run first. */
  readonly priority: number;
  /** Ethertype, e.g. 0x0800; 3 (ETH_P_ALL) is `all`. */
  readonly protocol: number;
  readonly handle: number;
  readonly chain: number;
  /** Name of a bpf filter; not its program's, but what its owner called it. */
  readonly bpfName?: string;
  /** Id of its BPF program, as in `bpftool prog show`. */
  readonly bpfId?: number;
}

const TCMSG = 20;
/** TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and TC_H_MIN_EGRESS. */
const PARENT = { ingress: 0xfffffff2, egress: 0xfffffff3 } as const;
export type Side = keyof typeof PARENT;
const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const TCA_CHAIN = 11;
const TCA_BPF_NAME = 7;
const TCA_BPF_ID = 11;

/** The payload of an RTM_GETTFILTER dump of one side of an interface. */
export function filtersRequest(ifindex: number, side: Side): Uint8Array {
  const header = new DataView(new ArrayBuffer(TCMSG));
  header.setInt32(4, ifindex, LITTLE_ENDIAN);
  header.setUint32(12, PARENT[side], LITTLE_ENDIAN);
  return new Uint8Array(header.buffer);
}

/** The filter in the payload of an RTM_NEWTFILTER; undefined for the entry that only heads a priority's filters. */
export function decodeFilter(payload: Uint8Array): Filter | undefined {
  const { header, attributes } = decodePayload(payload, TCMSG);
  const handle = header.getUint32(8, LITTLE_ENDIAN);
  if (handle === 0 && attributes.bytes(TCA_OPTIONS) === undefined) return undefined;
  const kind = attributes.text(TCA_KIND) ?? '';
  // tcm_info: priority in the upper half, ethertype in network order in the lower one.
  return {
    kind,
    priority: header.getUint32(16, LITTLE_ENDIAN) >>> 16,
    protocol: header.getUint16(LITTLE_ENDIAN ? 16 : 18),
    handle,
    chain: attributes.u32(TCA_CHAIN) ?? 0,
    ...(kind === 'bpf' && decodeBpf(attributes.nested(TCA_OPTIONS))),
  };
}

function decodeBpf(options: Attributes): Pick<Filter, 'bpfName' | 'bpfId'> {
  const bpfName = options.text(TCA_BPF_NAME);
  const bpfId = options.u32(TCA_BPF_ID);
  return {
    ...(bpfName !== undefined && { bpfName }),
    ...(bpfId !== undefined && { bpfId }),
  };
}
