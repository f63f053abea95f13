/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
#ifndef LANDBRIDGE_MAPS_H
#define LANDBRIDGE_MAPS_H

/* Set by the loader before the program is verified (kernel >= 5.2). */
volatile const __u32 capture_mark;
volatile const __u32 capture_mask;
/* Everything but the assignment; for BPF_PROG_TEST_RUN. */
volatile const __u32 rehearsal;

/* BPF_F_NO_PREALLOC is the only mode an LPM trie knows. max_entries is set by
 * the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix4);
	__type(value, enum action);
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix6);
	__type(value, enum action);
} prefixes6 SEC(".maps");

#define LISTENER4 0
#define LISTENER6 1

/* The transparent listeners. The kernel takes a socket out when it closes, so
 * a dead listener means "pass", never a dangling pointer. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICT_MAX);
	__type(key, __u32); /* enum verdict */
	__type(value, __u64);
} verdicts SEC(".maps");

#endif
