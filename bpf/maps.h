/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* The live path table, shared by all programs: the loader hands each of them
 * the same maps. Arrays, whose lookups the JIT inlines. */
#ifndef LANDBRIDGE_MAPS_H
#define LANDBRIDGE_MAPS_H

#define MAX_PATHS 1024
#define MAX_GROUPS 256

/* Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PATHS);
	__type(key, __u32);
	__type(value, struct path);
} paths SEC(".maps");

/* Written by the probes as they pass, so that a path's age is right while user
 * space stands still. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PATHS);
	__type(key, __u32);
	__type(value, struct live);
} live SEC(".maps");

#endif
