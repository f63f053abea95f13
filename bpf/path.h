/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Is a path alive, and which one is next? */
#ifndef LANDBRIDGE_PATH_H
#define LANDBRIDGE_PATH_H

static __always_inline int younger(__u64 now, __u64 then, __u64 max_age)
{
	/* Another CPU may have written a later time than our now. */
	return then && (then > now || now - then <= max_age);
}

/* later is the later of two times. */
static __always_inline __u64 later(__u64 a, __u64 b)
{
	return a > b ? a : b;
}

/* heard is when the path gave its last sign of life. The peer's own probes count
 * where our own are seen to go out: unanswered, they would be missed. */
static __always_inline __u64 heard(const struct live *l)
{
	return l->sent ? later(l->reply, l->request) : l->reply;
}

/* unanswered says that probes are lost on the way there or back, although the
 * peer's own may come in. Where we have stopped asking (user space stands
 * still), nothing is missed. */
static __always_inline int unanswered(const struct path *p, const struct live *l, __u64 now)
{
	return p->due && l->missed && now > l->missed && now - l->missed > p->due && younger(now, l->sent, p->max_age);
}

/* alive says whether anything was heard of the path of late. */
static __always_inline int alive(const struct path *p, const struct live *l, __u64 now)
{
	return !p->max_age || (younger(now, heard(l), p->max_age) && !unanswered(p, l, now));
}

/* may_stay is for a flow that is on the path already. */
static __always_inline int may_stay(__u16 path, __u32 class, __u64 now)
{
	__u32 id = path;
	struct path *p;
	struct live *l;

	if (!id)
		return 0;
	p = bpf_map_lookup_elem(&paths, &id);
	l = bpf_map_lookup_elem(&live, &id);
	return p && l && p->state == PATH_UP && (p->keep & (1 << (class & 7))) && alive(p, l, now);
}

/* The worth of a path to a new flow, where it is not the first that is up and
 * not quiet; within one of the last two, the one heard last is worth more. */
#define WORTH_SUSPECT (3ULL << 62)       /* suspect, and heard: the first of them */
#define WORTH_QUIET (2ULL << 62)         /* up, and silent for longer than is usual */
#define WORTH_QUIET_SUSPECT (1ULL << 62)

/* pick returns the first candidate that is alive, 0 if there is none. One that
 * is quiet is none while another is heard: then it is the path and not the peer
 * that is silent. Where all are, somebody stands still, and the one that was
 * heard last is as good as any. A suspect one only where no other is heard. */
__noinline __u32 pick(__u32 group, __u32 class, __u64 now)
{
	__u32 key = group * CLASS_MAX + class, second = 0;
	struct candidates *c;
	__u64 best = 0;
	int i;

	c = bpf_map_lookup_elem(&candidates, &key);
	if (!c)
		return 0;
	for (i = 0; i < MAX_CANDIDATES; i++) {
		__u32 id = c->path[i];
		struct path *p;
		struct live *l;
		__u64 worth;

		if (!id)
			break;
		p = bpf_map_lookup_elem(&paths, &id);
		l = bpf_map_lookup_elem(&live, &id);
		if (!p || !l || p->state == PATH_DOWN || !alive(p, l, now))
			continue;
		if (!p->quiet || younger(now, heard(l), p->quiet)) {
			if (p->state == PATH_UP)
				return id;
			worth = WORTH_SUSPECT;
		} else {
			worth = (p->state == PATH_UP ? WORTH_QUIET : WORTH_QUIET_SUSPECT) | (heard(l) >> 2);
		}
		if (worth > best) {
			best = worth;
			second = id;
		}
	}
	return second;
}

#endif
