//go:build ignore

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// STAMP (RFC 8762) at the NIC, in XDP on carrier NICs: the session-reflector,
// and the session-sender's end that takes the answers. Both read the clock
// before any queue or scheduler. Probes are tried first; everything else goes on
// to the guard, where one is attached, else to the stack.
//
// A probe of ours carries its tag in a TLV (RFC 8972 framing, experimental
// type): SipHash-2-4 under the session's key over the 44 bytes of STAMP, the
// session's number and the direction. Without a right tag the reflector answers
// nobody, unless it is told to answer plain RFC 8762 too.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "structs.h"
#include "maps.h"
#include "rate.h"
#include "siphash.h"
#include "stamp.h"

volatile struct reflector_settings reflector_settings;
volatile const enum probe_verdict probe_verdict_type;

#define MAX_SESSIONS 4096

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SESSIONS);
	__type(key, __u32);
	__type(value, struct session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SESSIONS);
	__type(key, struct sender_key);
	__type(value, struct sender);
} senders SEC(".maps");

/* When the last probes of each path went out, by sequence number. An answer is
 * looked for here, and found once: a repeated one is no sign of life. As many
 * as are under way in a round trip of 1.3 s at 400 a second; 8 MB. */
#define SENT_SLOTS 512

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PATHS * SENT_SLOTS);
	__type(key, __u32);
	__type(value, struct sent);
} sents SEC(".maps");

/* Full: the answer is counted, and lost for user space. */
#define REPLY_RING (1 << 18)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, REPLY_RING);
} replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_MAX);
	__type(key, __u32); /* enum probe_verdict */
	__type(value, __u64);
} probe_verdicts SEC(".maps");

/* The guard, in slot 0. An empty slot ends here: the packet passes. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

volatile const struct reply reply_type;

static __always_inline int count(__u32 verdict, int code)
{
	__u64 *n = bpf_map_lookup_elem(&probe_verdicts, &verdict);

	if (n)
		*n += 1;
	return code;
}

static __always_inline void to_ntp(__u64 mono, __be32 *seconds, __be32 *fraction)
{
	__u64 ns = mono + reflector_settings.epoch;

	*seconds = bpf_htonl((__u32)(ns / 1000000000 + NTP_EPOCH));
	*fraction = bpf_htonl((__u32)(((ns % 1000000000) << 32) / 1000000000));
}

static __always_inline __u64 ntp(__be32 seconds, __be32 fraction)
{
	return (__u64)bpf_ntohl(seconds) << 32 | bpf_ntohl(fraction);
}

/* Reflectors change the flags: they count as 0. */
static __always_inline __u64 tag_of(union probe_words *w, const __u64 *key)
{
	__u8 flags = w->p.flags;
	__u64 tag;

	w->p.flags = 0;
	tag = siphash(&w->tagged, (const struct tag_key *)key);
	w->p.flags = flags;
	return tag;
}

static __always_inline int tag_is(union probe_words *w, const __u64 *key)
{
	return w->word[TAGGED_WORDS] == tag_of(w, key);
}

static __always_inline int is_ours(const struct probe *p)
{
	return p->type == TLV_TYPE && p->len == bpf_htons(TLV_LEN);
}

/* Our answer goes out as it came in: same NIC, addresses and ports swapped. */
static __always_inline int turn_round(struct xdp_md *ctx, const struct where *w)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp = data + w->l4;
	__u8 mac[ETH_ALEN];
	__u64 sums;
	__be16 port;

	if ((void *)(udp + 1) > end)
		return 0;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	if (w->family == 4) {
		struct iphdr *ip = data + w->l3;
		__be32 a = ip->saddr;
		__u64 sum = 0;
		__u32 i;

		ip->saddr = ip->daddr;
		ip->daddr = a;
		ip->ttl = PROBE_TTL;
		ip->check = 0;
		for (i = 0; i < sizeof(*ip) / 2; i++)
			sum += ((__u16 *)ip)[i];
		ip->check = ~fold(sum);
	} else {
		struct ipv6hdr *ip = data + w->l3;
		struct in6_addr a;

		opaque(ip);
		if ((void *)(ip + 1) > end)
			return 0;
		a = ip->saddr;
		ip->saddr = ip->daddr;
		ip->daddr = a;
		ip->hop_limit = PROBE_TTL;
	}
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	if (w->family == 4 && !udp->check)
		return 1;
	/* Anew: on veth the sender's stack may have left it for later. */
	udp->check = 0;
	sums = sum_udp(ctx, w->family, w->len);
	if (!sums)
		return 0;
	udp->check = (sums & 0xffff) == 0xffff ? 0xffff : ~sums;
	return 1;
}

