/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* From the first byte of IP or of a VLAN tag to the ports, for tc and XDP. The
 * including file defines load_bytes() and PARSE_CTX, its context, before it. */
#ifndef LANDBRIDGE_PARSE_H
#define LANDBRIDGE_PARSE_H

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define IP6_MF 0x0001
#define IP6_OFFSET 0xfff8
#define VLAN_VID 0x0fff
#define MAX_IP_LEN 0xffff

/* VLAN tags in the packet itself. Single and QinQ; the outermost is usually
 * in the skb already. */
#define MAX_TAGS 2

/* IPv6 extension headers walked before giving up. Real packets carry one or
 * two; the bound is for the verifier (bounded loops: kernel >= 5.3) and for
 * the packets that would like to keep the loop busy. */
#define MAX_EXTENSIONS 8

#define MAX_IP_OPTIONS 40
#define OPTION_LOOSE_ROUTE 131
#define OPTION_STRICT_ROUTE 137

#define PROTO_MOBILITY 135
#define PROTO_HIP 139
#define PROTO_SHIM6 140

enum parsed {
	PARSED,
	PARSED_FRAGMENT,         /* see packet.fragment and known */
	PARSED_NOT_IP,
	PARSED_BADLY,            /* known says how far it went */
};

/* What of the key is known. Rules are matched against that much. */
#define KNOWN_ADDRS 1
#define KNOWN_PROTO 2
#define KNOWN_PORTS 4
#define KNOWN_ALL 7

/* SYN asks for a connection, SYN+ACK answers. */
#define SYN_ASKS 1
#define SYN_ANSWERS 2

#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

struct packet {
	struct flow_key key;
	__u32 ip;                /* offset of the IP header */
	__u32 transport;         /* offset behind it, where known */
	__u32 fragment_id;
	__u8 known;
	__u8 fragment;
	__u8 tagged;             /* has a VLAN id */
	__u8 tags;               /* inline tags */
	__u8 dscp;
	__u8 ttl;
	__u8 options;            /* IPv4 options, or IPv6 extension headers */
	__u8 syn;                /* SYN_*, of TCP */
	__u8 inbound;            /* judge it as one that came in from elsewhere */
};

/* left is how much the IP header says there is: what lies behind it on the wire
 * is padding, and no receiver sees ports in it. */
static __always_inline int parse_transport(PARSE_CTX *ctx, __u32 off, __s32 left, struct packet *pkt)
{
	union {
		struct tcphdr tcp;
		struct udphdr udp;
		__u8 sctp[12];
	} h;

	pkt->transport = off;
	if (left < 0)
		return PARSED_BADLY;
	switch (pkt->key.proto) {
	case IPPROTO_TCP:
		if (left < (__s32)sizeof(h.tcp) || load_bytes(ctx, off, &h, sizeof(h.tcp)) < 0 || h.tcp.doff < 5)
			return PARSED_BADLY;
		if (h.tcp.syn)
			pkt->syn = h.tcp.ack ? SYN_ANSWERS : SYN_ASKS;
		break;
	case IPPROTO_UDP:
		if (left < (__s32)sizeof(h.udp) || load_bytes(ctx, off, &h, sizeof(h.udp)) < 0)
			return PARSED_BADLY;
		break;
	case IPPROTO_SCTP:
		if (left < (__s32)sizeof(h.sctp) || load_bytes(ctx, off, &h, sizeof(h.sctp)) < 0)
			return PARSED_BADLY;
		break;
	default:
		pkt->known |= KNOWN_PORTS; /* there are none */
		return pkt->fragment ? PARSED_FRAGMENT : PARSED;
	}
	/* All three begin with the ports. */
	pkt->key.sport = h.udp.source;
	pkt->key.dport = h.udp.dest;
	pkt->known |= KNOWN_PORTS;
	return pkt->fragment ? PARSED_FRAGMENT : PARSED;
}

