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

/* The part of the IPv4 header that changes, and the ports behind a header without options. */
struct ip4_tail {
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

/* The same of IPv6, the ports behind a header without extensions. */
struct ip6_tail {
	__u8 hop_limit;
	union addr saddr;
	union addr daddr;
	__be16 sport;
	__be16 dport;
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
 * A plain datagram straight in the packet, without a call for each field. False where it is not plain, or does not lie in
 * the packet's linear part: nothing has changed then.
 */
static __always_inline bool rewrite_ip4_plain(struct __sk_buff *skb, struct packet *pkt, struct slot *slot,
					      struct ip4_tail *tail)
{
	struct iphdr *ip = (void *)(long)skb->data + L3;
	struct udphdr *udp = (void *)(ip + 1);
	__u64 sum = (__u64)pkt->daddr.v4 + (__u32)~slot->addr.v4;

	if (pkt->part != WHOLE || pkt->l4 != L3 + sizeof(*ip) || (void *)(udp + 1) > (void *)(long)skb->data_end ||
	    !has_whole_check(skb, pkt))
		return false;
	ip->ttl = tail->ttl;
	ip->check = tail->check;
	ip->daddr = tail->daddr;
	udp->dest = tail->dport;
	udp->check =
		udp_check_replace(pkt->udp_check, (__u64)pkt->daddr.v4 + pkt->dport, (__u64)tail->daddr + tail->dport);
	/* In a sum of all of the packet (CHECKSUM_COMPLETE) both checksums make up for the address, and it changes once. */
	bpf_csum_update(skb, (__u32)sum + (__u32)(sum >> 32));
	return true;
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
	};

	/* The protocol, in the other byte of the TTL's word, is the same before and after. */
	tail.check = check_replace(tail.check, bpf_htons(pkt->ttl << 8), bpf_htons(ttl << 8));
	if (rewrite_ip4_plain(skb, pkt, slot, &tail))
		return 0;
	if (pkt->part == LATER)
		return bpf_skb_store_bytes(skb, L3 + offsetof(struct iphdr, ttl), &tail,
					   offsetof(struct ip4_tail, sport), 0);
	if (bpf_l4_csum_replace(skb, pkt->l4 + offsetof(struct udphdr, check), pkt->daddr.v4, slot->addr.v4,
				BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | sizeof(slot->addr.v4)) ||
	    rewrite_port_check(skb, pkt, slot))
		return -1;
	return bpf_skb_store_bytes(skb, L3 + offsetof(struct iphdr, ttl), &tail, sizeof(tail), 0);
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

/* As rewrite_ip4_plain; the UDP checksum alone makes up for the address here. */
static __always_inline bool rewrite_ip6_plain(struct __sk_buff *skb, struct packet *pkt, struct slot *slot, __u8 ttl)
{
	struct ipv6hdr *ip = (void *)(long)skb->data + L3;
	struct udphdr *udp = (void *)(ip + 1);

	if (pkt->part != WHOLE || pkt->l4 != L3 + sizeof(*ip) || (void *)(udp + 1) > (void *)(long)skb->data_end ||
	    !has_whole_check(skb, pkt))
		return false;
	ip->hop_limit = ttl;
	__builtin_memcpy(&ip->daddr, &slot->addr, sizeof(ip->daddr));
	udp->dest = slot->port;
	udp->check =
		udp_check_replace(pkt->udp_check, words(&pkt->daddr) + pkt->dport, words(&slot->addr) + slot->port);
	return true;
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
	};
	__u32 at = L3 + offsetof(struct ipv6hdr, hop_limit);

	rewrite_ip6_sum(skb, pkt, ttl);
	if (rewrite_ip6_plain(skb, pkt, slot, ttl))
		return 0;
	if (pkt->part != LATER && (rewrite_ip6_check(skb, pkt, slot) || rewrite_port_check(skb, pkt, slot)))
		return -1;
	if (pkt->part == WHOLE && pkt->l4 == L3 + sizeof(struct ipv6hdr))
		return bpf_skb_store_bytes(skb, at, &tail, sizeof(tail), 0);
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
