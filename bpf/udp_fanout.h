/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the program and the agent share: limits, map keys and values, verdicts. The agent's mirror is
 * agent/datapath/tc/abi.ts; a test compares the two through clang, and the agent compares key and value
 * sizes with the loaded maps.
 */
#ifndef UDP_FANOUT_H
#define UDP_FANOUT_H

#include <linux/types.h>

/* Raised with every change of a key, a value or a meaning in this file; the agent refuses an object of another one. */
#define UDP_FANOUT_ABI 4

#define MAX_LISTENERS 256
#define MAX_SLOTS 65536
/* One table a listener and family: 2 * listener (its key in STATS), and 1 more for IPv6. */
#define MAX_TABLES (2 * MAX_LISTENERS)
/* Listener and interface pairs. */
#define MAX_BINDS 8192
/* Addresses of the node and specific binds; a node in IPVS mode carries every ClusterIP. */
#define MAX_ADDRESSES 65536
/* Hosts on the links that are downstreams of the same listeners as this one. */
#define MAX_PEERS 1024
/* Fragmented datagrams under way at once; the oldest are forgotten. */
#define MAX_FRAGMENTED 16384
/* Bytes of SAFETY_NET, a power of two: what may wait there for the agent. */
#define SAFETY_NET_BYTES (4 << 20)

/* An address in network order. IPv4 fills v4 and leaves the rest 0, so that a key has one form only. */
union addr {
	__u8 bytes[16];
	__be32 v4;
	__be32 v6[4];
};

/* Map ADDRESSES: which destination addresses concern us at all. */
struct address_key {
	union addr addr;
	__u32 family; /* AF_INET or AF_INET6 */
};

enum address_flags {
	ADDRESS_LOCAL = 1, /* the node's own: wildcard binds match it */
	ADDRESS_BOUND = 2, /* some listener's specific bind, perhaps a VIP that sits on no interface */
};

/* Map BINDS: a listener's address and port on one interface. A wildcard bind has an address of zeroes. */
struct bind_key {
	union addr addr;
	__u32 ifindex;
	__be16 port;
	__u8 family; /* AF_INET or AF_INET6 */
	__u8 pad;
};

enum bind_flags {
	BIND_SHARED =
		1, /* a wildcard, some of whose downstreams are addresses of this host with its own port: PEERS may know more */
};

struct bind {
	__u32 listener; /* key of STATS */
	__u32 table;    /* index of TABLES */
	__u32 flags;    /* enum bind_flags */
};

/* Map PEERS: a downstream of a shared bind on this host, and another host on the link that has such a one, by its MAC. */
struct peer_key {
	union addr addr;
	__u32 ifindex;
	__u32 family; /* AF_INET or AF_INET6 */
	__be16 port;
	__u8 mac[6];
};

/* Array `ports`, one byte a port: which look-ups in BINDS are worth making. 0 for all ports that are not ours. */
enum port_flags {
	PORT_SPECIFIC = 1,
	PORT_WILDCARD = 2,
};

/* How a downstream is reached from here. */
enum next_hop {
	NEXT_HOP_NEIGH = 0,    /* the FIB names the interface, the kernel resolves the neighbour */
	NEXT_HOP_LOCAL = 1,    /* an address of this host: rewritten, then up the stack */
	NEXT_HOP_LOOPBACK = 2, /* 127/8 or ::1, which no datagram from outside may have: the safety net's */
};

struct slot {
	union addr addr;
	__be16 port;
	__u16 hop; /* enum next_hop */
	/* The way out where the FIB refuses because forwarding is off; 0: unknown. */
	__u32 ifindex;
	__u16 mtu;
	/* Slots right behind this one that are of no more use to who cannot be given this one. */
	__u16 skip;
	/*
	 * The xor of the words of the address of the host that the downstream lives on; 0: none, unknown, or this host. Of
	 * IPv4 that is the address. Another IPv6 address that has the same one is given another slot, and no harm is done.
	 */
	__u32 node;
};