/* A later fragment of TCP at 8 bytes exists only to overwrite a header that a
 * filter has seen (RFC 3128): the first one carries 20. */
static __always_inline int later_fragment(struct packet *pkt, __u32 units)
{
	pkt->fragment = FRAGMENT_LATER;
	if (pkt->key.proto == IPPROTO_TCP && units == 1)
		return PARSED_BADLY;
	return PARSED_FRAGMENT;
}

/* With a source route the destination is not the last one. Any byte that could
 * be such an option counts as one: walking the options by their lengths, which
 * the packet chooses, is more than the verifier follows, and packets with other
 * options are rare. */
__noinline int source_routed(PARSE_CTX *ctx, __u32 off, __u32 len)
{
	__u8 option;
	__u32 i;

	for (i = 0; i < MAX_IP_OPTIONS; i++) {
		if (i >= len)
			return 0;
		if (load_bytes(ctx, off + i, &option, 1) < 0)
			return 1; /* cut off */
		if (option == OPTION_LOOSE_ROUTE || option == OPTION_STRICT_ROUTE)
			return 1;
	}
	return 0;
}

static __always_inline int parse_ipv4(PARSE_CTX *ctx, __u32 off, __u32 total, struct packet *pkt)
{
	__u32 len, hdr, fragment;
	struct iphdr ip;

	if (load_bytes(ctx, off, &ip, sizeof(ip)) < 0)
		return PARSED_BADLY;
	if (ip.version != 4 || ip.ihl < 5)
		return PARSED_BADLY;
	hdr = ip.ihl * 4;
	if (hdr > sizeof(ip)) {
		pkt->options = 1;
		if (source_routed(ctx, off + sizeof(ip), hdr - sizeof(ip)))
			return PARSED_BADLY;
	}
	pkt->ip = off;
	pkt->key.family = 4;
	pkt->key.saddr[0] = ip.saddr;
	pkt->key.daddr[0] = ip.daddr;
	pkt->key.proto = ip.protocol;
	pkt->known = KNOWN_ADDRS | KNOWN_PROTO;
	pkt->dscp = ip.tos >> 2;
	pkt->ttl = ip.ttl;
	fragment = bpf_ntohs(ip.frag_off);
	if (fragment & (IP_MF | IP_OFFSET)) {
		pkt->fragment_id = ip.id;
		if (fragment & IP_OFFSET)
			return later_fragment(pkt, fragment & IP_OFFSET);
		pkt->fragment = FRAGMENT_FIRST;
	}
	len = bpf_ntohs(ip.tot_len);
	/* GRO leaves 0 in a packet of more than 64 KB (BIG TCP, kernel >= 6.3). */
	if (len == 0 && total > MAX_IP_LEN)
		len = total;
	return parse_transport(ctx, off + hdr, (__s32)len - (__s32)hdr, pkt);
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

static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_AH || next == IPPROTO_FRAGMENT || next == PROTO_MOBILITY ||
	       next == PROTO_HIP || next == PROTO_SHIM6;
}

