//go:build ignore

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The guard, in XDP on carrier NICs behind the reflector: what is not the bond,
// the answer to what went out, or allowed by the document is dropped before it
// costs anything. Strangers are rate-limited by network.
//
// guard_egress, at tc egress of the same NICs, notes what goes out, after the
// host's NAT: that opens the way back.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
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
#include "rate.h"

/* Headers may not begin behind this; the verifier wants a bound. */
#define MAX_OFFSET 2048

/* XDP has no load helper before kernel 5.18: direct access, linear part only. */
static __always_inline long load_xdp(struct xdp_md *ctx, __u32 off, void *to, const __u32 len)
{
	void *end = (void *)(long)ctx->data_end, *p;

	if (off > MAX_OFFSET)
		return -1;
	p = (void *)(long)ctx->data + off;
	/* One register for check and access, whatever the compiler knows better. */
	asm volatile("" : "+r"(p));
	if (p + len > end)
		return -1;
	/* In words where it goes: what the compiler thinks unaligned it copies byte
	 * by byte. */
	if (len % 4 == 0)
		__builtin_memcpy(to, __builtin_assume_aligned(p, 4), len);
	else
		__builtin_memcpy(to, __builtin_assume_aligned(p, 2), len);
	return 0;
}

#define load_bytes(ctx, off, to, len) load_xdp(ctx, off, to, len)
#define PARSE_CTX struct xdp_md
#include "parse.h"

#define PORTS_UDP 0
#define PORTS_TCP 65536
#define PORTS_OTHER 131072
#define PORTS_MAX (131072 + 256)

#define NOTE_AGAIN 1000000000ULL  /* an outgoing flow is noted once a second */

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER 4
#define MLD_QUERY 130
#define MLD_DONE 132
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOUR_ADVERT 136
#define MLD2_REPORT 143
#define IPPROTO_ICMP6 58

volatile const enum guard_verdict guard_verdict_type;

/* What may come in, by protocol and port: PORT_BOND, a set of sources, or
 * nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct set_prefix4);
	__type(value, __u32);
} allowed4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct set_prefix6);
	__type(value, __u32);
} allowed6 SEC(".maps");

/* Peers whose address is known. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct address);
	__type(value, __u32);
} peers SEC(".maps");

/* What went out, by the key of its answers, and when. Full: the flow that was
 * silent longest goes. max_entries is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, __u64);
} outgoing SEC(".maps");

/* Local ports that something has ever gone out from: of a flood, most packets
 * are for others, and need no look into the table of flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32);
	__type(value, __u8);
} used_ports SEC(".maps");

/* Datagrams whose first fragment has passed. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct flow_key);
	__type(value, __u64);
} passed_fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GUARD_MAX);
	__type(key, __u32); /* enum guard_verdict */
	__type(value, __u64);
} guard_verdicts SEC(".maps");

__noinline int parse_xdp(struct xdp_md *ctx, __u32 protocol, struct packet *pkt)
{
	if (!pkt)
		return PARSED_BADLY;
	return parse(ctx, ETH_HLEN, protocol, ctx->data_end - ctx->data, pkt);
}

static __always_inline int done(__u32 verdict)
{
	__u64 *n = bpf_map_lookup_elem(&guard_verdicts, &verdict);

	if (n)
		*n += 1;
	return verdict >= GUARD_RATE_LIMITED && guard_settings.enforce ? XDP_DROP : XDP_PASS;
}

static __always_inline int allowed(const struct flow_key *k, __u32 set)
{
	if (k->family == 6) {
		struct set_prefix6 key = {.bits = 32 + 128, .set = set};

		__builtin_memcpy(key.addr, k->saddr, sizeof(key.addr));
		return bpf_map_lookup_elem(&allowed6, &key) != NULL;
	} else {
		struct set_prefix4 key = {.bits = 32 + 32, .set = set};

		__builtin_memcpy(key.addr, k->saddr, sizeof(key.addr));
		return bpf_map_lookup_elem(&allowed4, &key) != NULL;
	}
}

