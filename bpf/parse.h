/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef LANDBRIDGE_PARSE_H
#define LANDBRIDGE_PARSE_H

#define IP_MF_OFFSET 0x3fff   /* more fragments, or a fragment offset */
#define IP6_MF_OFFSET 0xfff9  /* the same in the IPv6 fragment header */
#define VLAN_VID 0x0fff
#define MAX_IP_LEN 0xffff

/* IPv6 extension headers walked before giving up. Real packets carry one or
 * two; the bound is for the verifier (bounded loops: kernel >= 5.3) and for
 * the packets that would like to keep the loop busy. */
#define MAX_EXTENSIONS 8

#define PARSED (-1)

struct packet {
	struct bpf_sock_tuple tuple;
	__u8 v6;
};

/* The load helpers copy from fragments as well as from the linear part, which
 * direct packet access does not, and take any offset, which spares the
 * verifier the variable length of the IPv6 headers. */
static __always_inline int parse_tcp(struct __sk_buff *skb, __u32 off, __be16 *sport, __be16 *dport)
{
	struct tcphdr tcp;

	if (bpf_skb_load_bytes(skb, off, &tcp, sizeof(tcp)) < 0)
		return VERDICT_UNPARSED;
	if (tcp.doff < 5)
		return VERDICT_UNPARSED;
	*sport = tcp.source;
	*dport = tcp.dest;
	return PARSED;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 off, struct packet *pkt)
{
	struct iphdr ip;
	__u32 len, hdr;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0)
		return VERDICT_UNPARSED;
	if (ip.version != 4 || ip.ihl < 5)
		return VERDICT_UNPARSED;
	if (ip.frag_off & bpf_htons(IP_MF_OFFSET))
		return VERDICT_FRAGMENT;
	if (ip.protocol != IPPROTO_TCP)
		return VERDICT_NOT_TCP;
	hdr = ip.ihl * 4;
	len = bpf_ntohs(ip.tot_len);
	/* GRO leaves 0 in a packet of more than 64 KB (BIG TCP, kernel >= 6.3). */
	if (len < hdr + sizeof(struct tcphdr) && !(len == 0 && skb->len > MAX_IP_LEN))
		return VERDICT_UNPARSED;
	pkt->v6 = 0;
	pkt->tuple.ipv4.saddr = ip.saddr;
	pkt->tuple.ipv4.daddr = ip.daddr;
	return parse_tcp(skb, off + hdr, &pkt->tuple.ipv4.sport, &pkt->tuple.ipv4.dport);
}

struct extension {
	__u8 next;
	__u8 len;
	__u8 type;
	__u8 segments_left;
};

struct fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 off, struct packet *pkt)
{
	struct ipv6hdr ip;
	struct extension ext;
	struct fragment frag;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0)
		return VERDICT_UNPARSED;
	if (ip.version != 6)
		return VERDICT_UNPARSED;
	pkt->v6 = 1;
	__builtin_memcpy(pkt->tuple.ipv6.saddr, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(pkt->tuple.ipv6.daddr, &ip.daddr, sizeof(ip.daddr));
	next = ip.nexthdr;
	off += sizeof(ip);

	for (i = 0; i <= MAX_EXTENSIONS; i++) {
		switch (next) {
		case IPPROTO_TCP:
			return parse_tcp(skb, off, &pkt->tuple.ipv6.sport, &pkt->tuple.ipv6.dport);
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
		case IPPROTO_ROUTING:
			if (bpf_skb_load_bytes(skb, off, &ext, sizeof(ext)) < 0)
				return VERDICT_UNPARSED;
			/* The destination is not the last one yet. */
			if (next == IPPROTO_ROUTING && ext.segments_left)
				return VERDICT_UNPARSED;
			next = ext.next;
			off += (ext.len + 1) * 8;
			break;
		case IPPROTO_AH:
			if (bpf_skb_load_bytes(skb, off, &ext, sizeof(ext)) < 0)
				return VERDICT_UNPARSED;
			next = ext.next;
			off += (ext.len + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if (bpf_skb_load_bytes(skb, off, &frag, sizeof(frag)) < 0)
				return VERDICT_UNPARSED;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (frag.offset & bpf_htons(IP6_MF_OFFSET))
				return VERDICT_FRAGMENT;
			next = frag.next;
			off += sizeof(frag);
			break;
		default:
			return VERDICT_NOT_TCP;
		}
	}
	return VERDICT_UNPARSED;
}

/* parse fills pkt and returns PARSED, or returns the verdict that says why the
 * packet is not TCP that could be handed over. off is where IP begins. */
static __always_inline int parse(struct __sk_buff *skb, __u32 off, struct packet *pkt)
{
	/* The kernel takes the tag out of the packet before tc sees it. With a
	 * VLAN id the packet belongs to the VLAN device, which has its own
	 * ingress hook; id 0 is only a priority. */
	if (skb->vlan_present && (skb->vlan_tci & VLAN_VID))
		return VERDICT_VLAN;
	if (skb->pkt_type != PACKET_HOST)
		return VERDICT_OTHER_HOST;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, off, pkt);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, off, pkt);
	return VERDICT_NOT_IP;
}

#endif
