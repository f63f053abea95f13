//go:build ignore

// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The way back at tc ingress of NICs that face the origin: TCP that belongs to
// a connection this host dialled from a foreign address goes to that
// connection. Whatever is not handed over passes on untouched.

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
#include "capture.h"

static __always_inline int give_back(struct __sk_buff *skb, __u32 off)
{
	struct packet pkt = {};
	struct bpf_sock *sk;
	__u32 action;
	int v;

	v = not_for_sockets(skb, &pkt, parse_skb(skb, off, &pkt));
	if (v >= 0)
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
