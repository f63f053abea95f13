/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Answers: what leaves the LAN for a flow that came in from elsewhere, a direct
 * one of another site or one that the host lets in. Rules are for who opens a
 * flow, and an answer opens none. */
#ifndef LANDBRIDGE_ANSWER_H
#define LANDBRIDGE_ANSWER_H

/* What came in, by the key of its answers. Full: what was silent longest goes;
 * TCP that a rule sends directly is known by the rule then. Just above a power
 * of two, as the flow table. */
#define MAX_INBOUND (32768 + 1024)
struct noted {
	__u8 opened;             /* a SYN came in */
	__u8 dscp;               /* the rules may depend on it */
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_INBOUND);
	__type(key, struct flow_key);
	__type(value, struct noted);
} inbound SEC(".maps");

/* Is there anything in it? Spares new flows the lookup. */
volatile __u32 inbound_used;

static __always_inline void turn_round(const struct flow_key *k, struct flow_key *back)
{
	__builtin_memcpy(back->saddr, k->daddr, sizeof(back->saddr));
	__builtin_memcpy(back->daddr, k->saddr, sizeof(back->daddr));
	back->sport = k->dport;
	back->dport = k->sport;
	back->proto = k->proto;
	back->family = k->family;
	back->unused = 0;
}

/* decide_inbound asks the rules about what came in and is answered by pkt: 1 if
 * they send it directly. */
__noinline int decide_inbound(const struct packet *pkt, __u32 slot, __u32 dscp, struct decision *d)
{
	struct packet in = {.known = KNOWN_ALL, .inbound = 1};

	if (!pkt || !d)
		return 0;
	in.dscp = dscp;
	turn_round(&pkt->key, &in.key);
	decide(&in, slot, d);
	return d->action == RULE_DIRECT;
}

/* connected says whether a socket here has the connection: a forged packet from
 * outside must not take it off the tunnel. TIME_WAIT is none any more. */
__noinline int connected(struct __sk_buff *skb, const struct packet *pkt)
{
	struct bpf_sock *sk;
	int is;

	if (!pkt || pkt->key.proto != IPPROTO_TCP)
		return 0;
	sk = lookup_connection(skb, pkt);
	if (!sk)
		return 0;
	is = sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_TIME_WAIT;
	bpf_sk_release(sk);
	return is;
}

/* judge asks the rules about a packet from the LAN, as what it is: something new
 * or an answer. f is what is known of its flow, or NULL. */
static __always_inline __u32 judge(struct __sk_buff *skb, const struct packet *pkt, __u32 gen,
				   const struct flow *f, struct decision *d)
{
	__u32 tcp = pkt->key.proto == IPPROTO_TCP, answer = ANSWER_UNKNOWN, dscp = pkt->dscp;
	struct noted *n = NULL;

	if (pkt->syn != SYN_ASKS) {
		if (inbound_used)
			n = bpf_map_lookup_elem(&inbound, &pkt->key);
		if (n) {
			answer = n->opened ? ANSWER_OPENED : ANSWER_SEEN;
			dscp = n->dscp;
		} else if (f && f->answer != ANSWER_NOT) {
			answer = f->answer;
		}
	}
	if (answer && !connected(skb, pkt)) {
		if (decide_inbound(pkt, gen, dscp, d))
			return answer;
		decide(pkt, gen, d);
		/* Something lets it in, and knows the way back, if need be through its
		 * NAT. Only a deny rule says more; and where no SYN was seen to come in,
		 * it may be ours that goes out directly. */
		if (!tcp || d->action == RULE_DENY || (d->action == RULE_DIRECT && answer != ANSWER_OPENED))
			return ANSWER_UNKNOWN;
		d->action = RULE_LEAVE;
		return answer;
	}
	decide(pkt, gen, d);
	/* After a restart nothing has been seen yet, and the listener would reset
	 * the connection. */
	if (tcp && pkt->syn != SYN_ASKS && d->action == RULE_ALLOW && policies[gen & 1].inbound &&
	    (!f || pkt->syn == SYN_ANSWERS) && !connected(skb, pkt)) {
		struct decision in = {};

		if (decide_inbound(pkt, gen, dscp, &in)) {
			*d = in;
			return ANSWER_SEEN;
		}
	}
	return ANSWER_UNKNOWN;
}

/* mistaken says whether the packet shows that its flow is not what the table
 * has: an answer where a connection is asked for, or the other way round. */
static __always_inline int mistaken(const struct flow *f, const struct packet *pkt)
{
	return pkt->syn && (pkt->syn == SYN_ANSWERS) != (f->answer != ANSWER_UNKNOWN);
}

/* note looks at what goes out to the LAN: what this host has forwarded, not sent
 * itself, belongs to a flow that came in, or answers one that went out. */
static __always_inline int note(struct __sk_buff *skb, __u32 l2)
{
	struct noted fresh = {}, *n = NULL;
	struct packet pkt = {};
	struct flow_key back;
	struct flow *f;

	if (!skb->ingress_ifindex)
		return NEXT_PROGRAM;
	parse_skb(skb, l2, &pkt);
	if (pkt.known != KNOWN_ALL || pkt.tagged)
		return NEXT_PROGRAM;
	turn_round(&pkt.key, &back);
	fresh.opened = pkt.syn == SYN_ASKS;
	fresh.dscp = pkt.dscp;
	if (inbound_used)
		n = bpf_map_lookup_elem(&inbound, &back);
	if (n) {
		if (fresh.opened)
			n->opened = 1;
		n->dscp = fresh.dscp;
		return NEXT_PROGRAM;
	}
	f = bpf_map_lookup_elem(&flows, &back);
	if (f && !fresh.opened) {
		struct decision d = {};

		if (pkt.key.proto == IPPROTO_TCP || f->action == RULE_DIRECT || f->answer)
			return NEXT_PROGRAM;
		/* Both ends may speak first, without TCP: the rules know whose it is. */
		pkt.inbound = 1;
		decide(&pkt, f->generation, &d);
		if (d.action != RULE_DIRECT) {
			f->answer = ANSWER_NOT;
			return NEXT_PROGRAM;
		}
		f->dscp = ~0; /* no packet has it: judge the flow again */
	}
	bpf_map_update_elem(&inbound, &back, &fresh, BPF_ANY);
	inbound_used = 1;
	return NEXT_PROGRAM;
}

#endif