static __always_inline __u32 port_index(const struct flow_key *k, __be16 port)
{
	if (k->proto == IPPROTO_UDP)
		return PORTS_UDP + bpf_ntohs(port);
	if (k->proto == IPPROTO_TCP)
		return PORTS_TCP + bpf_ntohs(port);
	return PORTS_OTHER + k->proto;
}

/* The clock is asked only here, where it decides: it costs as much as a lookup. */
static __always_inline int stranger(__u32 family, const __u32 *addr, __u32 what, int passed)
{
	switch (rate(family, addr, what, bpf_ktime_get_ns())) {
	case RATE_WITHIN:
		return passed;
	case RATE_OVER:
		return GUARD_RATE_LIMITED;
	}
	return GUARD_TOTAL_LIMITED;
}

/* -1: nothing that ICMP as such may do. */
static __always_inline int icmp(struct xdp_md *ctx, const struct packet *pkt)
{
	__u8 type;

	if (pkt->fragment || load_bytes(ctx, pkt->transport, &type, 1) < 0)
		return -1;
	if (pkt->key.family == 4) {
		if (pkt->key.proto != IPPROTO_ICMP ||
		    (type != ICMP_UNREACHABLE && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETER))
			return -1;
	} else {
		if (pkt->key.proto != IPPROTO_ICMP6)
			return -1;
		/* From the link itself only: no router passes these on. */
		if (type >= ND_ROUTER_SOLICIT && type <= ND_NEIGHBOUR_ADVERT)
			return pkt->ttl == 255 ? GUARD_NEIGHBOUR : -1;
		/* Without it, switches that snoop stop delivering neighbour discovery. */
		if ((type >= MLD_QUERY && type <= MLD_DONE) || type == MLD2_REPORT)
			return pkt->ttl == 1 ? GUARD_NEIGHBOUR : -1;
		if (type < ICMP6_UNREACHABLE || type > ICMP6_PARAMETER)
			return -1;
	}
	return stranger(pkt->key.family, pkt->key.saddr, TOTAL_ICMP, GUARD_ICMP);
}

/* judge asks by addresses and ports alone. */
static __always_inline int judge(const struct flow_key *k)
{
	__u32 at = port_index(k, k->dport), *port;
	__u64 *last;
	__u8 *used;

	port = bpf_map_lookup_elem(&ports, &at);
	if (port && *port == PORT_BOND) {
		struct address a = {.family = k->family};

		__builtin_memcpy(a.addr, k->saddr, sizeof(a.addr));
		if (bpf_map_lookup_elem(&peers, &a))
			return GUARD_BOND;
		return stranger(k->family, k->saddr, TOTAL_BOND, GUARD_BOND_STRANGER);
	}
	if (port && *port != PORT_NONE && allowed(k, *port))
		return GUARD_ALLOWED;
	used = bpf_map_lookup_elem(&used_ports, &at);
	if (!used || !*used)
		return GUARD_UNWANTED;
	last = bpf_map_lookup_elem(&outgoing, k);
	/* Another CPU may have written a later time than our now. */
	if (last && (k->proto == IPPROTO_TCP || (__s64)(bpf_ktime_get_ns() - *last) <= (__s64)guard_settings.memory))
		return GUARD_ESTABLISHED;
	return GUARD_UNWANTED;
}

/* simple reads TCP and UDP in plain IPv4, which is what floods are made of, and
 * agrees with parse_ipv4. 0: ask the parser. */
static __always_inline int simple(struct xdp_md *ctx, struct flow_key *k)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	__u32 len;

	if ((void *)(udp + 1) > end || ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)))
		return 0;
	len = bpf_ntohs(ip->tot_len);
	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		if ((void *)(tcp + 1) > end || tcp->doff < 5 || len < sizeof(*ip) + sizeof(*tcp))
			return 0;
	} else if (ip->protocol != IPPROTO_UDP || len < sizeof(*ip) + sizeof(*udp)) {
		return 0;
	}
	k->family = 4;
	k->proto = ip->protocol;
	k->saddr[0] = ip->saddr;
	k->daddr[0] = ip->daddr;
	k->sport = udp->source;
	k->dport = udp->dest;
	return 1;
}

