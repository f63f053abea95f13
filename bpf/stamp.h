/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* STAMP on the wire (RFC 8762, RFC 8972), and where in a frame it is. */
#ifndef LANDBRIDGE_STAMP_H
#define LANDBRIDGE_STAMP_H

#define STAMP_LEN 44
#define PROBE_LEN 64             /* with our TLV */
/* Longer packets are left to a reflector in user space: the checksum loop has to
 * end somewhere. */
#define MAX_PROBE_LEN 128
#define TLV_TYPE 252             /* private use, RFC 8972 section 5.1 */
#define TLV_LEN 16
#define TLV_UNRECOGNIZED 0x80    /* the U flag: set by the sender, cleared by who knows the TLV */
#define ASKING 0
#define ANSWERING 1
#define NTP_EPOCH 2208988800ULL  /* 1970 in seconds since 1900 */
/* Not synchronised, NTP format, about a millisecond: 1 * 2^-32 * 2^22 s. */
#define ERROR_ESTIMATE 0x1601
#define PROBE_TTL 255

#define IP_FRAGMENT 0x3fff

/* RFC 8762, sections 4.2.1 and 4.3.1: the sender fills the first four fields,
 * the reflector all. */
struct probe {
	__be32 sequence;
	__be32 seconds;
	__be32 fraction;
	__be16 error;
	__be16 ssid;
	__be32 rx_seconds;
	__be32 rx_fraction;
	__be32 sender_sequence;
	__be32 sender_seconds;
	__be32 sender_fraction;
	__be16 sender_error;
	__be16 zero;
	__u8 sender_ttl;
	__u8 zeros[3];
	/* ours */
	__u8 flags;
	__u8 type;
	__be16 len;
	__be32 session;
	__be32 direction;
	__be32 tag[2];
};

union probe_words {
	struct probe p;
	struct tagged tagged;
	__u64 word[PROBE_LEN / 8];
};

/* The compiler knows that a bound has been checked already; the verifier does
 * not. This makes the compiler forget. */
#define opaque(p) asm volatile("" : "+r"(p))

/* What the compiler thinks unaligned it copies byte by byte. */
#define aligned(p) __builtin_assume_aligned(p, 4)

/* Where everything is. Without VLAN tags (the tagged device is the carrier's
 * NIC then), IPv4 options and IPv6 extension headers, which probes do not have. */
struct where {
	__u32 family;
	__u32 l3;
	__u32 l4;
	__u32 len;               /* of the payload */
	__u8 ttl;
	__u32 source[4];
};

/* PROBE_MAX if all is well. The lengths have to agree; behind them there may be
 * Ethernet's padding. */
static __always_inline int locate(struct xdp_md *ctx, __u32 family, struct where *w)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp;
	__u32 room, len;

	w->l3 = ETH_HLEN;
	if (family == 4) {
		struct iphdr *ip = data + ETH_HLEN;

		if (data + ETH_HLEN + sizeof(*ip) + sizeof(*udp) + STAMP_LEN > end)
			return PROBE_MALFORMED;
		w->family = 4;
		w->l4 = ETH_HLEN + sizeof(*ip);
		w->ttl = ip->ttl;
		w->source[0] = ip->saddr;
		room = bpf_ntohs(ip->tot_len) - sizeof(*ip);
	} else {
		struct ipv6hdr *ip = data + ETH_HLEN;

		if (data + ETH_HLEN + sizeof(*ip) + sizeof(*udp) + STAMP_LEN > end)
			return PROBE_MALFORMED;
		w->family = 6;
		w->l4 = ETH_HLEN + sizeof(*ip);
		w->ttl = ip->hop_limit;
		__builtin_memcpy(w->source, &ip->saddr, sizeof(w->source));
		room = bpf_ntohs(ip->payload_len);
	}
	udp = data + w->l4;
	if ((void *)(udp + 1) > end)
		return PROBE_MALFORMED;
	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) + STAMP_LEN || len > room || len > sizeof(*udp) + MAX_PROBE_LEN)
		return PROBE_MALFORMED;
	w->len = len - sizeof(*udp);
	return PROBE_MAX;
}

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum over the pseudo header, in the upper half, and that with header and
 * payload. 0 if the packet is cut off: there is a protocol number in every sum.
 * A global function: the verifier walks the loop once. */
__noinline __u64 sum_udp(struct xdp_md *ctx, __u32 family, __u32 payload)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 addrs = 16, i, len = payload + sizeof(struct udphdr), pseudo;
	__u16 *p = data + ETH_HLEN + offsetof(struct ipv6hdr, saddr);
	__u64 sum = bpf_htons(IPPROTO_UDP) + bpf_htons(len);

	if (family == 4) {
		addrs = 4;
		p = data + ETH_HLEN + offsetof(struct iphdr, saddr);
	}
	opaque(p);
	if ((void *)p + 32 > end)
		return 0;
	for (i = 0; i < addrs; i++)
		sum += p[i];
	pseudo = fold(sum);
	p += addrs;
	for (i = 0; i < (MAX_PROBE_LEN + sizeof(struct udphdr)) / 2; i++) {
		if (i * 2 + 1 >= len)
			break;
		if ((void *)(p + 1) > end)
			return 0;
		sum += *p++;
	}
	if (len & 1) {
		if ((void *)p + 1 > end)
			return 0;
		sum += *(__u8 *)p;
	}
	return (__u64)pseudo << 32 | fold(sum);
}

#endif
