/** Rules that say which table a route is looked up in (linux/fib_rules.h). */
import { FAMILIES, type Family } from '../address.ts';
import { decodePayload } from './message.ts';

const FIB_RULE_HDR = 12;
const FRA_IIFNAME = 3;
const FRA_L3MDEV = 19;

/** The payload of an RTM_GETRULE dump of a family's rules. */
export function rulesRequest(family: Family): Uint8Array {
  const header = new Uint8Array(FIB_RULE_HDR);
  header[0] = FAMILIES[family].af;
  return header;
}

/** True for a rule that goes by the interface of arrival, a VRF's included: what the host itself sends goes another way. */
export function isByArrival(payload: Uint8Array): boolean {
  const { attributes } = decodePayload(payload, FIB_RULE_HDR);
  return attributes.bytes(FRA_IIFNAME) !== undefined || attributes.bytes(FRA_L3MDEV) !== undefined;
}
