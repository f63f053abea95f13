/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* What strangers may send, per /24 or /48 and all of them together: token
 * buckets, kept as the time at which they will be full again. */
#ifndef LANDBRIDGE_RATE_H
#define LANDBRIDGE_RATE_H

volatile struct guard_settings guard_settings;

/* Full: the network that was silent longest begins with a full bucket again. The
 * total bounds what an attacker with more networks than this gains by it. */
#define MAX_BUCKETS 16384

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BUCKETS);
	__type(key, struct bucket_key);
	__type(value, __u64); /* full again at */
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TOTAL_MAX);
	__type(key, __u32); /* enum total */
	__type(value, __u64); /* full again at */
} totals SEC(".maps");

/* credit returns when a bucket will be full again after this packet, 0 if it has
 * too little. */
static __always_inline __u64 credit(__u64 full, __u64 now, __u64 interval, __u64 burst)
{
	__u64 next = (full > now ? full : now) + interval;

	return next - now > burst ? 0 : next;
}

#define RATE_WITHIN 0
#define RATE_OVER 1
#define RATE_OVER_TOTAL 2

/* A packet takes from both buckets or from none: what one network sends too much
 * costs the others nothing, and a flood of many networks fills no table. Two
 * CPUs at once: one packet for free. */
static __always_inline int rate(__u32 family, const __u32 *addr, __u32 what, __u64 now)
{
	struct bucket_key key = {.family = family};
	__u64 *full, *total, next, all;

	total = bpf_map_lookup_elem(&totals, &what);
	if (!total)
		return RATE_OVER_TOTAL;
	all = credit(*total, now, guard_settings.total_interval, guard_settings.total_burst);
	if (!all)
		return RATE_OVER_TOTAL;
	if (family == 4)
		__builtin_memcpy(key.net, addr, 3);
	else
		__builtin_memcpy(key.net, addr, 6);
	full = bpf_map_lookup_elem(&buckets, &key);
	next = credit(full ? *full : 0, now, guard_settings.interval, guard_settings.burst);
	if (!next)
		return RATE_OVER;
	*total = all;
	if (full)
		*full = next;
	else
		bpf_map_update_elem(&buckets, &key, &next, BPF_ANY);
	return RATE_WITHIN;
}

#endif
