// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Spreads the UDP datagrams that reach a listener over its downstreams: one each, round robin, source intact. What
 * is not a listener's leaves with TC_ACT_UNSPEC, so that other programs on the interface still see it.
 */
#include <stdbool.h>
#include <stddef.h>

#include "nexthop.h"

#define NSEC_PER_SEC 1000000000ULL
/*
 * Fragments of one datagram arrive within milliseconds. The stack waits 30 s, but a memory as long would meet the next
 * datagram with the same identification: 16 bits are soon used up.
 */
#define FRAGMENT_LIFETIME_NS (3 * NSEC_PER_SEC)

const volatile __u32 udp_fanout_abi = UDP_FANOUT_ABI;

/* enum port_flags by port: one load, without a call, tells most foreign datagrams from ours. */
__u8 ports[65536];

/* A hash, not preallocated: most nodes have ten addresses, some ten thousand. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, struct address_key);
	__type(value, __u32);
} ADDRESSES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BINDS);
	__type(key, struct bind_key);
	__type(value, struct bind);
} BINDS SEC(".maps");

/* A map in a map: a table is replaced whole by one write, and BPF_F_INNER_MAP lets each have its own size. */
struct slot_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(union cell));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_TABLES);
	__type(key, __u32);
	__array(values, struct slot_table);
} TABLES SEC(".maps");

/* A hash, so that a dump shows no empty rows; preallocated, since the kernel finds no per-CPU memory in a hurry. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_LISTENERS);
	__type(key, __u32);
	__type(value, struct stats);
} STATS SEC(".maps");

/* The only state of a flow's kind: forgotten oldest first, and never needed again once the datagram is whole. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} FRAGMENTS SEC(".maps");

/* Flags of the datagram's destination address, 0 if it concerns no listener. */
static __always_inline __u32 address_flags(struct packet *pkt)
{
	struct address_key key = { .addr = pkt->daddr, .family = pkt->family };
	__u32 *flags = bpf_map_lookup_elem(&ADDRESSES, &key);

	return flags ? *flags : 0;
}

static __always_inline bool is_unspecified(const union addr *addr)
{
	return !(addr->v6[0] | addr->v6[1] | addr->v6[2] | addr->v6[3]);
}

/*
 * enum port_flags of a port. Verifiers before Linux 6.18 forget in a byte swap that 16 bits are left, and refuse the
 * index. The mask says it again; the barrier hides the swap from the compiler, which knows better and drops the mask.
 */
static __always_inline __u8 port_flags(__be16 port)
{
	__u32 index = bpf_ntohs(port);

	barrier_var(index);
	return ports[index & 0xffff];
}

/* The most specific bind of this address and port on this interface. */
static __always_inline struct bind *find_bind(struct __sk_buff *skb, struct packet *pkt)
{
	struct bind_key key = { .ifindex = skb->ifindex, .port = pkt->dport, .family = pkt->family };
	__u8 wanted = port_flags(pkt->dport);
	struct bind *bind;

	/* The unspecified address is nobody's, and as a key it would be a wildcard's. */
	if (wanted & PORT_SPECIFIC && !is_unspecified(&pkt->daddr)) {
		key.addr = pkt->daddr;
		bind = bpf_map_lookup_elem(&BINDS, &key);
		if (bind)
			return bind;
	}
	/* Only the node's own addresses: transit to a pod with the listener's port is somebody else's. */
	if (!(wanted & PORT_WILDCARD) || !(address_flags(pkt) & ADDRESS_LOCAL))
		return NULL;
	__builtin_memset(&key.addr, 0, sizeof(key.addr));
	return bpf_map_lookup_elem(&BINDS, &key);
}

/* A step of the walk through a table. */
struct step {
	__u64 *counter;
	__u32 at;
	__u32 generation;
};

