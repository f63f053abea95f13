/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Is a path alive, and which one is next? */
#ifndef LANDBRIDGE_PATH_H
#define LANDBRIDGE_PATH_H

static __always_inline int younger(__u64 now, __u64 then, __u64 max_age)
{
	/* Another CPU may have written a later time than our now. */
	return then && (then > now || now - then <= max_age);
}

/* alive says whether probes have been answered of late. Where we have stopped
 * asking (user space stands still), the peer's own probes stand in: they prove
 * one direction only, which is better than refusing every path. */
static __always_inline int alive(const struct path *p, __u32 id, __u64 now)
{
	struct live *l;

	if (!p->max_age)
		return 1;
	l = bpf_map_lookup_elem(&live, &id);
	if (!l)
		return 0;
	if (younger(now, l->reply, p->max_age))
		return 1;
	return l->sent && !younger(now, l->sent, p->max_age) && younger(now, l->request, p->max_age);
}

/* may_stay is for a flow that is on the path already. */
static __always_inline int may_stay(__u16 path, __u32 class, __u64 now)
{
	__u32 id = path;
	struct path *p;

	if (!id)
		return 0;
	p = bpf_map_lookup_elem(&paths, &id);
	return p && p->state == PATH_UP && (p->keep & (1 << (class & 7))) && alive(p, id, now);
}

/* pick returns the first candidate that is alive; a suspect one only where all
 * others are dead; 0 if there is none. */
__noinline __u32 pick(__u32 group, __u32 class, __u64 now)
{
	__u32 key = group * CLASS_MAX + class, second = 0;
	struct candidates *c;
	int i;

	c = bpf_map_lookup_elem(&candidates, &key);
	if (!c)
		return 0;
	for (i = 0; i < MAX_CANDIDATES; i++) {
		__u32 id = c->path[i];
		struct path *p;

		if (!id)
			break;
		p = bpf_map_lookup_elem(&paths, &id);
		if (!p || p->state == PATH_DOWN || !alive(p, id, now))
			continue;
		if (p->state == PATH_UP)
			return id;
		if (!second)
			second = id;
	}
	return second;
}

#endif
