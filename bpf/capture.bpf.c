//go:build ignore

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// Transparent capture of TCP at tc ingress (tcx on kernel >= 6.6, clsact before).
//
// capture_* sits on NICs that face the customer: TCP for a captured prefix goes
// to the connection that exists, else to the transparent listener.
// return_* sits on NICs that face the origin: TCP that belongs to a connection
// this host dialled from a foreign address goes to that connection.
// *_ether is for NICs with an Ethernet header, *_ip for those without (TUN,
// WireGuard).
//
// The socket is assigned here, the mark makes a policy route deliver the packet
// locally. Whatever is not handed over passes on untouched.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "structs.h"
#include "maps.h"
#include "parse.h"

/* TCX_NEXT and TCX_PASS have these values too; headers before 6.6 lack them. */
#define NEXT_PROGRAM TC_ACT_UNSPEC
#define TO_STACK TC_ACT_OK

/* Never read: keeps the enum in the BTF of the object, for the test that
 * compares it. (enum action is there as the value type of the tries; an array
 * map wants a plain integer.) */
volatile const enum verdict verdict_type;

static __always_inline int finish(__u32 verdict)
{
	__u64 *n = bpf_map_lookup_elem(&verdicts, &verdict);

	if (n)
		*n += 1;
	if (verdict == VERDICT_CAPTURED || verdict == VERDICT_CAPTURED_NEW)
		return TO_STACK;
	return NEXT_PROGRAM;
}

static __always_inline __u32 lookup_action(struct packet *pkt)
{
	__u32 *action;

	if (pkt->v6) {
		struct prefix6 key = {.bits = 128};

		__builtin_memcpy(key.addr, pkt->tuple.ipv6.daddr, sizeof(key.addr));
		action = bpf_map_lookup_elem(&prefixes6, &key);
	} else {
		struct prefix4 key = {.bits = 32};

		__builtin_memcpy(key.addr, &pkt->tuple.ipv4.daddr, sizeof(key.addr));
		action = bpf_map_lookup_elem(&prefixes4, &key);
	}
	return action ? *action : ACTION_NONE;
}

/* The caller releases the socket: the verifier wants every reference dropped on
 * every way out. */
static __always_inline struct bpf_sock *lookup_connection(struct __sk_buff *skb, struct packet *pkt)
{
	if (pkt->v6)
		return bpf_skc_lookup_tcp(skb, &pkt->tuple, sizeof(pkt->tuple.ipv6),
					  BPF_F_CURRENT_NETNS, 0);
	return bpf_skc_lookup_tcp(skb, &pkt->tuple, sizeof(pkt->tuple.ipv4),
				  BPF_F_CURRENT_NETNS, 0);
}

/* Takes over the reference to sk. */
static __always_inline int assign(struct __sk_buff *skb, struct bpf_sock *sk, __u32 verdict)
{
	/* A test run is not at tc ingress, where alone the kernel assigns. */
	long err = rehearsal ? 0 : bpf_sk_assign(skb, sk, 0);

	bpf_sk_release(sk);
	if (err)
		return finish(VERDICT_ASSIGN_FAILED);
	skb->mark = (skb->mark & ~capture_mask) | capture_mark;
	return finish(verdict);
}

static __always_inline int capture(struct __sk_buff *skb, __u32 off)
{
	struct packet pkt = {};
	struct bpf_sock *sk;
	__u32 action, key;
	int v;

	v = parse(skb, off, &pkt);
	if (v != PARSED)
		return finish(v);

	action = lookup_action(&pkt);
	if (action == ACTION_NONE)
		return finish(VERDICT_NOT_CAPTURED);
	if (action == ACTION_PASS)
		return finish(VERDICT_EXCLUDED);

	/* A listener found here is some service of the host on the wildcard
	 * address, which has nothing to do with a foreign destination. */
	sk = lookup_connection(skb, &pkt);
	if (sk) {
		if (sk->state != BPF_TCP_LISTEN)
			return assign(skb, sk, VERDICT_CAPTURED);
		bpf_sk_release(sk);
	}
	if (action == ACTION_DRAIN)
		return finish(VERDICT_EXCLUDED);

	/* Not only for SYN: the listener checks SYN cookies, and answers what
	 * belongs to no connection (after a restart) with a reset. */
	key = pkt.v6 ? LISTENER6 : LISTENER4;
	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk)
		return finish(VERDICT_NO_LISTENER);
	return assign(skb, sk, VERDICT_CAPTURED_NEW);
}

static __always_inline int give_back(struct __sk_buff *skb, __u32 off)
{
	struct packet pkt = {};
	struct bpf_sock *sk;
	__u32 action;
	int v;

	v = parse(skb, off, &pkt);
	if (v != PARSED)
		return finish(v);

	action = lookup_action(&pkt);
	if (action == ACTION_NONE)
		return finish(VERDICT_NOT_CAPTURED);
	if (action == ACTION_PASS)
		return finish(VERDICT_EXCLUDED);

	sk = lookup_connection(skb, &pkt);
	if (!sk)
		return finish(VERDICT_NO_SOCKET);
	if (sk->state == BPF_TCP_LISTEN) {
		bpf_sk_release(sk);
		return finish(VERDICT_NO_SOCKET);
	}
	return assign(skb, sk, VERDICT_CAPTURED);
}

SEC("tc")
int capture_ether(struct __sk_buff *skb)
{
	return capture(skb, ETH_HLEN);
}

SEC("tc")
int capture_ip(struct __sk_buff *skb)
{
	return capture(skb, 0);
}

SEC("tc")
int return_ether(struct __sk_buff *skb)
{
	return give_back(skb, ETH_HLEN);
}

SEC("tc")
int return_ip(struct __sk_buff *skb)
{
	return give_back(skb, 0);
}

/* The socket helpers are for programs under a GPL-compatible licence only. */
char __license[] SEC("license") = "Dual MIT/GPL";
