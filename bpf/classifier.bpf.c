//go:build ignore

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The classifier, at tc ingress (tcx on kernel >= 6.6, clsact before) of NICs
// that face the customer.
//
//	parse -> flow table, or tenant and rules -> path -> deny, direct, socket or stack
//
// A packet's flow is found in the flow table, or its tenant and rule are looked
// up and it gets a class and a path, which it keeps until the path fails. Then
// it is dropped, sent out of the path's NIC, handed to the local socket that
// tunnels it (TCP for a captured prefix: to the connection that exists, else to
// the transparent listener; the mark makes a policy route deliver it locally),
// or it passes on.
//
// *_ether is for NICs with an Ethernet header, *_ip for those without (TUN,
// WireGuard).

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
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "structs.h"
#include "maps.h"
#include "capture.h"

#define AF_INET 2
#define AF_INET6 10

volatile struct classifier_settings classifier_settings;
/* Set by the loader. For the benchmark: packets are taken for those of this many flows, in turn. */
volatile const __u32 spread;
volatile __u32 spread_next;

/* Never read: they keep the enums in the BTF, for the test that compares them. */
volatile const enum rule_action rule_action_type;
volatile const enum class class_type;
volatile const enum path_state path_state_type;
volatile const enum answer answer_type;

/* The mark, where it holds the verdict: tenant, path, class. */
#define MARK(tenant, path, class) ((__u32)(tenant) << 16 | ((path) & 0xfff) << 4 | ((class) & 15))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GROUPS * CLASS_MAX);
	__type(key, __u32); /* group * CLASS_MAX + class */
	__type(value, struct candidates);
} candidates SEC(".maps");

/* Full: the flow that was silent longest goes, and is looked up again when it
 * speaks. max_entries is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Where a new flow is made: on the stack, its bytes would be cleared for every
 * packet. A program is not interrupted by itself on its CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} scratch SEC(".maps");

/* Datagrams whose first fragment has been seen. Full: the oldest goes, and its
 * later fragments are judged by their addresses alone. */
#define MAX_FRAGMENTED 4096
struct fragmented {
	__u32 generation;
	__u32 tenant;
	__u16 path;
	__u8 action;
	__u8 class;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct flow_key);
	__type(value, struct fragmented);
} fragments SEC(".maps");

#define LISTENER4 0
#define LISTENER6 1

/* The transparent listeners. The kernel takes a socket out when it closes, so
 * a dead listener means "pass", never a dangling pointer. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

#include "path.h"
#include "policy.h"
#include "answer.h"

/* ---- what to do with it ---- */

static __always_inline int capture(struct __sk_buff *skb, const struct packet *pkt, __u32 action)
{
	struct bpf_sock *sk;
	__u32 key;

	if (action == ACTION_NONE)
		return finish(VERDICT_NOT_CAPTURED);
	if (action == ACTION_PASS)
		return finish(VERDICT_EXCLUDED);

	/* A listener found here is some service of the host on the wildcard
	 * address, which has nothing to do with a foreign destination. */
	sk = lookup_connection(skb, pkt);
	if (sk) {
		if (sk->state != BPF_TCP_LISTEN)
			return assign(skb, sk, VERDICT_CAPTURED);
		bpf_sk_release(sk);
	}
	if (action == ACTION_DRAIN)
		return finish(VERDICT_EXCLUDED);
	if (pkt->syn == SYN_ANSWERS)
		return finish(VERDICT_UNASKED);

	/* Not only for SYN: the listener checks SYN cookies, and answers what
	 * belongs to no connection (after a restart) with a reset. */
	key = pkt->key.family == 6 ? LISTENER6 : LISTENER4;
	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk)
		return finish(VERDICT_NO_LISTENER);
	return assign(skb, sk, VERDICT_CAPTURED_NEW);
}

