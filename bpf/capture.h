/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Handing TCP to local sockets, for the classifier and the return program. */
#ifndef LANDBRIDGE_CAPTURE_H
#define LANDBRIDGE_CAPTURE_H

/* TCX_NEXT and TCX_PASS have these values too; headers before 6.6 lack them. */
#define NEXT_PROGRAM TC_ACT_UNSPEC
#define TO_STACK TC_ACT_OK

/* Set by the loader before the program is verified (kernel >= 5.2). */
volatile const __u32 capture_mark;
volatile const __u32 capture_mask;
/* Everything but the assignment; for BPF_PROG_TEST_RUN. */
volatile const __u32 rehearsal;

/* Never read: keeps the enum in the BTF of the object, for the test that
 * compares it. */
volatile const enum verdict verdict_type;

/* BPF_F_NO_PREALLOC is the only mode an LPM trie knows. max_entries is set by
 * the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix4);
	__type(value, enum action);
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix6);
	__type(value, enum action);
} prefixes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICT_MAX);
	__type(key, __u32); /* enum verdict */
	__type(value, __u64);
} verdicts SEC(".maps");

/* The load helper copies from fragments as well as from the linear part, which
 * direct packet access does not, and takes any offset, which spares the
 * verifier the variable length of the headers. */
static __always_inline long load_bytes(void *ctx, __u32 off, void *to, const __u32 len)
{
	return bpf_skb_load_bytes(ctx, off, to, len);
}

#define PARSE_CTX struct __sk_buff
#include "parse.h"

/* A global function (with memory arguments: kernel >= 5.12), as are the other
 * stages: the verifier walks each on its own. As one piece, the ways through the
 * parser times those through the rules exceed its million instructions. */
__noinline int parse_skb(struct __sk_buff *skb, __u32 off, struct packet *pkt)
{
	if (!pkt)
		return PARSED_BADLY;
	/* The kernel takes the outermost tag out of the packet before tc sees it.
	 * Id 0 is only a priority. */
	if (skb->vlan_present && (skb->vlan_tci & VLAN_VID))
		pkt->tagged = 1;
	return parse(skb, off, skb->protocol, skb->len, pkt);
}

/* Why a packet cannot be handed to a socket; -1 if it can. With a VLAN id it
 * belongs to the VLAN device, which has its own ingress hook. */
static __always_inline int not_for_sockets(struct __sk_buff *skb, const struct packet *pkt, int parsed)
{
	if (pkt->tagged)
		return VERDICT_VLAN;
	if (skb->pkt_type != PACKET_HOST)
		return VERDICT_OTHER_HOST;
	switch (parsed) {
	case PARSED_NOT_IP:
		return VERDICT_NOT_IP;
	case PARSED_FRAGMENT:
		return VERDICT_FRAGMENT;
	case PARSED_BADLY:
		return VERDICT_UNPARSED;
	}
	if (pkt->key.proto != IPPROTO_TCP)
		return VERDICT_NOT_TCP;
	return -1;
}

static __always_inline int finish(__u32 verdict)
{
	__u64 *n = bpf_map_lookup_elem(&verdicts, &verdict);

	if (n)
		*n += 1;
	switch (verdict) {
	case VERDICT_CAPTURED:
	case VERDICT_CAPTURED_NEW:
		return TO_STACK;
	case VERDICT_DENIED:
	case VERDICT_DENIED_UNPARSED:
	case VERDICT_NO_PATH:
		return TC_ACT_SHOT;
	}
	return NEXT_PROGRAM;
}

static __always_inline __u32 lookup_action(const struct packet *pkt)
{
	__u32 *action;

	if (pkt->key.family == 6) {
		struct prefix6 key = {.bits = 128};

		__builtin_memcpy(key.addr, pkt->key.daddr, sizeof(key.addr));
		action = bpf_map_lookup_elem(&prefixes6, &key);
	} else {
		struct prefix4 key = {.bits = 32};

		__builtin_memcpy(key.addr, pkt->key.daddr, sizeof(key.addr));
		action = bpf_map_lookup_elem(&prefixes4, &key);
	}
	return action ? *action : ACTION_NONE;
}

/* The caller releases the socket: the verifier wants every reference dropped on
 * every way out. */
static __always_inline struct bpf_sock *lookup_connection(struct __sk_buff *skb, const struct packet *pkt)
{
	struct bpf_sock_tuple tuple;

	if (pkt->key.family == 6) {
		__builtin_memcpy(tuple.ipv6.saddr, pkt->key.saddr, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, pkt->key.daddr, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = pkt->key.sport;
		tuple.ipv6.dport = pkt->key.dport;
		return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	tuple.ipv4.saddr = pkt->key.saddr[0];
	tuple.ipv4.daddr = pkt->key.daddr[0];
	tuple.ipv4.sport = pkt->key.sport;
	tuple.ipv4.dport = pkt->key.dport;
	return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
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

#endif
