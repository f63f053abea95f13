/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Types shared with Go: layout_linux_test.go compares each with its Go twin
 * through the BTF of the objects, so a change here must be made there too. */
#ifndef LANDBRIDGE_STRUCTS_H
#define LANDBRIDGE_STRUCTS_H

/* What the classifier or the return program did with one packet. Exactly one is
 * counted for every packet. "Passed" means: on to the next program, untouched
 * but for the mark and DSCP of its class. */
enum verdict {
	VERDICT_NOT_IP = 0,      /* neither IPv4 nor IPv6: passed */
	VERDICT_OTHER_HOST,      /* not addressed to this NIC (promiscuous, multicast): passed */
	VERDICT_VLAN,            /* tagged: the VLAN device above captures: passed */
	VERDICT_FRAGMENT,        /* IP fragment: passed */
	VERDICT_UNPARSED,        /* headers truncated or not understood: passed */
	VERDICT_NOT_TCP,         /* passed */
	VERDICT_NOT_CAPTURED,    /* destination in no prefix: passed */
	VERDICT_EXCLUDED,        /* destination in an excluded or draining prefix: passed */
	VERDICT_NO_SOCKET,       /* return only: belongs to no connection here: passed */
	VERDICT_NO_LISTENER,     /* nobody listens in this family: passed */
	VERDICT_ASSIGN_FAILED,   /* the kernel refused bpf_sk_assign: passed */
	VERDICT_CAPTURED_NEW,    /* handed to the listener */
	VERDICT_CAPTURED,        /* handed to an existing connection */
	VERDICT_LEFT_ALONE,      /* the policy says this is none of ours: passed */
	VERDICT_DENIED,          /* dropped by a rule */
	VERDICT_DENIED_UNPARSED, /* dropped: not understood, and a deny rule may have meant it */
	VERDICT_NO_PATH,         /* direct, and no path is alive: dropped */
	VERDICT_SENT_DIRECT,     /* direct: sent out of the carrier's NIC */
	VERDICT_ROUTED,          /* direct: left to the host's routing with the path's mark: passed */
	VERDICT_UNASKED,         /* SYN+ACK to nobody here: opens nothing: passed */
	VERDICT_MAX,
};

/* What the trie of captured destinations says. */
enum action {
	ACTION_NONE = 0,
	ACTION_CAPTURE,          /* hand over */
	ACTION_PASS,             /* leave alone, for instance an address of this host */
	ACTION_DRAIN,            /* nothing new is captured, connections that exist are kept */
};

/* What a rule does. */
enum rule_action {
	RULE_DEFAULT = 0,        /* as the tenant's default */
	RULE_ALLOW,              /* tunnelled, in its class */
	RULE_DENY,
	RULE_DIRECT,             /* out of the picked carrier's NIC, not tunnelled */
	RULE_LEAVE,              /* none of ours */
};

enum class {
	CLASS_NONE = 0,
	CLASS_REALTIME,
	CLASS_INTERACTIVE,
	CLASS_BULK,
	CLASS_MAX,               /* a power of two */
};

/* Is a flow's way from the LAN the way back of a flow that came in? */
enum answer {
	ANSWER_UNKNOWN = 0,      /* nothing says so */
	ANSWER_SEEN,             /* something came in first, or by the rules it would */
	ANSWER_OPENED,           /* TCP, and it was the SYN */
	ANSWER_NOT,              /* something came in, and no rule sends it directly */
};

enum path_state {
	PATH_DOWN = 0,           /* never picked; an empty entry is down */
	PATH_SUSPECT,            /* picked only where nothing else is alive */
	PATH_UP,
};

struct prefix4 {
	__u32 bits;
	__u8 addr[4];
};

struct prefix6 {
	__u32 bits;
	__u8 addr[16];
};

/* Keys of tries that hold many sets in one; bits counts the 32 of set too. */
struct set_prefix4 {
	__u32 bits;
	__u32 set;
	__u8 addr[4];
};

struct set_prefix6 {
	__u32 bits;
	__u32 set;
	__u8 addr[16];
};

/* Whose a source address is. */
struct tenant {
	__u32 id;
	__u32 set;               /* the rule set, 0 is that of everybody */
	__u16 group;             /* candidate paths */
	__u8 fallback;           /* enum rule_action where no rule matches */
	__u8 class;              /* where no rule names one */
	__u8 inbound;            /* 1: elsewhere, opens flows to here */
	__u8 unused[3];
};