/* set_dscp leaves ECN alone. Failure leaves the packet as it was. */
static __always_inline void set_dscp(struct __sk_buff *skb, const struct packet *pkt, __u32 class)
{
	__u8 want = classifier_settings.dscp[class & (CLASS_MAX - 1)];

	if (!want || pkt->dscp == want - 1)
		return;
	want -= 1;
	if (pkt->key.family == 4) {
		__u8 old, tos;

		if (bpf_skb_load_bytes(skb, pkt->ip + 1, &old, 1) < 0)
			return;
		tos = want << 2 | (old & 3);
		bpf_l3_csum_replace(skb, pkt->ip + offsetof(struct iphdr, check), bpf_htons(old), bpf_htons(tos), 2);
		bpf_skb_store_bytes(skb, pkt->ip + 1, &tos, 1, 0);
	} else {
		__u8 b[2];

		if (bpf_skb_load_bytes(skb, pkt->ip, b, 2) < 0)
			return;
		b[0] = (b[0] & 0xf0) | want >> 2;
		b[1] = (b[1] & 0x3f) | (want & 3) << 6;
		bpf_skb_store_bytes(skb, pkt->ip, b, 2, BPF_F_RECOMPUTE_CSUM);
	}
}

/* The header checksum has not been looked at yet: the stack would, and a router
 * that skips the stack must. */