/* The long way. A global function: its stack and the verifier's work are its
 * own. */
__noinline int judge_any(struct xdp_md *ctx, __u32 protocol)
{
	struct packet pkt = {};
	struct flow_key key;
	int parsed, v, i;

	if (protocol == bpf_htons(ETH_P_ARP))
		return GUARD_NEIGHBOUR;
	parsed = parse_xdp(ctx, protocol, &pkt);
	if (parsed == PARSED_NOT_IP)
		return GUARD_NOT_IP;
	if (parsed == PARSED_BADLY)
		return GUARD_UNPARSED;
	if (pkt.fragment == FRAGMENT_LATER) {
		fragment_key(&pkt, &key);
		return bpf_map_lookup_elem(&passed_fragments, &key) ? GUARD_FRAGMENT : GUARD_UNWANTED;
	}
	v = judge(&pkt.key);
	if (v == GUARD_UNWANTED) {
		i = icmp(ctx, &pkt);
		if (i >= 0)
			v = i;
	}
	if (pkt.fragment && v < GUARD_RATE_LIMITED) {
		__u64 now = bpf_ktime_get_ns();

		fragment_key(&pkt, &key);
		bpf_map_update_elem(&passed_fragments, &key, &now, BPF_ANY);
	}
	return v;
}

SEC("xdp")
int guard(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct flow_key key = {};
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return done(GUARD_UNPARSED);
	if (eth->h_proto == bpf_htons(ETH_P_IP) && simple(ctx, &key))
		return done(judge(&key));
	return done(judge_any(ctx, eth->h_proto));
}

#undef load_bytes

static __always_inline int note(struct __sk_buff *skb, const struct flow_key *out)
{
	struct flow_key back = {.proto = out->proto, .family = out->family, .sport = out->dport, .dport = out->sport};
	__u64 now = bpf_ktime_get_ns(), *last;
	__u32 at = port_index(out, out->sport), *port;

	port = bpf_map_lookup_elem(&ports, &at);
	if (port && *port == PORT_BOND)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(back.saddr, out->daddr, sizeof(back.saddr));
	__builtin_memcpy(back.daddr, out->saddr, sizeof(back.daddr));
	last = bpf_map_lookup_elem(&outgoing, &back);
	if (!last) {
		__u8 *used = bpf_map_lookup_elem(&used_ports, &at);

		bpf_map_update_elem(&outgoing, &back, &now, BPF_ANY);
		if (used)
			*used = 1;
	}
	else if (now - *last > NOTE_AGAIN)
		*last = now;
	return TC_ACT_UNSPEC;
}

/* What this host or its NAT sends is well formed: no extension headers, and a
 * later fragment opens nothing that the first one has not. */
SEC("tc")
int guard_egress(struct __sk_buff *skb)
{
	struct flow_key k = {};
	__be16 both[2] = {};
	struct ipv6hdr ip6;
	struct iphdr ip;
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.ihl < 5 || (ip.frag_off & bpf_htons(IP_OFFSET)))
			return TC_ACT_UNSPEC;
		k.family = 4;
		k.saddr[0] = ip.saddr;
		k.daddr[0] = ip.daddr;
		k.proto = ip.protocol;
		l4 = ETH_HLEN + ip.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof(ip6)) < 0)
			return TC_ACT_UNSPEC;
		k.family = 6;
		__builtin_memcpy(k.saddr, &ip6.saddr, sizeof(k.saddr));
		__builtin_memcpy(k.daddr, &ip6.daddr, sizeof(k.daddr));
		k.proto = ip6.nexthdr;
		l4 = ETH_HLEN + sizeof(ip6);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (k.proto == IPPROTO_TCP || k.proto == IPPROTO_UDP || k.proto == IPPROTO_SCTP) {
		if (bpf_skb_load_bytes(skb, l4, both, sizeof(both)) < 0)
			return TC_ACT_UNSPEC;
		k.sport = both[0];
		k.dport = both[1];
	}
	return note(skb, &k);
}

char __license[] SEC("license") = "Dual MIT/GPL";