/* The next slot on this CPU's walk through the table, and what belongs to it; NULL if the table has none. */
static __always_inline struct slot *next_slot(struct bind *bind, struct stats *stats, struct step *step)
{
	__u32 *cursor = &stats->next_slot[bind->table & 1];
	void *table = bpf_map_lookup_elem(&TABLES, &bind->table);
	__u32 at = 0, slots, row;
	union cell *cell;

	if (!table)
		return NULL;
	cell = bpf_map_lookup_elem(table, &at);
	if (!cell || !cell->head.slots)
		return NULL;
	slots = cell->head.slots;
	step->generation = cell->head.generation;
	row = cell->head.counters + bpf_get_smp_processor_id() * cell->head.counters_a_cpu;

	/* The table may have become shorter since. */
	at = *cursor < slots ? *cursor : *cursor % slots;
	*cursor = at + 1;
	step->at = at;
	row += at / COUNTERS_A_CELL;
	cell = bpf_map_lookup_elem(table, &row);
	step->counter = cell ? &cell->counters[at % COUNTERS_A_CELL] : NULL;
	at++;
	cell = bpf_map_lookup_elem(table, &at);
	return cell ? &cell->slot : NULL;
}

static __always_inline enum fate fate(enum verdict verdict)
{
	return verdict >= VERDICT_no_downstream ? DROPPED : verdict >= VERDICT_ip_options ? STACK : FORWARDED;
}