/* accept says whether a request of a session is new. Its own order is by time,
 * so that a sender that starts again is heard. */
static __always_inline int accept(struct session *s, __u64 at, __u32 sequence, __u32 *own)
{
	__s32 ahead;
	int ok = 1;

	bpf_spin_lock(&s->lock);
	ahead = sequence - s->top;
	if (at > s->newest) {
		s->newest = at;
		s->window = s->window && ahead > 0 && ahead < 64 ? s->window << (ahead & 63) | 1 : 1;
		s->top = sequence;
	} else if (ahead > 0 || ahead <= -64 || (s->window >> (-ahead & 63) & 1)) {
		ok = 0;
	} else {
		s->window |= 1ULL << (-ahead & 63);
	}
	if (ok)
		*own = s->sequence++;
	bpf_spin_unlock(&s->lock);
	return ok;
}

/* A global function, as is take: one stack cannot hold both. */
__noinline int reflect(struct xdp_md *ctx, __u32 family)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *payload;
	__u64 now = bpf_ktime_get_ns(), sums;
	__u32 id, own;
	struct session *s = NULL;
	union probe_words u = {};
	struct where w = {};

	if (locate(ctx, family, &w) != PROBE_MAX)
		return count(PROBE_MALFORMED, XDP_DROP);
	payload = data + w.l4 + sizeof(struct udphdr);
	opaque(payload);
	if (payload + STAMP_LEN > end)
		return count(PROBE_MALFORMED, XDP_DROP);
	if (w.len >= PROBE_LEN && payload + PROBE_LEN <= end)
		__builtin_memcpy(&u, aligned(payload), PROBE_LEN);
	else
		__builtin_memcpy(&u, aligned(payload), STAMP_LEN);

	own = bpf_ntohl(u.p.sequence); /* stateless: RFC 8762, section 4.3 */
	if (is_ours(&u.p)) {
		id = bpf_ntohl(u.p.session);
		s = bpf_map_lookup_elem(&sessions, &id);
		if (!s)
			return count(PROBE_NO_SESSION, XDP_DROP);
		if (u.p.direction != bpf_htonl(ASKING) || !tag_is(&u, s->key))
			return count(PROBE_BAD_TAG, XDP_DROP);
		if (!accept(s, ntp(u.p.seconds, u.p.fraction), own, &own))
			return count(PROBE_REPLAYED, XDP_DROP);
		id = s->path;
		if (id) {
			struct live *l = bpf_map_lookup_elem(&live, &id);

			if (l)
				l->request = now;
		}
	} else {
		struct udphdr *udp = data + w.l4;

		if (!reflector_settings.plain)
			return count(PROBE_UNAUTHENTICATED, XDP_DROP);
		sums = sum_udp(ctx, w.family, w.len);
		if (!sums || (void *)(udp + 1) > end)
			return count(PROBE_MALFORMED, XDP_DROP);
		/* On veth the sender's stack may have left the rest for later. */
		if ((udp->check || w.family != 4) && (sums & 0xffff) != 0xffff && udp->check != sums >> 32)
			return count(PROBE_MALFORMED, XDP_DROP);
		if (rate(w.family, w.source, TOTAL_PROBE, now) != RATE_WITHIN)
			return count(PROBE_RATE_LIMITED, XDP_DROP);
	}

	u.p.sender_sequence = u.p.sequence;
	u.p.sender_seconds = u.p.seconds;
	u.p.sender_fraction = u.p.fraction;
	u.p.sender_error = u.p.error;
	u.p.zero = 0;
	u.p.sender_ttl = w.ttl;
	__builtin_memset(u.p.zeros, 0, sizeof(u.p.zeros));
	u.p.sequence = bpf_htonl(own);
	u.p.error = bpf_htons(ERROR_ESTIMATE);
	to_ntp(now, &u.p.rx_seconds, &u.p.rx_fraction);
	to_ntp(bpf_ktime_get_ns(), &u.p.seconds, &u.p.fraction);
	if (s) {
		u.p.flags &= ~TLV_UNRECOGNIZED;
		u.p.direction = bpf_htonl(ANSWERING);
		u.word[TAGGED_WORDS] = tag_of(&u, s->key);
		if (payload + PROBE_LEN > end)
			return count(PROBE_MALFORMED, XDP_DROP);
		__builtin_memcpy(aligned(payload), &u, PROBE_LEN);
	} else {
		__builtin_memcpy(aligned(payload), &u, STAMP_LEN);
		/* What follows is a TLV that we do not know. */
		if (w.len > STAMP_LEN && payload + STAMP_LEN + 1 <= end)
			*(__u8 *)(payload + STAMP_LEN) |= TLV_UNRECOGNIZED;
	}
	if (!turn_round(ctx, &w))
		return count(PROBE_MALFORMED, XDP_DROP);
	return count(PROBE_REFLECTED, XDP_TX);
}

