/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Types shared with Go: capture_linux_test.go compares each with its Go twin
 * through the BTF of the object, so a change here must be made there too. */
#ifndef LANDBRIDGE_STRUCTS_H
#define LANDBRIDGE_STRUCTS_H

/* What happened to one packet. Exactly one is counted for every packet. */
enum verdict {
	VERDICT_NOT_IP = 0,      /* neither IPv4 nor IPv6: passed */
	VERDICT_OTHER_HOST,      /* not addressed to this NIC (promiscuous, multicast): passed */
	VERDICT_VLAN,            /* tagged: the VLAN device above decides: passed */
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
	VERDICT_MAX,
};

/* What the trie says about a destination. */
enum action {
	ACTION_NONE = 0,
	ACTION_CAPTURE,          /* hand over */
	ACTION_PASS,             /* leave alone, for instance an address of this host */
	ACTION_DRAIN,            /* nothing new is captured, connections that exist are kept */
};

struct prefix4 {
	__u32 bits;
	__u8 addr[4];
};

struct prefix6 {
	__u32 bits;
	__u8 addr[16];
};

#endif