struct table_head {
	__u32 slots;          /* 0: no downstream */
	__u32 counters;       /* index of the first counter cell */
	__u32 counters_a_cpu; /* cells in one CPU's row */
	__u32 generation;     /* no two tables have the same; ascending */
	__u32 since;          /* generation of the listener's first table: what is older is of another listener */
	__u32 previous;       /* generation of the table that this one replaced; 0: none */
	__u32 kept;           /* index of the first cell of bits, one a slot of the previous table */
	__u32 pad;
};

#define COUNTERS_A_CELL 4
#define KEPT_A_CELL 256

/*
 * A slot table is an array of cells: the head, the slots, a bit for each slot of the table before (1: its downstream is
 * in this one too), then per CPU id a row of counters, one a slot, and one such row of the agent's own: what went through
 * tables before this one, and past any. One map holds all of it, so that replacing it replaces table and counters in one
 * step and neither is ever read beside a stranger.
 */
union cell {
	struct table_head head;
	struct slot slot;
	__u64 counters[COUNTERS_A_CELL];
	__u32 kept[KEPT_A_CELL / 32];
};

/* Map FRAGMENTS: what was decided for the first fragment of a datagram (RFC 791, RFC 8200). */
struct fragment_key {
	union addr saddr;
	union addr daddr;
	__u32 id;
	__u32 ifindex;
	__u32 family;
};

enum fragment_way {
	FRAGMENT_FOLLOWS = 0, /* the program sends the datagram */
	FRAGMENT_HANDED = 1,  /* the safety net does */
	FRAGMENT_LOST = 2,    /* a part of it is lost, and that is counted */
	FRAGMENT_EARLY = 3,   /* no first one yet: the safety net has what came before it */
	FRAGMENT_PASSED = 4,  /* left to the stack, since another node has spread the datagram */
};

struct fragment {
	struct slot slot;
	__u64 seen_ns; /* CLOCK_MONOTONIC */
	__u32 table;   /* index of TABLES */
	__u32 at;      /* the slot's place in the table */
	__u32 generation;
	__u32 way; /* enum fragment_way */
};

/* Why a later part of a datagram may be dropped whose first one has left. */
#define TEARS(V) \
	V(downstream_gone, DROPPED, "the rest of a fragmented datagram whose downstream was removed") \
	V(fib_blackhole, DROPPED, "FIB: blackhole route") \
	V(fib_unreachable, DROPPED, "FIB: unreachable route") \
	V(fib_prohibit, DROPPED, "FIB: prohibit route") \
	V(rewrite_failed, DROPPED, "the packet could not be rewritten (out of memory)") \
	V(redirect_failed, DROPPED, "the kernel refused the redirect") \
	V(safety_net_full, DROPPED, "the safety net had no room left for it")

/*
 * What happened to one datagram. V(name, fate, meaning): the order is the index of the counter, the name is the
 * label in metrics, logs and `bpftool map dump`. Fates: FORWARDED, HANDED (to the safety net), DROPPED, PASSED (untouched,
 * and not received either), in this order.
 */
#define VERDICTS(V) \
	V(forwarded, FORWARDED, "rewritten and sent to its next hop") \
	V(forwarded_local, FORWARDED, "rewritten and handed to a socket of this host") \
	V(ip_options, HANDED, "IPv4 options or IPv6 extension headers") \
	V(fragment, HANDED, "fragments out of order, or a first one that could not be remembered") \
	V(not_unicast, HANDED, "came in a broadcast or multicast frame") \
	V(martian_source, HANDED, "a source address that may not be forwarded") \
	V(loopback, HANDED, "the downstream is a loopback address of this host") \
	V(hairpin, HANDED, "the sender is the downstream whose turn it was, or its node, and so are all others") \
	V(ttl_exceeded, HANDED, "TTL or hop limit ran out here") \
	V(mtu_exceeded, HANDED, "larger than the MTU towards the downstream") \
	V(neigh_unresolved, HANDED, "the link-layer address of the next hop is not known") \
	V(no_route, HANDED, "FIB: no route to the downstream") \
	V(forwarding_off, HANDED, "FIB: forwarding is disabled and the way out is unknown") \
	V(fib_lwt, HANDED, "FIB: the route encapsulates, which only the stack can do") \
	V(fib_other, HANDED, "FIB: an answer that the program does not know") \
	V(no_downstream, DROPPED, "no live downstream") \
	V(malformed, DROPPED, "its lengths contradict each other") \
	V(ip_checksum, DROPPED, "the checksum of its IPv4 header is wrong") \
	TEARS(V) \
	V(already_spread, PASSED, "another node's agent has sent it to a receiver here, and counts it") \
	V(lease_expired, PASSED, "left to the stack: no agent has renewed the lease")

