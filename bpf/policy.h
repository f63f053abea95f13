/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Tenants and rules, as user space has compiled them (policy_linux.go says
 * how). Two generations have room side by side; a packet reads the generation
 * once and keeps to it, so that it sees the old rules or the new ones. */
#ifndef LANDBRIDGE_POLICY_H
#define LANDBRIDGE_POLICY_H

/* Bounds of the loops; user space refuses rules that need more. */
#define MAX_SEARCH 16   /* steps, so 2^16 - 1 intervals a destination prefix */
#define MAX_CHAIN 16    /* outcomes by DSCP */

#define DSCP_ALL (~0ULL)

volatile __u32 generation;
volatile struct policy policies[2];

/* Tries are built aside and put into their slot whole: that swap waits until no
 * packet sees the old one any more. */
#define SLOTS(name, key_type, value_type) \
struct { \
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
	__uint(max_entries, 2); \
	__type(key, __u32); \
	__array(values, struct { \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, 1); \
		__type(key, key_type); \
		__type(value, value_type); \
	}); \
} name SEC(".maps")

SLOTS(tenants4, struct prefix4, struct tenant);
SLOTS(tenants6, struct prefix6, struct tenant);
SLOTS(rules4, struct set_prefix4, struct node);
SLOTS(rules6, struct set_prefix6, struct node);

/* Both generations, each in its half: nodes and intervals hold absolute
 * numbers. max_entries is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct interval);
} intervals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct outcome);
} outcomes SEC(".maps");

/* Keep the types in the BTF: the inner maps alone only point to them. */
volatile const struct prefix4 prefix4_type;
volatile const struct prefix6 prefix6_type;
volatile const struct tenant tenant_type;
volatile const struct node node_type;
volatile const struct set_prefix4 set_prefix4_type;
volatile const struct set_prefix6 set_prefix6_type;

struct decision {
	__u32 tenant;
	__u32 rule;
	__u16 group;
	__u8 action;
	__u8 class;
	__u8 known;              /* 0: the rules could not be asked */
};

static __always_inline struct tenant *lookup_tenant(const struct flow_key *k, __u32 slot)
{
	void *trie;

	if (k->family == 6) {
		struct prefix6 key = {.bits = 128};

		__builtin_memcpy(key.addr, k->saddr, sizeof(key.addr));
		trie = bpf_map_lookup_elem(&tenants6, &slot);
		return trie ? bpf_map_lookup_elem(trie, &key) : NULL;
	} else {
		struct prefix4 key = {.bits = 32};

		__builtin_memcpy(key.addr, k->saddr, sizeof(key.addr));
		trie = bpf_map_lookup_elem(&tenants4, &slot);
		return trie ? bpf_map_lookup_elem(trie, &key) : NULL;
	}
}

static __always_inline struct node *lookup_node(const struct flow_key *k, __u32 slot, __u32 set)
{
	void *trie;

	if (k->family == 6) {
		struct set_prefix6 key = {.bits = 32 + 128, .set = set};

		__builtin_memcpy(key.addr, k->daddr, sizeof(key.addr));
		trie = bpf_map_lookup_elem(&rules6, &slot);
		return trie ? bpf_map_lookup_elem(trie, &key) : NULL;
	} else {
		struct set_prefix4 key = {.bits = 32 + 32, .set = set};

		__builtin_memcpy(key.addr, k->daddr, sizeof(key.addr));
		trie = bpf_map_lookup_elem(&rules4, &slot);
		return trie ? bpf_map_lookup_elem(trie, &key) : NULL;
	}
}

/* The last interval that begins at or before point. */
static __always_inline struct interval *lookup_interval(const struct node *n, __u32 point)
{
	__u32 low = n->first, high = n->first + n->count;
	int i;

	for (i = 0; i < MAX_SEARCH; i++) {
		__u32 mid = (low + high) / 2;
		struct interval *iv;

		if (high - low <= 1)
			break;
		iv = bpf_map_lookup_elem(&intervals, &mid);
		if (!iv)
			return NULL;
		if (iv->from <= point)
			low = mid;
		else
			high = mid;
	}
	return bpf_map_lookup_elem(&intervals, &low);
}

static __always_inline __u32 denies_bit(const struct packet *pkt)
{
	if (!(pkt->known & KNOWN_PROTO))
		return DENIES_ANY;
	if (pkt->key.proto == IPPROTO_TCP)
		return DENIES_TCP;
	if (pkt->key.proto == IPPROTO_UDP)
		return DENIES_UDP;
	return DENIES_OTHER;
}

/* decide asks the rules. Of a packet that is not fully understood it assumes
 * that a deny rule means it, and that no other rule does. */
__noinline int decide(const struct packet *pkt, __u32 slot, struct decision *d)
{
	struct tenant *t = NULL;
	struct interval *iv;
	struct outcome *o;
	struct node *n;
	__u32 point, at;
	int i;

	if (!pkt || !d)
		return 0;
	slot &= 1;
	d->action = RULE_LEAVE;
	d->known = 0;
	if (!(pkt->known & KNOWN_ADDRS)) {
		if (policies[slot].denies)
			d->action = RULE_DENY;
		return 0;
	}
	t = lookup_tenant(&pkt->key, slot);
	if (!t || t->inbound != pkt->inbound)
		t = (struct tenant *)&policies[slot].stranger;
	d->tenant = t->id;
	d->action = t->fallback;
	d->class = t->class;
	d->group = t->group;
	d->rule = 0;
	n = lookup_node(&pkt->key, slot, t->set);
	if (!n) {
		d->known = 1;
		return 0;
	}
	if (!(pkt->known & KNOWN_PORTS)) {
		if (n->denies & denies_bit(pkt))
			d->action = RULE_DENY;
		return 0;
	}
	d->known = 1;
	point = (__u32)pkt->key.proto << 16 | bpf_ntohs(pkt->key.dport);
	iv = lookup_interval(n, point);
	if (!iv)
		goto broken;
	at = iv->outcome;
	for (i = 0; i < MAX_CHAIN; i++) {
		o = bpf_map_lookup_elem(&outcomes, &at);
		if (!o)
			goto broken;
		if (!(o->dscp & (1ULL << (pkt->dscp & 63)))) {
			at++;
			continue;
		}
		if (o->action == RULE_DEFAULT)
			return 0;
		d->rule = o->rule;
		d->action = o->action;
		if (o->group)
			d->group = o->group;
		if (o->class)
			d->class = o->class;
		return 0;
	}
broken:
	/* User space does not write such tables. */
	if (n->denies)
		d->action = RULE_DENY;
	return 0;
}

#endif
