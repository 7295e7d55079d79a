// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Spreads the UDP datagrams that reach a listener over its downstreams: one each, round robin, source intact. What
 * is not a listener's leaves with TC_ACT_UNSPEC, so that other programs on the interface still see it.
 */
#include <stdbool.h>
#include <stddef.h>

#include "nexthop.h"
#include "safety_net.h"

#define NSEC_PER_SEC 1000000000ULL
/*
 * Fragments of one datagram arrive within milliseconds. The stack waits 30 s, but a memory as long would meet the next
 * datagram with the same identification: 16 bits are soon used up.
 */
#define FRAGMENT_LIFETIME_NS (3 * NSEC_PER_SEC)
/* The part of OUT_MARK's marks that is an interface. */
#define OUT_IFINDEX 0x00ffffffu

const volatile __u32 udp_fanout_abi = UDP_FANOUT_ABI;

/* A section of its own is a map of its own, which the agent writes without touching the ports. */
struct lease lease SEC(".data.lease");

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

/* A hash: few hosts have receivers of their own with a listener's port, and most listeners have none. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PEERS);
	__type(key, struct peer_key);
	__type(value, union addr);
} PEERS SEC(".maps");

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

/* Bound to the program by the agent: the program itself does not use it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LISTENERS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, LISTENER_NOTE_BYTES);
} LISTENERS SEC(".maps");

/* The only state of a flow's kind: forgotten oldest first, and never needed again once the datagram is whole. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} FRAGMENTS SEC(".maps");

/*
 * On the way out of `lo`: sends what the safety net sends, by the interface in its mark, past routing, the packet filter,
 * connection tracking and masquerade, as the program above does.
 */
SEC("tc")
int udp_fanout_out(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	if ((mark & ~OUT_IFINDEX) != OUT_MARK)
		return TC_ACT_UNSPEC;
	/* The kernel's route look-up for the neighbour heeds marks. */
	skb->mark = 0;
	return bpf_redirect_neigh(mark & OUT_IFINDEX, NULL, 0, 0);
}

/* Run by the agent as long as it lives, and never attached: jiffies are known here only. */
SEC("tc")
int udp_fanout_renew(struct __sk_buff *skb __attribute__((unused)))
{
	lease.until = lease.term ? bpf_jiffies64() + lease.term : 0;
	return TC_ACT_UNSPEC;
}

static __always_inline bool lease_is_over(void)
{
	return lease.until && bpf_jiffies64() >= lease.until;
}

/* Flags of an address of the datagram's, 0 if it concerns no listener. */
static __always_inline __u32 address_flags(const union addr *addr, struct packet *pkt)
{
	struct address_key key = { .addr = *addr, .family = pkt->family };
	__u32 *flags = bpf_map_lookup_elem(&ADDRESSES, &key);

	return flags ? *flags : 0;
}

static __always_inline bool is_unspecified(const union addr *addr)
{
	return !(addr->v6[0] | addr->v6[1] | addr->v6[2] | addr->v6[3]);
}

static __always_inline bool is_same(const union addr *a, const union addr *b)
{
	return !((a->v6[0] ^ b->v6[0]) | (a->v6[1] ^ b->v6[1]) | (a->v6[2] ^ b->v6[2]) | (a->v6[3] ^ b->v6[3]));
}

