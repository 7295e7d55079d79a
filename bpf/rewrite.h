/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting as a router does: destination, ports, TTL, and the checksums by their difference (RFC 1624), so that a
 * datagram which was wrong before stays wrong and the receiver can tell. Program side only.
 */
#ifndef REWRITE_H
#define REWRITE_H

#include "parse.h"

#define EINVAL 22

/* Linux 6.16: tells the checksum helper that no header checksum makes up for a changed IPv6 address. */
#ifndef BPF_F_IPV6
#define BPF_F_IPV6 (1ULL << 7)
#endif

/* The part of the IPv4 header that changes, and the UDP header behind one without options. */
struct ip4_tail {
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__be16 udp_len;
	__be16 udp_check; /* written only where it is changed by hand */
};

/* The same of IPv6, and a header without extensions. */
struct ip6_tail {
	__u8 hop_limit;
	union addr saddr;
	union addr daddr;
	__be16 sport;
	__be16 dport;
	__be16 udp_len;
	__be16 udp_check;
} __attribute__((packed));

/* The sum of 16-bit words (RFC 1071) that are summed up in 64 bits. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __be16 check_replace(__be16 check, __be32 from, __be32 to)
{
	return ~fold((__u64)(__u16)~check + (__u32)~from + to);
}

static __always_inline __u64 words(const union addr *addr)
{
	return (__u64)addr->v6[0] + addr->v6[1] + addr->v6[2] + addr->v6[3];
}

/*
 * Whether the UDP checksum is a whole one, or 0 for none, and so may be changed by hand. With CHECKSUM_PARTIAL, which a
 * program is not told of, the field holds the pseudo header's sum, and the rest is added by who sends it on: what looks like
 * that, as one whole checksum of 65536 does, goes the general way, as do packets of several datagrams.
 */
static __always_inline bool has_whole_check(struct __sk_buff *skb, struct packet *pkt)
{
	__u64 pseudo = words(&pkt->saddr) + words(&pkt->daddr) + bpf_htons(IPPROTO_UDP) + pkt->udp_len;

	return !skb->gso_size && (!pkt->udp_check || fold(pseudo) != pkt->udp_check);
}

/* The UDP checksum of a datagram whose words have changed from a sum to another one: 0 stays, and none is made (RFC 768). */
static __always_inline __be16 udp_check_replace(__be16 check, __u64 from, __u64 to)
{
	__u16 made;

	if (!check)
		return 0;
	made = ~fold((__u64)(__u16)~check + (__u16)~fold(from) + to);
	return made ?: 0xffff;
}

/*
 * In general the UDP checksum goes through the helper: it knows CHECKSUM_PARTIAL, and MARK_MANGLED_0 keeps 0 ("none") as it
 * is and never makes a 0.
 */
static __always_inline int rewrite_port_check(struct __sk_buff *skb, struct packet *pkt, struct slot *slot)
{
	if (pkt->dport == slot->port)
		return 0;
	return bpf_l4_csum_replace(skb, pkt->l4 + offsetof(struct udphdr, check), pkt->dport, slot->port,
				   BPF_F_MARK_MANGLED_0 | sizeof(slot->port));
}

/*
 * The UDP checksum of a datagram that is whole and may be changed by hand goes with the one write; a call for it costs as much
 * as that. Not straight into the packet: then the compiler's prologue copies every cloned packet that comes by, others' too,
 * and drops it where there is no memory.
 */
static __always_inline bool is_plain(struct __sk_buff *skb, struct packet *pkt)
{
	return pkt->part == WHOLE && has_whole_check(skb, pkt);
}

/* In a sum of all of a packet (CHECKSUM_COMPLETE) both of IPv4's checksums make up for the address, and it changes once. */
static __always_inline void rewrite_ip4_sum(struct __sk_buff *skb, struct packet *pkt, struct slot *slot)
{
	__u64 sum = (__u64)pkt->daddr.v4 + (__u32)~slot->addr.v4;

	bpf_csum_update(skb, (__u32)sum + (__u32)(sum >> 32));
}

