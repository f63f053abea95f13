package tunnel

import "sync/atomic"

// budget counts the receive windows promised to peers: the most that peers can make this node hold unread.
type budget struct {
	limit int64
	taken atomic.Int64
}

// take reserves at most want bytes, and at most a quarter of what is left so that later lanes get theirs, but always
// at least least: a lane without a window would not work at all.
func (b *budget) take(least, want int64) int64 {
	for {
		old := b.taken.Load()
		n := max(least, min(want, (b.limit-old)/4))
		if b.taken.CompareAndSwap(old, old+n) {
			return n
		}
	}
}

// more reserves n more bytes if they are left.
func (b *budget) more(n int64) bool {
	if b.taken.Add(n) > b.limit {
		b.taken.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.taken.Add(-n) }
