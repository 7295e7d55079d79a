/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a frame to the facts that the policy asks for. Program side only. Every bounds check of the program is here.
 */
#ifndef PARSE_H
#define PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "udp_fanout.h"

#define AF_INET 2
#define AF_INET6 10

#define L3 ETH_HLEN
#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET 0x1fff
#define IP6_MORE_FRAGMENTS 0x0001
#define IP6_OFFSET 0xfff8
/* More extension headers than any sane sender uses; a longer chain is the stack's. */
#define MAX_EXTENSIONS 6
/* linux/if_vlan.h: the VLAN's number in a tag. */
#define VLAN_VID 0x0fff

enum fragment_part { WHOLE, FIRST, LATER };

struct packet {
	union addr saddr;
	union addr daddr;
	__be16 sport; /* the ports are 0 in a later fragment */
	__be16 dport;
	__u16 l4;       /* offset of the UDP header */
	__u16 l3_len;   /* IP header and payload, of one segment if the packet holds several */
	__u32 payload;  /* bytes of UDP payload, all segments */
	__u32 segments; /* datagrams in this packet */
	__u32 fragment_id;
	__u8 part; /* enum fragment_part */
	__u8 family;
	__u8 ttl;
	__u8 tos;
	__u32 fault;  /* verdict that keeps it from being forwarded here, 0 if none */
	__be16 check; /* IPv4 header checksum */
	__be16 udp_len;
	__be16 udp_check; /* 0 in a later fragment, too */
};

struct ip6_extension {
	__u8 next;
	__u8 len; /* in 8 bytes, the first not counted; a fragment header's is reserved */
	__be16 offset;
	__be32 id;
};

/* Nobody can make anything of it, and a receiver would drop it without a word. */
static __always_inline bool is_broken(const struct packet *pkt)
{
	return pkt->fault == VERDICT_malformed || pkt->fault == VERDICT_ip_checksum;
}

/* Makes the first `len` bytes readable through data; false if the packet is shorter. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 len)
{
	if ((void *)(long)skb->data + len <= (void *)(long)skb->data_end)
		return true;
	return skb->len >= len && !bpf_skb_pull_data(skb, len) &&
	       (void *)(long)skb->data + len <= (void *)(long)skb->data_end;
}

/* The UDP header, straight from memory where it lies in the packet's linear part, as it nearly always does. */
static __always_inline bool load_udp(struct __sk_buff *skb, __u32 at, struct udphdr *udp)
{
	void *data = (void *)(long)skb->data + at;

	if (data + sizeof(*udp) > (void *)(long)skb->data_end)
		return !bpf_skb_load_bytes(skb, at, udp, sizeof(*udp));
	__builtin_memcpy(udp, data, sizeof(*udp));
	return true;
}

/* Reads the UDP header's ports and holds its length against what the IP header says there is. */
static __always_inline bool parse_udp(struct __sk_buff *skb, struct packet *pkt, __u32 ip_payload)
{
	struct udphdr udp;
	__u32 len;

	if (pkt->part == LATER) {
		pkt->payload = ip_payload;
		return true;
	}
	if (!load_udp(skb, pkt->l4, &udp))
		return false;
	pkt->sport = udp.source;
	pkt->dport = udp.dest;
	pkt->udp_len = udp.len;
	pkt->udp_check = udp.check;
	/*
	 * In a first fragment the length speaks of the whole datagram (RFC 791), in a packet of several datagrams of
	 * one of them: what counts is what is here.
	 */
	len = skb->gso_size || pkt->part == FIRST ? ip_payload : bpf_ntohs(udp.len);
	if (len < sizeof(udp) || len > ip_payload)
		pkt->fault = VERDICT_malformed;
	/* Where the lengths lie nobody knows the payload. */
	if (pkt->fault != VERDICT_malformed)
		pkt->payload = len - sizeof(udp);
	return true;
}

/* One segment's size on the wire, which is what an MTU limits. */
static __always_inline __u32 wire_len(struct __sk_buff *skb, struct packet *pkt, __u32 l3_len)
{
	return skb->gso_size ? pkt->l4 - L3 + sizeof(struct udphdr) + skb->gso_size : l3_len;
}