static __always_inline bool is_same_mac(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

/* True if the sender is the downstream or its node, whose stack would take its own address as a source for a forgery. */
static __always_inline bool is_own_source(const struct slot *slot, const struct packet *pkt)
{
	const union addr *saddr = &pkt->saddr;
	__u32 folded = saddr->v6[0] ^ saddr->v6[1] ^ saddr->v6[2] ^ saddr->v6[3];

	return (slot->node && slot->node == folded) || is_same(&slot->addr, saddr);
}

/* The same of a downstream on this host: the safety net gets there with any source. */
static __always_inline bool is_own_here(const struct slot *slot, struct packet *pkt)
{
	return slot->hop == NEXT_HOP_LOCAL && address_flags(&pkt->saddr, pkt) & ADDRESS_LOCAL;
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
	if (!(wanted & PORT_WILDCARD) || !(address_flags(&pkt->daddr, pkt) & ADDRESS_LOCAL))
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
	if (verdict >= VERDICT_already_spread)
		return PASSED;
	return verdict >= VERDICT_no_downstream ? DROPPED : verdict >= VERDICT_ip_options ? HANDED : FORWARDED;
}

static __always_inline int action(enum verdict verdict)
{
	if (verdict == VERDICT_forwarded)
		return TC_ACT_REDIRECT;
	return verdict == VERDICT_forwarded_local || fate(verdict) == PASSED ? TC_ACT_UNSPEC : TC_ACT_SHOT;
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
	case HANDED:
		stats->pkts_to_safety_net += pkt->segments;
		break;
	case DROPPED:
		stats->pkts_dropped += pkt->segments;
		break;
	case PASSED:
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

/*
 * Notes where the rest of the datagram has to go: where the first goes. Tells its verdict, which is another one where a
 * later part was there before, or where nothing can be noted: then all of it is the safety net's.
 */
static __always_inline enum verdict remember(struct __sk_buff *skb, struct packet *pkt, struct bind *bind,
					     struct slot *slot, struct step *step, enum verdict verdict)
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

	if (known && known->way == FRAGMENT_EARLY && fate(verdict) == FORWARDED)
		verdict = VERDICT_fragment;
	first.way = fate(verdict) == HANDED ? FRAGMENT_HANDED : FRAGMENT_FOLLOWS;
	if (bpf_map_update_elem(&FRAGMENTS, &key, &first, BPF_ANY) && fate(verdict) == FORWARDED)
		verdict = VERDICT_fragment;
	return verdict;
}

/* The first part was dropped, and with it the datagram: what comes after it is nothing to count. */
static __always_inline void lose(struct __sk_buff *skb, struct packet *pkt)
{
	struct fragment_key key = fragment_key(skb, pkt);
	struct fragment *first = known_fragment(&key);

	if (first)
		first->way = FRAGMENT_LOST;
}

/*
 * True if another node's agent has sent the datagram to a receiver here: a host that is a downstream, too, has put it on the
 * link, and the way back to its source is not by that host, which so is neither who sent it nor a router of whose it is.
 * A route that leads elsewhere, or a neighbour that is not known, tells nothing.
 */
static __always_inline bool is_already_spread(struct __sk_buff *skb, struct packet *pkt)
{
	struct peer_key key = {
		.addr = pkt->daddr, .ifindex = skb->ifindex, .family = pkt->family, .port = pkt->dport
	};
	struct bpf_fib_lookup fib = {};
	struct slot back = { .addr = pkt->saddr };
	union addr next = {};
	union addr *peer;
	long answer;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), key.mac, sizeof(key.mac)))
		return false;
	peer = bpf_map_lookup_elem(&PEERS, &key);
	if (!peer)
		return false;
	answer = fib_lookup(skb, pkt, &back, &fib);
	if (fib.ifindex != skb->ifindex)
		return false;
	if (answer == BPF_FIB_LKUP_RET_SUCCESS)
		return !is_same_mac(fib.dmac, key.mac);
	/* Nobody here has had anything to say to a source on the link, which the FIB then leaves in its place. */
	if (pkt->family == AF_INET)
		next.v4 = fib.ipv4_dst;
	else
		__builtin_memcpy(&next, fib.ipv6_dst, sizeof(next));
	return answer == BPF_FIB_LKUP_RET_NO_NEIGH && is_same(&next, &pkt->saddr) && !is_same(&next, peer);
}

/* Untouched to whom it was sent, all of it. */
static __always_inline int pass(struct __sk_buff *skb, struct packet *pkt, struct stats *stats, enum verdict verdict)
{
	struct fragment_key key = fragment_key(skb, pkt);
	struct fragment passed = { .seen_ns = bpf_ktime_get_ns(), .way = FRAGMENT_PASSED };

	if (pkt->part == FIRST)
		bpf_map_update_elem(&FRAGMENTS, &key, &passed, BPF_ANY);
	return count(stats, pkt, verdict);
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

	table = bpf_map_lookup_elem(&TABLES, &first->table);
	if (!table)
		return FRAGMENT_EARLY;
	cell = bpf_map_lookup_elem(table, &at);
	/* The listener is gone, and its place perhaps another's. */
	if (!cell || first->generation < cell->head.since)
		return FRAGMENT_EARLY;
	if (first->generation == cell->head.generation)
		return first->way;
	if (first->generation != cell->head.previous)
		return FRAGMENT_LOST;
	at = cell->head.kept + first->at / KEPT_A_CELL;
	cell = bpf_map_lookup_elem(table, &at);
	return cell && cell->kept[bit / 32] >> bit % 32 & 1 ? first->way : FRAGMENT_LOST;
}

/*
 * A later fragment that came before the first, of a listener or of anybody: only the ports of the first will tell. The
 * safety net keeps a copy. The stack has it too, for whom else it may be, but not where the address is a listener's alone:
 * routing would send it back to where it came from.
 */