enum fate { FORWARDED, HANDED, DROPPED, PASSED };

enum verdict {
#define V(name, fate, meaning) VERDICT_##name,
	VERDICTS(V)
#undef V
	VERDICT_COUNT
};

/* Datagrams whose first part has left and counts as forwarded, and of which a later one was lost: once each, by reason. */
struct torn {
#define V(name, fate, meaning) __u64 name;
	TEARS(V)
#undef V
};

/*
 * Map STATS: one entry a listener, per CPU, as long as there is that listener. All counters count datagrams (a GRO
 * packet holds several); bytes are UDP payload. received = forwarded + to_safety_net + dropped.
 */
struct stats {
	__u64 pkts_received;
	__u64 pkts_forwarded;
	__u64 pkts_to_safety_net;
	__u64 pkts_dropped;
	__u64 bytes_received;
	__u64 bytes_forwarded;
#define V(name, fate, meaning) __u64 name;
	VERDICTS(V)
#undef V
	struct torn torn;
	__u32 next_slot[2]; /* round robin cursors: IPv4, IPv6 */
};

/*
 * Map LISTENERS: what an agent that comes after this one must know of a row of STATS. A zero-terminated text of the
 * agent's, which the program does not read.
 */
#define LISTENER_NOTE_BYTES 1024

/* Variable `lease`: until when the program serves though nobody says that an agent is alive. */
struct lease {
	__u64 until; /* in jiffies, as bpf_jiffies64 has them; 0: for ever */
	__u64 term;  /* jiffies that a renewal adds; 0: for ever */
};

/*
 * Ring buffer SAFETY_NET: a packet that the program cannot send itself, as it came. The record's size is one of a few;
 * `len` says how much of it is the packet.
 */
struct handed {
	struct slot slot; /* the downstream that was chosen; its port is 0 where none was */
	__u32 listener;   /* key of STATS; not set in an early fragment, whose first one is to tell */
	__u32 verdict;
	__u32 ifindex; /* where it came in */
	__u32 len;     /* bytes of the IP packet */
	__u32 segment; /* bytes of payload in each datagram of a packet of several, 0 if it is one */
	__u32 pad;
	__u8 packet[];
};

/*
 * The mark of a packet that the agent sends on `lo` for the program udp_fanout_out to redirect: the upper byte is this,
 * the others are the index of the interface that it leaves by.
 */
#define OUT_MARK 0xfb000000u

_Static_assert(sizeof(union addr) == 16, "addr");
_Static_assert(sizeof(struct address_key) == 20, "address_key has no hole");
_Static_assert(sizeof(struct bind_key) == 24, "bind_key has no hole");
_Static_assert(sizeof(struct bind) == 12, "bind");
_Static_assert(sizeof(struct peer_key) == 32, "peer_key has no hole");
_Static_assert(sizeof(struct slot) == 32, "slot fills a cell");
_Static_assert(sizeof(struct table_head) == 32, "table_head fills a cell");
_Static_assert(sizeof(union cell) == 32, "two cells a cache line");
_Static_assert(sizeof(struct fragment_key) == 44, "fragment_key has no hole");
_Static_assert(sizeof(struct fragment) == 56, "fragment has no hole");
_Static_assert(sizeof(struct handed) == 56, "handed has no hole");
_Static_assert(sizeof(struct lease) == 16, "lease");
_Static_assert(sizeof(struct stats) == 8 * (6 + VERDICT_COUNT + 1) + sizeof(struct torn),
	       "stats is u64s and the two cursors");

#endif