/* 0/8, 127/8, multicast, class E and broadcast (RFC 1812, 5.3.7): the receiver's stack would drop it without a word. */
static __always_inline bool ip4_martian(__be32 saddr)
{
	__u8 first = bpf_ntohl(saddr) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/* Multicast, link-local, unspecified and loopback (RFC 4291, 2.5): none of them may be forwarded. */
static __always_inline bool ip6_martian(const union addr *saddr)
{
	return saddr->bytes[0] == 0xff || (saddr->v6[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	       !(saddr->v6[0] | saddr->v6[1] | saddr->v6[2] | (saddr->v6[3] & ~bpf_htonl(1)));
}

/* Its words add up to all ones (RFC 1071); of a header without options. */
static __always_inline bool ip4_checksum_wrong(const struct iphdr *ip)
{
	const __u32 *words = (const void *)ip;
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)((sum & 0xffff) + (sum >> 16)) != 0xffff;
}

static __always_inline bool parse_ip4(struct __sk_buff *skb, struct packet *pkt)
{
	struct iphdr *ip;
	__u16 fragment;
	__u32 len, header;

	if (!readable(skb, L3 + sizeof(*ip)))
		return false;
	ip = (void *)(long)skb->data + L3;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	if (ip->protocol != IPPROTO_UDP || ip->version != 4 || ip->ihl < 5)
		return false;

	header = ip->ihl * 4;
	len = bpf_ntohs(ip->tot_len);
	fragment = bpf_ntohs(ip->frag_off);
	pkt->family = AF_INET;
	pkt->saddr.v4 = ip->saddr;
	pkt->daddr.v4 = ip->daddr;
	pkt->ttl = ip->ttl;
	pkt->tos = ip->tos;
	pkt->check = ip->check;
	pkt->l4 = L3 + header;
	pkt->fragment_id = bpf_ntohs(ip->id);
	pkt->part = fragment & IP_OFFSET ? LATER : fragment & IP_MORE_FRAGMENTS ? FIRST : WHOLE;
	pkt->l3_len = wire_len(skb, pkt, len);
	if (len < header || L3 + len > skb->len)
		pkt->fault = VERDICT_malformed;
	else if (header != sizeof(*ip))
		pkt->fault = VERDICT_ip_options;
	else if (ip4_checksum_wrong(ip))
		pkt->fault = VERDICT_ip_checksum;
	else if (ip4_martian(ip->saddr))
		pkt->fault = VERDICT_martian_source;
	return parse_udp(skb, pkt, len - header);
}

static __always_inline bool parse_ip6(struct __sk_buff *skb, struct packet *pkt)
{
	struct ip6_extension ext;
	struct ipv6hdr *ip;
	__u32 len, at = L3 + sizeof(*ip);
	__u8 next;
	int i;

	if (!readable(skb, at))
		return false;
	ip = (void *)(long)skb->data + L3;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	next = ip->nexthdr;
	if (ip->version != 6)
		return false;

	len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (L3 + len > skb->len)
		pkt->fault = VERDICT_malformed;
	for (i = 0; next != IPPROTO_UDP; i++) {
		if (i == MAX_EXTENSIONS)
			return false;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			return false;
		if (bpf_skb_load_bytes(skb, at, &ext, sizeof(ext)))
			return false;
		if (next == IPPROTO_FRAGMENT) {
			pkt->part = ext.offset & bpf_htons(IP6_OFFSET)           ? LATER
				    : ext.offset & bpf_htons(IP6_MORE_FRAGMENTS) ? FIRST
										 : WHOLE;
			pkt->fragment_id = bpf_ntohl(ext.id);
			at += sizeof(ext);
		} else {
			pkt->fault = pkt->fault ?: VERDICT_ip_options;
			at += (ext.len + 1) * 8;
		}
		next = ext.next;
		/* What lies behind is of the datagram, and in its later parts of the middle of it, whatever it looks like. */
		if (pkt->part != WHOLE)
			break;
	}
	if (next != IPPROTO_UDP)
		return false;

	ip = (void *)(long)skb->data + L3;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	pkt->family = AF_INET6;
	__builtin_memcpy(&pkt->saddr, &ip->saddr, sizeof(pkt->saddr));
	__builtin_memcpy(&pkt->daddr, &ip->daddr, sizeof(pkt->daddr));
	pkt->ttl = ip->hop_limit;
	pkt->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	pkt->l4 = at;
	pkt->l3_len = wire_len(skb, pkt, len);
	if (L3 + len < at)
		pkt->fault = VERDICT_malformed;
	else if (ip6_martian(&pkt->saddr))
		pkt->fault = pkt->fault ?: VERDICT_martian_source;
	return parse_udp(skb, pkt, L3 + len - at);
}

/*
 * Fills `pkt` (zeroed) for a UDP datagram that was sent to this host's link-layer address. False for everything
 * else, which is not ours: other protocols, other hosts' frames, and datagrams of a VLAN, since they belong to the
 * VLAN's own interface even where the driver hands them to its parent first. A tag of VID 0 is of no VLAN, it says the
 * frame's priority (IEEE 802.1Q, 9.6).
 */
static __always_inline bool parse(struct __sk_buff *skb, struct packet *pkt)
{
	bool udp;

	if ((skb->vlan_present && skb->vlan_tci & VLAN_VID) || skb->pkt_type == PACKET_OTHERHOST)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		udp = parse_ip4(skb, pkt);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		udp = parse_ip6(skb, pkt);
	else
		return false;
	if (skb->pkt_type != PACKET_HOST && !is_broken(pkt))
		pkt->fault = VERDICT_not_unicast;
	pkt->segments = skb->gso_segs ?: 1;
	return udp;
}

#endif
