/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* To the agent's safety net, with what the program cannot send itself. Program side only. */
#ifndef SAFETY_NET_H
#define SAFETY_NET_H

#include "parse.h"

/* What most packets fit in, jumbo frames, and the largest that there are. A reservation's size must be a constant. */
#define SMALL_PACKET 2048
#define JUMBO_PACKET 9216
#define LARGEST_PACKET 65535

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SAFETY_NET_BYTES);
} SAFETY_NET SEC(".maps");

/* Why a packet is handed over, and what is known of it. */
struct reason {
	struct slot slot; /* port 0: none was chosen */
	__u32 listener;
	enum verdict verdict;
};

static __always_inline bool hand_over_in(struct __sk_buff *skb, struct reason *reason, __u32 len, const __u32 room)
{
	struct handed *handed = bpf_ringbuf_reserve(&SAFETY_NET, sizeof(*handed) + room, 0);

	if (!handed)
		return false;
	handed->slot = reason->slot;
	handed->listener = reason->listener;
	handed->verdict = reason->verdict;
	handed->ifindex = skb->ifindex;
	handed->len = len;
	handed->segment = skb->gso_size;
	handed->pad = 0;
	/*
	 * Two questions, which the barrier keeps the compiler from making one of: verifiers before Linux 6.8 see no lower
	 * bound in it. Not "is not 0", from which they learn nothing.
	 */
	if (len < sizeof(struct iphdr))
		goto discard;
	barrier_var(len);
	if (len > room || bpf_skb_load_bytes(skb, L3, handed->packet, len))
		goto discard;
	bpf_ringbuf_submit(handed, 0);
	return true;
discard:
	bpf_ringbuf_discard(handed, 0);
	return false;
}

/* What is for a neighbour that does not answer comes in floods: half of the room is the others'. */
static __always_inline bool is_crowded(enum verdict verdict)
{
	return verdict == VERDICT_neigh_unresolved &&
	       bpf_ringbuf_query(&SAFETY_NET, BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(&SAFETY_NET, BPF_RB_RING_SIZE) / 2;
}

/* Copies the packet, which stays as it is; false if there is no room, or it is no IP packet at all. */
static __noinline bool hand_over(struct __sk_buff *skb, struct reason *reason)
{
	__u32 len = skb->len - L3;

	if (is_crowded(reason->verdict))
		return false;
	if (len <= SMALL_PACKET)
		return hand_over_in(skb, reason, len, SMALL_PACKET);
	if (len <= JUMBO_PACKET)
		return hand_over_in(skb, reason, len, JUMBO_PACKET);
	return hand_over_in(skb, reason, len, LARGEST_PACKET);
}

#endif