static __always_inline int parse_ipv6(PARSE_CTX *ctx, __u32 off, __u32 total, struct packet *pkt)
{
	struct extension ext;
	struct fragment frag;
	struct ipv6hdr ip;
	__u32 end;
	__u8 next;
	int i;

	if (load_bytes(ctx, off, &ip, sizeof(ip)) < 0)
		return PARSED_BADLY;
	if (ip.version != 6)
		return PARSED_BADLY;
	pkt->ip = off;
	pkt->key.family = 6;
	__builtin_memcpy(pkt->key.saddr, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(pkt->key.daddr, &ip.daddr, sizeof(ip.daddr));
	pkt->known = KNOWN_ADDRS;
	pkt->dscp = (ip.priority << 4 | ip.flow_lbl[0] >> 4) >> 2;
	pkt->ttl = ip.hop_limit;
	next = ip.nexthdr;
	off += sizeof(ip);
	end = bpf_ntohs(ip.payload_len);
	/* As with IPv4, and jumbograms (RFC 2675). */
	if (end == 0 && total > MAX_IP_LEN)
		end = total;
	end += off;

	for (i = 0; i <= MAX_EXTENSIONS; i++) {
		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
		case IPPROTO_ROUTING:
		case PROTO_MOBILITY: /* these three: RFC 7045 */
		case PROTO_HIP:
		case PROTO_SHIM6:
			if (load_bytes(ctx, off, &ext, sizeof(ext)) < 0)
				return PARSED_BADLY;
			/* The destination is not the last one yet. */
			if (next == IPPROTO_ROUTING && ext.segments_left) {
				pkt->known = 0;
				return PARSED_BADLY;
			}
			next = ext.next;
			off += (ext.len + 1) * 8;
			break;
		case IPPROTO_AH:
			if (load_bytes(ctx, off, &ext, sizeof(ext)) < 0)
				return PARSED_BADLY;
			next = ext.next;
			off += (ext.len + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if (load_bytes(ctx, off, &frag, sizeof(frag)) < 0)
				return PARSED_BADLY;
			next = frag.next;
			off += sizeof(frag);
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (!(frag.offset & bpf_htons(IP6_OFFSET | IP6_MF)))
				break;
			if (pkt->fragment)
				return PARSED_BADLY; /* a fragment in a fragment */
			pkt->fragment_id = frag.id;
			if (frag.offset & bpf_htons(IP6_OFFSET)) {
				if (!is_extension(next)) {
					pkt->key.proto = next;
					pkt->known |= KNOWN_PROTO;
				}
				return later_fragment(pkt, bpf_ntohs(frag.offset) >> 3);
			}
			pkt->fragment = FRAGMENT_FIRST;
			break;
		default:
			pkt->key.proto = next;
			pkt->known |= KNOWN_PROTO;
			return parse_transport(ctx, off, (__s32)end - (__s32)off, pkt);
		}
		pkt->options = 1;
	}
	return PARSED_BADLY;
}

/* parse fills pkt, which must be zero. protocol is that of the byte at off,
 * total the whole packet's length. */
static __always_inline int parse(PARSE_CTX *ctx, __u32 off, __be16 protocol, __u32 total, struct packet *pkt)
{
	struct {
		__be16 tci;
		__be16 protocol;
	} tag;
	int i;

	for (i = 0; i <= MAX_TAGS; i++) {
		if (protocol == bpf_htons(ETH_P_IP))
			return parse_ipv4(ctx, off, total, pkt);
		if (protocol == bpf_htons(ETH_P_IPV6))
			return parse_ipv6(ctx, off, total, pkt);
		if (protocol == bpf_htons(ETH_P_QINQ1)) {
			/* No device of the host takes it, nor takes it off; but
			 * what it hides may be denied. */
			pkt->tagged = pkt->options = 1;
		} else if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD)) {
			return PARSED_NOT_IP;
		}
		if (load_bytes(ctx, off, &tag, sizeof(tag)) < 0)
			return PARSED_BADLY;
		if (tag.tci & bpf_htons(VLAN_VID))
			pkt->tagged = 1;
		pkt->tags++;
		protocol = tag.protocol;
		off += sizeof(tag);
	}
	return PARSED_BADLY; /* more tags than anybody nests */
}

/* fragment_key says which datagram a fragment belongs to. */
static __always_inline void fragment_key(const struct packet *pkt, struct flow_key *key)
{
	*key = pkt->key;
	key->sport = pkt->fragment_id & 0xffff;
	key->dport = pkt->fragment_id >> 16;
	/* In a first fragment the protocol comes behind other extension headers,
	 * in a later one it may be unknown; the id tells datagrams apart. */
	if (key->family == 6)
		key->proto = 0;
}

#endif