/* The rules for one destination prefix: intervals[first] to [first + count). */
struct node {
	__u32 first;
	__u16 count;
	__u8 denies;             /* DENIES_*: may a packet of this kind be denied? */
	__u8 unused;
};

#define DENIES_TCP 1
#define DENIES_UDP 2
#define DENIES_OTHER 4
#define DENIES_ANY 7

/* The protocol and port axis, protocol << 16 | port, is cut into intervals in
 * each of which the same rules match. */
struct interval {
	__u32 from;
	__u32 outcome;
};

/* Which rule matches depends further on the DSCP alone: outcomes are tried one
 * after the other, the last of a chain has all bits. */
struct outcome {
	__u64 dscp;              /* bit n: DSCP n */
	__u32 rule;              /* 0: none */
	__u16 group;
	__u8 action;             /* enum rule_action */
	__u8 class;              /* CLASS_NONE: the tenant's */
};

/* What goes with a generation of rules; there are two, the generation's lowest
 * bit says which one counts. */
struct policy {
	struct tenant stranger;  /* who is nobody's */
	__u16 denies;            /* does anything deny? */
	__u16 inbound;           /* is any tenant elsewhere? */
};

struct flow_key {
	__u32 saddr[4];          /* IPv4 in the first word */
	__u32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 family;             /* 4 or 6 */
	__u16 unused;
};

/* What every packet touches comes first, next to the key: a flow that is not in
 * the CPU's cache costs a miss for each line. */
struct flow {
	__u32 generation;
	__u32 tenant;
	__u16 path;              /* 0: none */
	__u16 group;
	__u8 action;             /* enum rule_action */
	__u8 class;
	__u8 capture;            /* enum action */
	__u8 elephant;           /* has left interactive for bulk */
	__u8 dscp;               /* the rules may depend on it: another one, another look */
	__u8 answer;             /* enum answer */
	__u16 moves;             /* off a path that failed */
	__u32 rule;
	__u64 packets;
	__u64 bytes;
	__u64 last;              /* CLOCK_MONOTONIC, as all times here, ns */
	__u64 first;
	__u64 since;             /* on this path */
};

/* The ordered candidates of a class in a group; 0 ends the list. */
#define MAX_CANDIDATES 8
struct candidates {
	__u16 path[MAX_CANDIDATES];
};

struct classifier_settings {
	__u64 elephant;          /* bytes that a flow carries in interactive, 0: any number */
	__u32 mark;              /* write class, path and tenant to the mark */
	__u8 dscp[CLASS_MAX];    /* by class: DSCP + 1, 0: leave it alone */
};

/* A path as user space sees it. */
struct path {
	__u64 max_age;           /* ns a sign of life counts for; 0: for ever */
	__u64 quiet;             /* the same for new flows, while other paths are heard; 0: as max_age */
	__u64 due;               /* ns after which probes without answer count; 0: never */
	__u32 ifindex;
	__u32 mark;              /* for ROUTED */
	__u32 next_hop[4];
	__u8 family;             /* of next_hop: 4, 6, or 0: ask the routing table */
	__u8 state;              /* enum path_state */
	__u8 keep;               /* bit n: established flows of class n may stay */
	__u8 routed;             /* 1: direct flows go to the host's routing, marked */
	__u32 has_next_hop6;
	__u32 next_hop6[4];      /* for IPv6, where it is not next_hop */
};

/* A path as the probes see it. */
struct live {
	__u64 reply;             /* our probe was answered */
	__u64 sent;              /* our probe went out */
	__u64 request;           /* the peer's probe came in */
	__u64 missed;            /* when the last of the UNANSWERED probes after top left, 0: fewer have */
	__u32 top;               /* highest answered sequence number */
	__u32 unused;
};

/* So many probes in a row say something when none of them is answered. */
#define UNANSWERED 3

/* ---- reflector ---- */