static __always_inline int action(enum verdict verdict)
{
	if (verdict == VERDICT_forwarded)
		return TC_ACT_REDIRECT;
	return fate(verdict) == DROPPED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Books the verdict on the packet's datagrams and turns it into the program's answer. */
static __always_inline int count(struct stats *stats, struct packet *pkt, enum verdict verdict)
{
	__u32 index = verdict;

	/*
	 * Checked here, where it is used. What the compiler checks before and keeps on the stack meanwhile, as 32 bits, is
	 * unknown to Linux 5.15 when it comes back.
	 */
	barrier_var(index);
	if (index >= VERDICT_COUNT)
		return TC_ACT_UNSPEC;
	(&stats->forwarded)[index] += pkt->segments;
	switch (fate(index)) {
	case FORWARDED:
		stats->pkts_forwarded += pkt->segments;
		stats->bytes_forwarded += pkt->payload;
		break;
	case STACK:
		stats->pkts_to_stack += pkt->segments;
		break;
	case DROPPED:
		stats->pkts_dropped += pkt->segments;
		break;
	}
	return action(index);
}

static __always_inline struct fragment_key fragment_key(struct __sk_buff *skb, struct packet *pkt)
{
	struct fragment_key key = {
		.saddr = pkt->saddr,
		.daddr = pkt->daddr,
		.id = pkt->fragment_id,
		.ifindex = skb->ifindex,
		.family = pkt->family,
	};
	return key;
}

static __always_inline struct fragment *known_fragment(struct fragment_key *key)
{
	struct fragment *known = bpf_map_lookup_elem(&FRAGMENTS, key);

	return known && bpf_ktime_get_ns() - known->seen_ns < FRAGMENT_LIFETIME_NS ? known : NULL;
}

/* Notes where the rest of the datagram has to go; false if it must be the stack because a later part is there already. */
static __always_inline bool remember(struct __sk_buff *skb, struct packet *pkt, struct bind *bind, struct slot *slot,
				     struct step *step)
{
	struct fragment_key key = fragment_key(skb, pkt);
	struct fragment *known = known_fragment(&key);
	struct fragment first = {
		.slot = *slot,
		.seen_ns = bpf_ktime_get_ns(),
		.table = bind->table,
		.at = step->at,
		.generation = step->generation,
	};

	if (known && known->way == FRAGMENT_TO_STACK)
		return false;
	return !bpf_map_update_elem(&FRAGMENTS, &key, &first, BPF_ANY);
}

/*
 * The way of a later fragment: that of the first as long as its downstream is in the listener's table, which may have
 * been replaced in between. Nothing goes to a downstream that is gone, not even the rest of what it has in part.
 */
static __always_inline enum fragment_way later_way(struct fragment *first)
{
	__u32 at = 0, bit = first->at % KEPT_A_CELL;
	union cell *cell;
	void *table;

	if (first->way == FRAGMENT_TO_STACK)
		return FRAGMENT_TO_STACK;
	table = bpf_map_lookup_elem(&TABLES, &first->table);
	if (!table)
		return FRAGMENT_TO_STACK;
	cell = bpf_map_lookup_elem(table, &at);
	/* The listener is gone, and its place perhaps another's. */
	if (!cell || first->generation < cell->head.since)
		return FRAGMENT_TO_STACK;
	if (first->generation == cell->head.generation)
		return FRAGMENT_FOLLOWS;
	if (first->generation != cell->head.previous)
		return FRAGMENT_LOST;
	at = cell->head.kept + first->at / KEPT_A_CELL;
	cell = bpf_map_lookup_elem(table, &at);
	return cell && cell->kept[bit / 32] >> bit % 32 & 1 ? FRAGMENT_FOLLOWS : FRAGMENT_LOST;
}

/*
 * A later fragment follows the first. It is no datagram of its own, so it adds bytes and no packets, but for the first
 * that finds the downstream gone: what is lost is counted. One that comes before the first sends all of its datagram to
 * the stack, which can put it together.
 */
static __always_inline int follow(struct __sk_buff *skb, struct packet *pkt)
{
	struct fragment_key key = fragment_key(skb, pkt);
	struct fragment *first = known_fragment(&key);
	enum fragment_way way;
	enum verdict verdict;
	struct stats *stats;
	__u32 listener;

	if (pkt->fault)
		return TC_ACT_UNSPEC;
	if (!first) {
		struct fragment early = { .seen_ns = bpf_ktime_get_ns(), .way = FRAGMENT_TO_STACK };

		if (address_flags(pkt) & (ADDRESS_LOCAL | ADDRESS_BOUND))
			bpf_map_update_elem(&FRAGMENTS, &key, &early, BPF_ANY);
		return TC_ACT_UNSPEC;
	}
	way = later_way(first);
	if (way == FRAGMENT_TO_STACK)
		return TC_ACT_UNSPEC;
	listener = first->table / 2;
	stats = bpf_map_lookup_elem(&STATS, &listener);
	if (!stats)
		return TC_ACT_UNSPEC;
	stats->bytes_received += pkt->payload;
	if (way == FRAGMENT_LOST) {
		if (first->way == FRAGMENT_LOST)
			return TC_ACT_SHOT;
		first->way = FRAGMENT_LOST;
		stats->pkts_received += pkt->segments;
		return count(stats, pkt, VERDICT_downstream_gone);
	}
	verdict = forward(skb, pkt, &first->slot);
	if (fate(verdict) == FORWARDED)
		stats->bytes_forwarded += pkt->payload;
	return action(verdict);
}

SEC("tc")
int udp_fanout(struct __sk_buff *skb)
{
	struct packet pkt = {};
	enum verdict verdict;
	struct stats *stats;
	struct slot *slot;
	struct bind *bind;
	struct step step;

	if (!parse(skb, &pkt))
		return TC_ACT_UNSPEC;
	if (pkt.part == LATER)
		return follow(skb, &pkt);
	bind = find_bind(skb, &pkt);
	if (!bind)
		return TC_ACT_UNSPEC;
	stats = bpf_map_lookup_elem(&STATS, &bind->listener);
	if (!stats)
		return TC_ACT_UNSPEC;
	stats->pkts_received += pkt.segments;
	stats->bytes_received += pkt.payload;

	if (pkt.fault)
		return count(stats, &pkt, pkt.fault);
	slot = next_slot(bind, stats, &step);
	if (!slot)
		return count(stats, &pkt, VERDICT_no_downstream);
	if (pkt.part == FIRST && !remember(skb, &pkt, bind, slot, &step))
		return count(stats, &pkt, VERDICT_fragment);
	verdict = forward(skb, &pkt, slot);
	/* Else the compiler joins both questions in one number, from which Linux 5.15 cannot tell that there is a counter. */
	barrier_var(step.counter);
	if (step.counter && fate(verdict) == FORWARDED)
		*step.counter += pkt.segments;
	return count(stats, &pkt, verdict);
}

char _license[] SEC("license") = "Dual BSD/GPL";