/* The answer's arrival is a sign of life, once. -1: it is nobody's answer. */
__noinline int take(struct xdp_md *ctx, __u32 family)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *payload;
	__u64 now = bpf_ktime_get_ns();
	__u32 path, slot, sequence;
	struct sender_key key = {};
	union probe_words u = {};
	struct sender *sender;
	struct reply r = {};
	struct where w = {};
	struct udphdr *udp;
	struct live *l;
	struct sent *s;
	int fault;

	fault = locate(ctx, family, &w);
	if (!w.l4)
		return -1; /* too short to be asked whose it is */
	udp = data + w.l4;
	if ((void *)(udp + 1) > end)
		return -1;
	key.family = w.family;
	__builtin_memcpy(key.addr, w.source, sizeof(key.addr));
	key.local = udp->dest;
	key.remote = udp->source;
	sender = bpf_map_lookup_elem(&senders, &key);
	if (!sender)
		return -1;
	if (fault != PROBE_MAX)
		return count(PROBE_MALFORMED, XDP_DROP);
	path = sender->path & (MAX_PATHS - 1);
	payload = udp + 1;
	opaque(payload);
	if (payload + STAMP_LEN > end)
		return count(PROBE_MALFORMED, XDP_DROP);
	if (w.len >= PROBE_LEN && payload + PROBE_LEN <= end)
		__builtin_memcpy(&u, aligned(payload), PROBE_LEN);
	else
		__builtin_memcpy(&u, aligned(payload), STAMP_LEN);
	if (!sender->plain && (!is_ours(&u.p) || u.p.session != bpf_htonl(sender->session) ||
			       u.p.direction != bpf_htonl(ANSWERING) || !tag_is(&u, sender->key)))
		return count(PROBE_REPLY_BAD, XDP_DROP);

	sequence = bpf_ntohl(u.p.sender_sequence);
	slot = path * SENT_SLOTS + sequence % SENT_SLOTS;
	l = bpf_map_lookup_elem(&live, &path);
	s = bpf_map_lookup_elem(&sents, &slot);
	if (!l || !s)
		return count(PROBE_REPLY_LATE, XDP_DROP);
	if (s->at && s->sequence == sequence) {
		r.t1 = s->at;
		s->at = 0;
	} else if (l->sent || (l->reply && (__s32)(sequence - l->top) <= 0)) {
		/* Egress has not seen it, or it was answered before; where nothing
		 * watches egress, only what is newer counts. */
		return count(PROBE_REPLY_LATE, XDP_DROP);
	}
	if (!l->reply || (__s32)(sequence - l->top) > 0) {
		struct sent *ahead;

		l->top = sequence;
		slot = path * SENT_SLOTS + (sequence + UNANSWERED) % SENT_SLOTS;
		ahead = bpf_map_lookup_elem(&sents, &slot);
		/* An earlier sender may have left that number there. */
		l->missed = ahead && ahead->sequence == sequence + UNANSWERED && r.t1 && ahead->at > r.t1 ? ahead->at : 0;
	}
	l->reply = now;

	r.t1_ntp = ntp(u.p.sender_seconds, u.p.sender_fraction);
	r.t2_ntp = ntp(u.p.rx_seconds, u.p.rx_fraction);
	r.t3_ntp = ntp(u.p.seconds, u.p.fraction);
	r.t4 = now;
	r.sequence = sequence;
	r.reflected = bpf_ntohl(u.p.sequence);
	r.path = path;
	r.ttl_there = u.p.sender_ttl;
	r.ttl_back = w.ttl;
	if (bpf_ringbuf_output(&replies, &r, sizeof(r), 0))
		return count(PROBE_RING_FULL, XDP_DROP);
	return count(PROBE_REPLY, XDP_DROP);
}

