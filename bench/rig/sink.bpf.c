// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The end of the way: counts the generator's datagrams where they arrive and drops them, before a stack costs anything. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_LEN 64
/* In 16-bit words: the IPv4 header, its addresses, and the UDP checksum's field. */
#define IP_AT (ETH_HLEN / 2)
#define ADDRESSES_AT (IP_AT + 6)
#define UDP_AT (IP_AT + 10)
#define CHECK_AT (UDP_AT + 3)
#define UDP_LEN (FRAME_LEN - 2 * UDP_AT)

struct arrivals {
	__u64 datagrams;
	__u64 wrong; /* header or UDP checksum does not add up, or is missing; looked at only while `verify` is set */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrivals);
} ARRIVALS SEC(".maps");

/* Set for the proof before the race; during the race the sink has to cost as little as it can. */
__u32 verify;

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline int wrong(struct __sk_buff *skb)
{
	__u32 header = 0, udp = bpf_htons(IPPROTO_UDP) + bpf_htons(UDP_LEN);
	__u16 words[FRAME_LEN / 2];
	int i;

	if (bpf_skb_load_bytes(skb, 0, words, sizeof(words)))
		return 1;
#pragma unroll
	for (i = IP_AT; i < UDP_AT; i++)
		header += words[i];
#pragma unroll
	for (i = ADDRESSES_AT; i < FRAME_LEN / 2; i++)
		udp += words[i];
	return !words[CHECK_AT] || fold(header) != 0xffff || fold(udp) != 0xffff;
}

SEC("tc")
int sink(struct __sk_buff *skb)
{
	struct arrivals *arrivals;
	__u32 first = 0;

	/* Neighbour discovery and the like are nobody's datagrams. */
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->len != FRAME_LEN)
		return TC_ACT_OK;
	arrivals = bpf_map_lookup_elem(&ARRIVALS, &first);
	if (arrivals) {
		arrivals->datagrams++;
		if (verify && wrong(skb))
			arrivals->wrong++;
	}
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