static __always_inline int keep_early(struct __sk_buff *skb, struct packet *pkt)
{
	struct reason reason = { .verdict = VERDICT_fragment };
	__u32 flags = address_flags(&pkt->daddr, pkt);

	if (!(flags & (ADDRESS_LOCAL | ADDRESS_BOUND)) || lease_is_over())
		return TC_ACT_UNSPEC;
	hand_over(skb, &reason);
	return flags & ADDRESS_LOCAL ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* A later part that cannot go on: the datagram is torn, which is counted once, beside its first's fate. */
static __always_inline int tear(struct stats *stats, struct fragment *first, enum verdict verdict)
{
	__u32 reason = verdict - VERDICT_downstream_gone;

	if (first->way == FRAGMENT_LOST)
		return TC_ACT_SHOT;
	first->way = FRAGMENT_LOST;
	/* As in count. */
	barrier_var(reason);
	if (reason < sizeof(stats->torn) / sizeof(__u64))
		(&stats->torn.downstream_gone)[reason]++;
	return TC_ACT_SHOT;
}

/* A later fragment follows the first. It is no datagram of its own, so it adds bytes and no packets. */
static __always_inline int follow(struct __sk_buff *skb, struct packet *pkt)
{
	struct fragment_key key = fragment_key(skb, pkt);
	struct fragment *first = known_fragment(&key);
	struct way_out way_out = {};
	struct reason reason = {};
	enum fragment_way way;
	enum verdict verdict;
	struct stats *stats;
	bool is_handed;

	if (is_broken(pkt))
		return TC_ACT_UNSPEC;
	if (!first) {
		struct fragment early = { .seen_ns = bpf_ktime_get_ns(), .way = FRAGMENT_EARLY };

		if (!(address_flags(&pkt->daddr, pkt) & (ADDRESS_LOCAL | ADDRESS_BOUND)))
			return TC_ACT_UNSPEC;
		/* One that is known no more makes room; one that another CPU has noted meanwhile is the first. */
		bpf_map_delete_elem(&FRAGMENTS, &key);
		bpf_map_update_elem(&FRAGMENTS, &key, &early, BPF_NOEXIST);
		first = known_fragment(&key);
	}
	if (!first || first->way == FRAGMENT_EARLY)
		return keep_early(skb, pkt);
	if (first->way == FRAGMENT_PASSED)
		return TC_ACT_UNSPEC;
	way = later_way(first);
	if (way == FRAGMENT_EARLY)
		return TC_ACT_UNSPEC;
	reason.slot = first->slot;
	reason.listener = first->table / 2;
	stats = bpf_map_lookup_elem(&STATS, &reason.listener);
	if (!stats)
		return TC_ACT_UNSPEC;
	stats->bytes_received += pkt->payload;
	/* What the safety net has it judges itself: it knows what became of the first. */
	is_handed = first->way == FRAGMENT_HANDED;
	if (way == FRAGMENT_LOST && !is_handed)
		return tear(stats, first, VERDICT_downstream_gone);
	verdict = pkt->fault ?: find_way(skb, pkt, &reason.slot, &way_out);
	if (is_handed || fate(verdict) == HANDED) {
		reason.verdict = fate(verdict) == HANDED ? verdict : VERDICT_fragment;
		return hand_over(skb, &reason) ? TC_ACT_SHOT : tear(stats, first, VERDICT_safety_net_full);
	}
	if (fate(verdict) == FORWARDED)
		verdict = send(skb, pkt, &reason.slot, &way_out, verdict);
	if (fate(verdict) != FORWARDED)
		return tear(stats, first, verdict);
	stats->bytes_forwarded += pkt->payload;
	return action(verdict);
}

SEC("tc")
int udp_fanout(struct __sk_buff *skb)
{
	struct packet pkt = {};
	struct way_out way = {};
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
	if (lease_is_over())
		return pass(skb, &pkt, stats, VERDICT_lease_expired);
	if (bind->flags & BIND_SHARED && is_already_spread(skb, &pkt))
		return pass(skb, &pkt, stats, VERDICT_already_spread);
	stats->pkts_received += pkt.segments;
	stats->bytes_received += pkt.payload;

	if (is_broken(&pkt))
		return count(stats, &pkt, pkt.fault);
	slot = next_slot(bind, stats, &step);
	/* Another one gets it. Those that are of no use either are passed over by who comes next, too: a walk has one order. */
	if (slot && is_own_source(slot, &pkt)) {
		stats->next_slot[bind->table & 1] += slot->skip;
		slot = next_slot(bind, stats, &step);
	}
	if (!slot)
		return count(stats, &pkt, VERDICT_no_downstream);
	verdict = pkt.fault
			  ?: is_own_source(slot, &pkt) || is_own_here(slot, &pkt) ? VERDICT_hairpin
										  : find_way(skb, &pkt, slot, &way);
	if (pkt.part == FIRST)
		verdict = remember(skb, &pkt, bind, slot, &step, verdict);
	if (fate(verdict) == HANDED) {
		struct reason reason = { .slot = *slot, .listener = bind->listener, .verdict = verdict };

		if (!hand_over(skb, &reason))
			verdict = VERDICT_safety_net_full;
	} else if (fate(verdict) == FORWARDED) {
		verdict = send(skb, &pkt, slot, &way, verdict);
	}
	if (pkt.part == FIRST && fate(verdict) == DROPPED)
		lose(skb, &pkt);
	/* Else the compiler joins both questions in one number, from which Linux 5.15 cannot tell that there is a counter. */
	barrier_var(step.counter);
	if (step.counter && fate(verdict) == FORWARDED)
		*step.counter += pkt.segments;
	return count(stats, &pkt, verdict);
}

char _license[] SEC("license") = "Dual BSD/GPL";