SEC("xdp")
int reflector(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 family = 0, port;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	int code;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
		    (ip->frag_off & bpf_htons(IP_FRAGMENT)))
			goto other;
		family = 4;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
			goto other;
		family = 6;
	} else {
		goto other;
	}
	port = bpf_ntohs(udp->dest);
	/* Longer ones are for a reflector in user space, if the guard lets them. */
	if (reflector_settings.port && port == reflector_settings.port && bpf_ntohs(udp->len) <= sizeof(*udp) + MAX_PROBE_LEN)
		return reflect(ctx, family);
	if (reflector_settings.sender_low && port >= reflector_settings.sender_low && port <= reflector_settings.sender_high) {
		code = take(ctx, family);
		if (code >= 0)
			return code;
	}
other:
	bpf_tail_call(ctx, &next, 0);
	return XDP_PASS;
}

/* At tc egress of the same NIC: when our own probes go out. */
SEC("tc")
int probe_egress(struct __sk_buff *skb)
{
	struct sender_key key = {};
	struct sender *sender;
	__u32 l4, path, slot;
	struct udphdr udp;
	struct iphdr ip;
	struct ipv6hdr ip6;
	struct sent s = {};
	struct live *l;
	__be32 sequence;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.ihl != 5 || ip.protocol != IPPROTO_UDP ||
		    (ip.frag_off & bpf_htons(IP_FRAGMENT)))
			return TC_ACT_UNSPEC;
		key.family = 4;
		key.addr[0] = ip.daddr;
		l4 = ETH_HLEN + sizeof(ip);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof(ip6)) < 0 || ip6.nexthdr != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		key.family = 6;
		__builtin_memcpy(key.addr, &ip6.daddr, sizeof(key.addr));
		l4 = ETH_HLEN + sizeof(ip6);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (bpf_skb_load_bytes(skb, l4, &udp, sizeof(udp)) < 0)
		return TC_ACT_UNSPEC;
	if (!reflector_settings.sender_low || bpf_ntohs(udp.source) < reflector_settings.sender_low ||
	    bpf_ntohs(udp.source) > reflector_settings.sender_high)
		return TC_ACT_UNSPEC;
	key.local = udp.source;
	key.remote = udp.dest;
	sender = bpf_map_lookup_elem(&senders, &key);
	if (!sender || bpf_skb_load_bytes(skb, l4 + sizeof(udp), &sequence, sizeof(sequence)) < 0)
		return TC_ACT_UNSPEC;
	path = sender->path & (MAX_PATHS - 1);
	s.sequence = bpf_ntohl(sequence);
	s.at = bpf_ktime_get_ns();
	slot = path * SENT_SLOTS + s.sequence % SENT_SLOTS;
	bpf_map_update_elem(&sents, &slot, &s, BPF_ANY);
	l = bpf_map_lookup_elem(&live, &path);
	if (l) {
		l->sent = s.at;
		if (!l->missed && (__s32)(s.sequence - l->top) >= UNANSWERED)
			l->missed = s.at;
	}
	return count(PROBE_SENT, TC_ACT_UNSPEC);
}

char __license[] SEC("license") = "Dual MIT/GPL";
