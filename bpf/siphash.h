/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* SipHash-2-4 (Aumasson, Bernstein) of the part of a probe that its tag covers. */
#ifndef LANDBRIDGE_SIPHASH_H
#define LANDBRIDGE_SIPHASH_H

#define TAGGED_WORDS 7

struct tagged {
	__u64 word[TAGGED_WORDS];
};

struct tag_key {
	__u64 word[2];
};

#define ROTL(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define SIP_ROUND do { \
	v0 += v1; v1 = ROTL(v1, 13); v1 ^= v0; v0 = ROTL(v0, 32); \
	v2 += v3; v3 = ROTL(v3, 16); v3 ^= v2; \
	v0 += v3; v3 = ROTL(v3, 21); v3 ^= v0; \
	v2 += v1; v1 = ROTL(v1, 17); v1 ^= v2; v2 = ROTL(v2, 32); \
} while (0)

__noinline __u64 siphash(const struct tagged *m, const struct tag_key *key)
{
	__u64 v0, v1, v2, v3, last = (__u64)sizeof(*m) << 56;
	int i;

	if (!m || !key)
		return 0;
	v0 = key->word[0] ^ 0x736f6d6570736575ULL;
	v1 = key->word[1] ^ 0x646f72616e646f6dULL;
	v2 = key->word[0] ^ 0x6c7967656e657261ULL;
	v3 = key->word[1] ^ 0x7465646279746573ULL;
	for (i = 0; i < TAGGED_WORDS; i++) {
		v3 ^= m->word[i];
		SIP_ROUND;
		SIP_ROUND;
		v0 ^= m->word[i];
	}
	v3 ^= last;
	SIP_ROUND;
	SIP_ROUND;
	v0 ^= last;
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}

#endif
