/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* What strangers may send, per /24 or /48: a token bucket, kept as the time at
 * which it will be full again. */
#ifndef LANDBRIDGE_RATE_H
#define LANDBRIDGE_RATE_H

volatile struct guard_settings guard_settings;

/* Full: the network that was silent longest begins with a full bucket again. An
 * attacker with more networks than this has that much rate anyway. */
#define MAX_BUCKETS 16384

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BUCKETS);
	__type(key, struct bucket_key);
	__type(value, __u64); /* full again at */
} buckets SEC(".maps");

static __always_inline int within_rate(__u32 family, const __u32 *addr, __u64 now)
{
	struct bucket_key key = {.family = family};
	__u64 *full, next, start = now;

	if (family == 4)
		__builtin_memcpy(key.net, addr, 3);
	else
		__builtin_memcpy(key.net, addr, 6);
	full = bpf_map_lookup_elem(&buckets, &key);
	if (full && *full > now)
		start = *full;
	next = start + guard_settings.interval;
	if (next - now > guard_settings.burst)
		return 0;
	if (full)
		*full = next; /* two CPUs at once: one packet for free */
	else
		bpf_map_update_elem(&buckets, &key, &next, BPF_ANY);
	return 1;
}

#endif