/* What became of one packet that was meant for the probes. */
enum probe_verdict {
	PROBE_REFLECTED = 0,
	PROBE_REPLY,             /* an answer to our own probe, taken */
	PROBE_REPLY_LATE,        /* the same, not counted as a sign of life: old or seen */
	PROBE_REPLY_BAD,         /* an answer with a wrong tag or without one: dropped */
	PROBE_MALFORMED,         /* dropped */
	PROBE_UNAUTHENTICATED,   /* no tag where one is asked for: dropped */
	PROBE_NO_SESSION,        /* a tag under no key of ours: dropped */
	PROBE_BAD_TAG,           /* dropped */
	PROBE_REPLAYED,          /* dropped */
	PROBE_RATE_LIMITED,      /* without a tag, and too many: dropped */
	PROBE_RING_FULL,         /* an answer user space did not fetch in time */
	PROBE_SENT,              /* our own probe went out */
	PROBE_MAX,
};

/* One direction of probing as its reflector knows it. */
struct session {
	__u64 key[2];
	__u64 newest;            /* highest sender timestamp accepted, NTP */
	__u64 window;            /* bit n: sequence number top - n was seen */
	__u32 top;
	__u32 sequence;          /* the reflector's own next number */
	__u16 path;              /* this host's path to that peer, 0: none */
	__u16 unused;
	struct bpf_spin_lock lock;
};

struct sender_key {
	__u32 addr[4];           /* the reflector's; IPv4 in the first word */
	__be16 local;            /* ports */
	__be16 remote;
	__u32 family;
};

struct sender {
	__u64 key[2];
	__u32 session;
	__u16 path;
	__u16 plain;             /* 1: no tag asked for (a foreign reflector) */
};

struct sent {
	__u64 at;
	__u32 sequence;
	__u32 unused;
};

/* One answered probe. */
struct reply {
	__u64 t1;                /* sent: ns, 0 where egress did not see it */
	__u64 t1_ntp;            /* sent, by the sender's own timestamp */
	__u64 t2_ntp;            /* received by the reflector */
	__u64 t3_ntp;            /* sent by the reflector */
	__u64 t4;                /* received: ns */
	__u32 sequence;          /* ours */
	__u32 reflected;         /* the reflector's */
	__u16 path;
	__u8 ttl_there;          /* TTL as the reflector saw it */
	__u8 ttl_back;
	__u32 unused;
};

/* ---- guard ---- */

/* What the guard says about one packet. In observe mode, what it would have
 * said: everything passes. */
enum guard_verdict {
	GUARD_BOND = 0,          /* the bond's port, from a known peer: passed */
	GUARD_BOND_STRANGER,     /* the bond's port, from elsewhere, within the rate: passed */
	GUARD_ESTABLISHED,       /* belongs to what went out: passed */
	GUARD_ALLOWED,           /* by the document: passed */
	GUARD_ICMP,              /* errors that path MTU discovery and others need, within the rate: passed */
	GUARD_NEIGHBOUR,         /* ARP, neighbour discovery, multicast listener discovery: passed */
	GUARD_FRAGMENT,          /* later fragment of a passed datagram: passed */
	GUARD_RATE_LIMITED,      /* too much of one network: dropped */
	GUARD_TOTAL_LIMITED,     /* too much of all strangers together: dropped */
	GUARD_UNWANTED,          /* nothing allows it: dropped */
	GUARD_UNPARSED,          /* dropped */
	GUARD_NOT_IP,            /* dropped */
	GUARD_MAX,
};

struct bucket_key {
	__u32 family;
	__u8 net[8];             /* /24 or /48 */
};

struct address {
	__u32 family;
	__u32 addr[4];           /* IPv4 in the first word */
};

struct guard_settings {
	__u64 interval;          /* ns of credit that a stranger's packet costs */
	__u64 burst;             /* ns of credit at most */
	__u64 total_interval;    /* the same for all strangers together */
	__u64 total_burst;
	__u64 memory;            /* ns that an outgoing flow opens the way back; TCP: as long as the table has it */
	__u32 enforce;
	__u32 unused;
};

struct reflector_settings {
	__u64 epoch;             /* UTC at CLOCK_MONOTONIC 0, ns since 1970 */
	__u16 port;              /* of the reflector, 0: none; host order, as the next */
	__u16 sender_low;        /* local ports our own probes come from, 0: none */
	__u16 sender_high;
	__u8 plain;              /* reflect packets without our tag, within the rate */
	__u8 unused;
};

/* What strangers have a total for each, so that a flood of one does not cost the
 * others. */
enum total {
	TOTAL_BOND = 0,
	TOTAL_ICMP,
	TOTAL_PROBE,
	TOTAL_MAX,
};

/* What a port is for, beside the rules' sets. */
#define PORT_NONE 0
#define PORT_BOND 0xffffffff

#endif