static __always_inline int rewrite_ip4(struct __sk_buff *skb, struct packet *pkt, struct slot *slot, __u8 ttl)
{
	struct ip4_tail tail = {
		.ttl = ttl,
		.protocol = IPPROTO_UDP,
		.check = check_replace(pkt->check, pkt->daddr.v4, slot->addr.v4),
		.saddr = pkt->saddr.v4,
		.daddr = slot->addr.v4,
		.sport = pkt->sport,
		.dport = slot->port,
		.udp_len = pkt->udp_len,
	};
	__u32 at = L3 + offsetof(struct iphdr, ttl);

	/* The protocol, in the other byte of the TTL's word, is the same before and after. */
	tail.check = check_replace(tail.check, bpf_htons(pkt->ttl << 8), bpf_htons(ttl << 8));
	if (pkt->part == LATER)
		return bpf_skb_store_bytes(skb, at, &tail, offsetof(struct ip4_tail, sport), 0);
	if (is_plain(skb, pkt)) {
		tail.udp_check = udp_check_replace(pkt->udp_check, (__u64)pkt->daddr.v4 + pkt->dport,
						   (__u64)slot->addr.v4 + slot->port);
		rewrite_ip4_sum(skb, pkt, slot);
		return bpf_skb_store_bytes(skb, at, &tail, sizeof(tail), 0);
	}
	if (bpf_l4_csum_replace(skb, pkt->l4 + offsetof(struct udphdr, check), pkt->daddr.v4, slot->addr.v4,
				BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | sizeof(slot->addr.v4)) ||
	    rewrite_port_check(skb, pkt, slot))
		return -1;
	return bpf_skb_store_bytes(skb, at, &tail, offsetof(struct ip4_tail, udp_len), 0);
}

static __always_inline int rewrite_ip6_check(struct __sk_buff *skb, struct packet *pkt, struct slot *slot)
{
	__u64 flags = BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0;
	__u32 at = pkt->l4 + offsetof(struct udphdr, check);
	__s64 diff = bpf_csum_diff(pkt->daddr.v6, sizeof(pkt->daddr), slot->addr.v6, sizeof(slot->addr), 0);
	int err = bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_IPV6);

	/*
	 * Kernels before 6.16 do not know the flag, and refuse before they touch the packet. Without it they take the
	 * addresses' difference off the sum that a driver gave for all of the packet (CHECKSUM_COMPLETE), as if a header
	 * checksum had made up for it: it is added again.
	 */
	if (err != -EINVAL)
		return err;
	err = bpf_l4_csum_replace(skb, at, 0, diff, flags);
	bpf_csum_update(skb, diff);
	return err;
}

/*
 * No header checksum of IPv6 makes up for a hop less in the sum of all of the packet (CHECKSUM_COMPLETE), as one does for
 * IPv4's TTL: the receiver's kernel would call it a fault of the hardware. Where there is no such sum this does nothing.
 */
static __always_inline void rewrite_ip6_sum(struct __sk_buff *skb, struct packet *pkt, __u8 ttl)
{
	bpf_csum_update(skb, bpf_htons(ttl) + (__u16)~bpf_htons(pkt->ttl));
}

/* One write where the headers adjoin, since each write is a call that makes the packet writable anew. */
static __always_inline int rewrite_ip6(struct __sk_buff *skb, struct packet *pkt, struct slot *slot, __u8 ttl)
{
	struct ip6_tail tail = {
		.hop_limit = ttl,
		.saddr = pkt->saddr,
		.daddr = slot->addr,
		.sport = pkt->sport,
		.dport = slot->port,
		.udp_len = pkt->udp_len,
	};
	__u32 at = L3 + offsetof(struct ipv6hdr, hop_limit);
	bool adjoins = pkt->l4 == L3 + sizeof(struct ipv6hdr);

	rewrite_ip6_sum(skb, pkt, ttl);
	if (adjoins && is_plain(skb, pkt)) {
		tail.udp_check = udp_check_replace(pkt->udp_check, words(&pkt->daddr) + pkt->dport,
						   words(&slot->addr) + slot->port);
		return bpf_skb_store_bytes(skb, at, &tail, sizeof(tail), 0);
	}
	if (pkt->part != LATER && (rewrite_ip6_check(skb, pkt, slot) || rewrite_port_check(skb, pkt, slot)))
		return -1;
	if (pkt->part == WHOLE && adjoins)
		return bpf_skb_store_bytes(skb, at, &tail, offsetof(struct ip6_tail, udp_len), 0);
	if (bpf_skb_store_bytes(skb, at, &tail, offsetof(struct ip6_tail, sport), 0))
		return -1;
	if (pkt->part == LATER)
		return 0;
	return bpf_skb_store_bytes(skb, pkt->l4 + offsetof(struct udphdr, dest), &slot->port, sizeof(slot->port), 0);
}

/* Readdresses the datagram to the slot's downstream with this TTL; not 0 if the kernel had no memory to do so. */
static __always_inline int rewrite(struct __sk_buff *skb, struct packet *pkt, struct slot *slot, __u8 ttl)
{
	return pkt->family == AF_INET ? rewrite_ip4(skb, pkt, slot, ttl) : rewrite_ip6(skb, pkt, slot, ttl);
}

#endif
