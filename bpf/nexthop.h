/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The way from here to a downstream. Program side only. */
#ifndef NEXTHOP_H
#define NEXTHOP_H

#include <linux/pkt_cls.h>

#include "rewrite.h"

/* What the FIB's answer means for the datagram; forwarded where it can go. */
static __always_inline enum verdict fib_verdict(long answer)
{
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return VERDICT_forwarded;
	case BPF_FIB_LKUP_RET_NO_NEIGH: /* the kernel would queue it, and tell nobody whom it drops */
		return VERDICT_neigh_unresolved;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
		return VERDICT_fib_blackhole;
	case BPF_FIB_LKUP_RET_UNREACHABLE:
		return VERDICT_fib_unreachable;
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return VERDICT_fib_prohibit;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return VERDICT_no_route;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return VERDICT_forwarding_off;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		return VERDICT_fib_lwt;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return VERDICT_mtu_exceeded;
	default:
		return VERDICT_fib_other;
	}
}

static __always_inline long fib_lookup(struct __sk_buff *skb, struct packet *pkt, struct slot *slot,
				       struct bpf_fib_lookup *fib)
{
	fib->family = pkt->family;
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = pkt->sport;
	fib->dport = slot->port;
	fib->tot_len = pkt->l3_len;
	fib->ifindex = skb->ifindex;
	if (pkt->family == AF_INET) {
		fib->tos = pkt->tos;
		fib->ipv4_src = pkt->saddr.v4;
		fib->ipv4_dst = slot->addr.v4;
	} else {
		fib->flowinfo = bpf_htonl((__u32)pkt->tos << 20);
		__builtin_memcpy(fib->ipv6_src, &pkt->saddr, sizeof(pkt->saddr));
		__builtin_memcpy(fib->ipv6_dst, &slot->addr, sizeof(slot->addr));
	}
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}

/* Where the rewritten datagram leaves. */
struct way_out {
	__u32 ifindex;
	bool gateway_known; /* else the kernel looks it up itself */
	struct bpf_redir_neigh gateway;
};

/* Two calls, each with constants: the verifier loses track of a length that is chosen before. */
static __always_inline long redirect(struct way_out *way)
{
	if (way->gateway_known)
		return bpf_redirect_neigh(way->ifindex, &way->gateway, sizeof(way->gateway), 0);
	return bpf_redirect_neigh(way->ifindex, NULL, 0, 0);
}

/* The FIB has put the gateway, or the downstream itself, in the place of the destination. */
static __always_inline void way_by_fib(struct way_out *way, struct bpf_fib_lookup *fib)
{
	way->ifindex = fib->ifindex;
	way->gateway_known = true;
	way->gateway.nh_family = fib->family;
	__builtin_memcpy(way->gateway.ipv6_nh, fib->ipv6_dst, sizeof(way->gateway.ipv6_nh));
}

/* Where forwarding is off the FIB says no to everything, and a redirect does not ask it: not even for the MTU. */
static __always_inline enum verdict way_by_slot(struct way_out *way, struct packet *pkt, struct slot *slot)
{
	if (!slot->ifindex)
		return VERDICT_forwarding_off;
	if (pkt->l3_len > slot->mtu)
		return VERDICT_mtu_exceeded;
	way->ifindex = slot->ifindex;
	return VERDICT_forwarded;
}

static __always_inline enum verdict find_way(struct __sk_buff *skb, struct packet *pkt, struct slot *slot,
					     struct way_out *way)
{
	struct bpf_fib_lookup fib = {};
	enum verdict verdict;

	if (slot->hop == NEXT_HOP_LOCAL)
		return VERDICT_forwarded_local;
	if (slot->hop == NEXT_HOP_LOOPBACK)
		return VERDICT_loopback;
	if (pkt->ttl <= 1)
		return VERDICT_ttl_exceeded;
	verdict = fib_verdict(fib_lookup(skb, pkt, slot, &fib));
	if (verdict == VERDICT_forwarded)
		way_by_fib(way, &fib);
	return verdict == VERDICT_forwarding_off ? way_by_slot(way, pkt, slot) : verdict;
}

/* Readdresses the datagram and sends it the way that find_way found. */
static __always_inline enum verdict send(struct __sk_buff *skb, struct packet *pkt, struct slot *slot,
					 struct way_out *way, enum verdict verdict)
{
	/* The tag told its priority on the wire that it came by, and no VLAN. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return VERDICT_rewrite_failed;
	if (rewrite(skb, pkt, slot, verdict == VERDICT_forwarded ? pkt->ttl - 1 : pkt->ttl))
		return VERDICT_rewrite_failed;
	if (verdict == VERDICT_forwarded && redirect(way) != TC_ACT_REDIRECT)
		return VERDICT_redirect_failed;
	return verdict;
}

#endif