static __always_inline int header_is_good(struct __sk_buff *skb, const struct packet *pkt)
{
	__be32 ip[sizeof(struct iphdr) / 4];
	__s64 sum;

	if (bpf_skb_load_bytes(skb, pkt->ip, ip, sizeof(ip)) < 0)
		return 0;
	sum = bpf_csum_diff(NULL, 0, ip, sizeof(ip), 0);
	sum = (sum & 0xffff) + ((__u32)sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline void decrement_ttl(struct __sk_buff *skb, const struct packet *pkt)
{
	__u8 ttl = pkt->ttl - 1;

	if (pkt->key.family == 4) {
		bpf_l3_csum_replace(skb, pkt->ip + offsetof(struct iphdr, check),
				    bpf_htons(pkt->ttl << 8), bpf_htons(ttl << 8), 2);
		bpf_skb_store_bytes(skb, pkt->ip + offsetof(struct iphdr, ttl), &ttl, 1, 0);
	} else {
		bpf_skb_store_bytes(skb, pkt->ip + offsetof(struct ipv6hdr, hop_limit), &ttl, 1, BPF_F_RECOMPUTE_CSUM);
	}
}

/* send_out forwards out of the path's NIC. What a router would answer rather
 * than forward (TTL, size), and what only the slow path understands (options,
 * NAT), is left to the host's routing, which sends the marked packet the same
 * way. */
static __always_inline int send_out(struct __sk_buff *skb, const struct packet *pkt, __u32 l2, __u32 path)
{
	struct path *p = bpf_map_lookup_elem(&paths, &path);
	struct bpf_redir_neigh hop = {};
	__u32 mtu = 0, tags = pkt->tags + (skb->vlan_present ? 1 : 0);
	int i;

	if (!p)
		return finish(VERDICT_NO_PATH);
	if (p->routed || pkt->options || pkt->ttl <= 1 || bpf_check_mtu(skb, p->ifindex, &mtu, 0, 0)) {
		skb->mark = p->mark;
		return finish(VERDICT_ROUTED);
	}
	if (pkt->key.family == 4 && !header_is_good(skb, pkt))
		return finish(VERDICT_UNPARSED); /* the stack drops it, and counts */
	decrement_ttl(skb, pkt);
	/* The tags are of the LAN. */
	for (i = 0; i < MAX_TAGS + 1 && i < tags; i++)
		if (bpf_skb_vlan_pop(skb) < 0)
			return finish(VERDICT_NO_PATH);
	/* The redirect wants a link-layer header to replace. */
	if (!l2 && bpf_skb_change_head(skb, ETH_HLEN, 0) < 0)
		return finish(VERDICT_NO_PATH);
	finish(VERDICT_SENT_DIRECT);
	if (pkt->key.family == 6 && p->has_next_hop6) {
		hop.nh_family = AF_INET6;
		__builtin_memcpy(hop.ipv6_nh, p->next_hop6, sizeof(hop.ipv6_nh));
		return bpf_redirect_neigh(p->ifindex, &hop, sizeof(hop), 0);
	}
	/* IPv6 cannot go by an IPv4 router. */
	if (!p->family || (p->family == 4 && pkt->key.family == 6))
		return bpf_redirect_neigh(p->ifindex, NULL, 0, 0);
	hop.nh_family = p->family == 6 ? AF_INET6 : AF_INET;
	__builtin_memcpy(hop.ipv6_nh, p->next_hop, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(p->ifindex, &hop, sizeof(hop), 0);
}

/* ---- the flow ---- */

static __always_inline __u32 action_of(const struct packet *pkt)
{
	if (pkt->key.proto != IPPROTO_TCP)
		return ACTION_NONE;
	return lookup_action(pkt);
}

/* apply writes what the rules say into a flow, new or known. */
static __always_inline void apply(struct flow *f, const struct decision *d, const struct packet *pkt, __u32 gen,
				  __u32 answer)
{
	__u8 class = d->class;

	if (f->elephant && class == CLASS_INTERACTIVE)
		class = CLASS_BULK;
	if (f->group != d->group)
		f->path = 0;
	f->tenant = d->tenant;
	f->rule = d->rule;
	f->group = d->group;
	f->action = d->action;
	f->class = class;
	f->capture = d->action == RULE_ALLOW ? action_of(pkt) : ACTION_NONE;
	f->generation = gen;
	f->dscp = pkt->dscp;
	f->answer = answer;
}

/* choose returns the path for this packet: the flow's own while that may be
 * kept, else the best that is alive, else 0. The dead one stays on record, so
 * that a flow does not count as moved when the same path comes back. */
static __always_inline __u32 choose(struct flow *f, __u64 now)
{
	__u32 path;

	if (may_stay(f->path, f->class, now))
		return f->path;
	path = pick(f->group, f->class, now);
	if (path && path != f->path) {
		if (f->path)
			f->moves++;
		f->path = path;
		f->since = now;
	}
	return path;
}

/* carry does to the packet what its flow says. */
static __always_inline int carry(struct __sk_buff *skb, const struct packet *pkt, __u32 l2, int parsed,
				 __u8 action, __u8 class, __u16 path, __u32 tenant, __u32 captured)
{
	int v;

	if (action == RULE_LEAVE)
		return finish(VERDICT_LEFT_ALONE);
	if (action == RULE_DIRECT) {
		if (skb->pkt_type != PACKET_HOST)
			return finish(VERDICT_OTHER_HOST);
		if (!path)
			return finish(VERDICT_NO_PATH);
		set_dscp(skb, pkt, class);
		return send_out(skb, pkt, l2, path);
	}
	v = not_for_sockets(skb, pkt, parsed);
	if (v == VERDICT_OTHER_HOST)
		return finish(v);
	if (classifier_settings.mark)
		skb->mark = MARK(tenant, path, class);
	set_dscp(skb, pkt, class);
	if (v >= 0)
		return finish(v);
	return capture(skb, pkt, captured);
}

/* The classifier's way for packets whose addresses and ports are known. */
static __always_inline int with_flow(struct __sk_buff *skb, struct packet *pkt, __u32 l2, int parsed)
{
	__u64 elephant = classifier_settings.elephant;
	__u32 gen = generation, len = skb->len, path, zero = 0;
	/* The time of the last tick: the same clock as bpf_ktime_get_ns(), 4 ms late
	 * at most with HZ=250, and 30 ns cheaper (kernel >= 5.11). */
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow *f, *fresh = NULL;

	f = bpf_map_lookup_elem(&flows, &pkt->key);
	if (!f || f->generation != gen || f->dscp != pkt->dscp || mistaken(f, pkt)) {
		struct decision d = {};
		__u32 answer = judge(skb, pkt, gen, f, &d);

		if (d.action == RULE_DENY || (d.action == RULE_LEAVE && !answer)) {
			/* Not remembered: a scan would push real flows out. */
			if (f)
				bpf_map_delete_elem(&flows, &pkt->key);
			if (d.action == RULE_DENY)
				return finish(VERDICT_DENIED);
			return finish(VERDICT_LEFT_ALONE);
		}
		if (!f) {
			fresh = bpf_map_lookup_elem(&scratch, &zero);
			if (!fresh)
				return TC_ACT_SHOT; /* cannot be */
			__builtin_memset(fresh, 0, sizeof(*fresh));
			fresh->first = fresh->since = now;
			f = fresh;
		}
		apply(f, &d, pkt, gen, answer);
	}
	f->packets++;
	f->bytes += len;
	f->last = now;
	if (elephant && f->class == CLASS_INTERACTIVE && f->bytes > elephant) {
		f->elephant = 1;
		f->class = CLASS_BULK;
	}
	path = choose(f, now);
	if (fresh)
		bpf_map_update_elem(&flows, &pkt->key, fresh, BPF_ANY);
	if (pkt->fragment) {
		struct flow_key key;
		struct fragmented v = {
			.generation = gen, .tenant = f->tenant, .path = path, .action = f->action, .class = f->class,
		};

		fragment_key(pkt, &key);
		bpf_map_update_elem(&fragments, &key, &v, BPF_ANY);
	}
	return carry(skb, pkt, l2, parsed, f->action, f->class, path, f->tenant, f->capture);
}

/* The way of packets that cannot be told to belong to a flow. */
static __always_inline int without_flow(struct __sk_buff *skb, struct packet *pkt, __u32 l2, int parsed)
{
	__u32 gen = generation;
	struct decision d = {};

	if (parsed == PARSED_FRAGMENT) {
		struct fragmented *v;
		struct flow_key key;

		fragment_key(pkt, &key);
		v = bpf_map_lookup_elem(&fragments, &key);
		if (v && v->generation == gen)
			return carry(skb, pkt, l2, parsed, v->action, v->class, v->path, v->tenant, ACTION_NONE);
	}
	decide(pkt, gen, &d);
	if (d.action == RULE_DENY)
		return finish(VERDICT_DENIED_UNPARSED);
	return finish(not_for_sockets(skb, pkt, parsed));
}

static __always_inline int classify(struct __sk_buff *skb, __u32 l2)
{
	struct packet pkt = {};
	int parsed;

	parsed = parse_skb(skb, l2, &pkt);
	if (parsed == PARSED_NOT_IP)
		return finish(not_for_sockets(skb, &pkt, parsed));
	if (spread) {
		__u32 n = spread_next++ % spread;

		pkt.key.sport = n;
		pkt.key.saddr[3] = n >> 16;
	}
	if (pkt.known == KNOWN_ALL && parsed != PARSED_BADLY)
		return with_flow(skb, &pkt, l2, parsed);
	return without_flow(skb, &pkt, l2, parsed);
}

SEC("tc")
int classify_ether(struct __sk_buff *skb)
{
	return classify(skb, ETH_HLEN);
}

SEC("tc")
int classify_ip(struct __sk_buff *skb)
{
	return classify(skb, 0);
}

/* At tc egress of the same NICs. */
SEC("tc")
int note_ether(struct __sk_buff *skb)
{
	return note(skb, ETH_HLEN);
}

SEC("tc")
int note_ip(struct __sk_buff *skb)
{
	return note(skb, 0);
}

/* The socket helpers are for programs under a GPL-compatible licence only. */
char __license[] SEC("license") = "Dual MIT/GPL";
