package pathsel

import (
	"fmt"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// MaxPaths bounds the paths of a table: those a fleet document allows a bond.
const MaxPaths = 64

// Table keeps the paths between this node and one peer. Use [NewTable]. Not safe for concurrent use.
type Table struct {
	interval time.Duration
	tracks   []*track
	byID     [256]*track
	advanced time.Duration // when Advance was called last
}

// NewTable makes a table whose paths are probed at this interval when nothing is wrong; 0 is stamp.DefaultInterval.
func NewTable(interval time.Duration) *Table {
	if interval <= 0 {
		interval = stamp.DefaultInterval
	}
	return &Table{interval: interval}
}

// Add adds a path, which is down until its first reply. Its name is what people know it by.
func (t *Table) Add(now time.Duration, id uint8, name string) error {
	switch {
	case t.byID[id] != nil:
		return fmt.Errorf("path id %d of %s is that of %s already", id, name, t.byID[id].name)
	case len(t.tracks) == MaxPaths:
		return fmt.Errorf("path %s: %d paths are the limit", name, MaxPaths)
	}
	tr := &track{id: id, name: name, interval: t.interval, since: now, why: "no reply yet", boostSince: now, askLeft: askBudget, tuned: -1}
	for i := range tr.dir {
		tr.dir[i].selfSeen, tr.dir[i].selfLeft = now, fillFirst
	}
	t.tracks = append(t.tracks, tr)
	t.byID[id] = tr
	return nil
}

// Remove forgets a path.
func (t *Table) Remove(id uint8) {
	for i, tr := range t.tracks {
		if tr.id == id {
			t.tracks = append(t.tracks[:i], t.tracks[i+1:]...)
		}
	}
	t.byID[id] = nil
}

// ProbeSent notes that a probe left on a path. Events of unknown paths are ignored, here and below: they may be under way
// while a path is removed.
func (t *Table) ProbeSent(now time.Duration, id uint8) {
	if tr := t.byID[id]; tr != nil {
		tr.probeSent(now)
	}
}

// Probe takes what a stamp.Sender has learned.
func (t *Table) Probe(ev *stamp.Event) {
	tr := t.byID[ev.Path]
	switch {
	case tr == nil:
	case ev.Kind == stamp.EventReply:
		tr.reply(ev.At, ev.Sent, ev.RTT, ev.Out, ev.Back)
	case ev.Kind == stamp.EventFate:
		tr.fate(ev.At, ev.OutLost, ev.BackLost, ev.Answered)
	}
}

// Traffic takes the bond's own counts of a path since the last call: of packets sent, what the peer's reports say, and
// of packets received, the gaps.
func (t *Table) Traffic(now time.Duration, id uint8, way Way, c Counts) {
	if tr := t.byID[id]; tr != nil && way <= Back && c.Packets > 0 && c.Lost >= 0 && c.Lost <= c.Packets {
		tr.dir[way].traffic(now, c)
	}
}

// capacityFor is how long a capacity is believed that traffic has shown; then the path must prove itself anew.
const capacityFor = 10 * time.Minute

// Delivered takes the bond's figures of a path: bits a second that arrived at the peer lately, and what its rate
// controller takes for the path's capacity. That says something of the path only if it held the sender up: proven. Where
// there was too little to send, the controller knows that little alone.
func (t *Table) Delivered(now time.Duration, id uint8, rateBitsPerSec, capacityBitsPerSec int64, proven bool) {
	tr := t.byID[id]
	if tr == nil {
		return
	}
	tr.rate = rateBitsPerSec
	switch {
	case proven:
		tr.capacity, tr.capacityAt = capacityBitsPerSec, now
	case now-tr.capacityAt > capacityFor:
		tr.capacity = 0
	}
}

// Self is what the bond itself does to a direction of a path.
type Self struct {
	// Filling: the sender looks for the path's rate, or drains what that left.
	Filling bool
	// Loading: it sends enough to make a queue.
	Loading bool
	// Queue is the one that the sender sees it has; 0: none, or not known, as on the way back.
	Queue time.Duration
}

// Self takes that; call it every 100 ms. What is sent before filling ends still meets the queue, a round trip long. Until
// then, and while there is a queue under the bond's own load, delay and loss of that direction count for nothing, within a
// budget: all paths are filled in turn, and who moved for it would move back.
func (t *Table) Self(now time.Duration, id uint8, way Way, s Self) {
	if tr := t.byID[id]; tr != nil && way <= Back {
		tr.dir[way].load(now, way, s, tr.expected())
	}
}

// standstill is for how long Advance was not called if the whole process stood still. The answers to what it had sent
// before came meanwhile, and some are too late to count.
const standstill = time.Second

// Advance moves the states of all paths on. Call it after events and at least every 20 ms; it reports whether a state
// changed.
func (t *Table) Advance(now time.Duration) (changed bool) {
	stood := t.advanced > 0 && now-t.advanced > standstill
	t.advanced = now
	for _, tr := range t.tracks {
		if stood {
			tr.sentN = 0
		}
		was := tr.state
		tr.advance(now)
		changed = changed || tr.state != was
	}
	return changed
}

// Use says whether flows that mind depend on a path now: only such a path is worth more probes.
func (t *Table) Use(id uint8, used bool) {
	if tr := t.byID[id]; tr != nil {
		tr.used = used
	}
}

// Interval is how often a path should be probed now: more often where flows depend on it, or replies are late.
func (t *Table) Interval(id uint8) time.Duration {
	switch tr := t.byID[id]; {
	case tr == nil:
	case t.advanced < tr.askUntil:
		return askInterval
	case tr.used:
		return t.interval * 3 / 5
	}
	return t.interval
}

// Boost says until when a path should be probed at stamp.BoostInterval; the past for not at all.
func (t *Table) Boost(id uint8) time.Duration {
	if tr := t.byID[id]; tr != nil {
		return tr.boost
	}
	return 0
}

// States appends a snapshot of all paths to dst, in the order they were added.
func (t *Table) States(now time.Duration, dst []PathState) []PathState {
	offset := t.clockOffset(now)
	for _, tr := range t.tracks {
		dst = append(dst, PathState{
			ID: tr.id, Name: tr.name, State: tr.state, Since: tr.since, Heard: tr.heard, Why: tr.why, Overdue: tr.overdue,
			RTT:            tr.roundTrip(),
			Out:            tr.dir[Out].figures(now, -offset),
			Back:           tr.dir[Back].figures(now, offset),
			RateBitsPerSec: tr.rate, CapacityBitsPerSec: tr.capacity,
		})
	}
	return dst
}

// clockOffset is the peer's clock less ours, taken such that the path with the least round trip is symmetrical. It also
// notes the least delay of each direction, which the rest of a snapshot needs.
func (t *Table) clockOffset(now time.Duration) (offset time.Duration) {
	least := noDelay
	for _, tr := range t.tracks {
		for i := range tr.dir {
			d := &tr.dir[i]
			if d.least = d.loss.minDelay(now); d.least == noDelay {
				d.least = d.delay.quantile(0) // of longer ago, 0 for never
			}
		}
		out, back := tr.dir[Out].least, tr.dir[Back].least
		if tr.spoke && out+back < least {
			least, offset = out+back, (out-back)/2
		}
	}
	return offset
}

// roundTrip has as its minimum the sum of both directions', which no probe need have had at once.
func (t *track) roundTrip() Delay {
	d := delayOf(&t.rtt, t.dir[Out].least+t.dir[Back].least, 0)
	d.Jitter = time.Duration(t.dir[Out].jitter + t.dir[Back].jitter)
	return d
}

func delayOf(w *delayWindow, least, shift time.Duration) Delay {
	if w.n == 0 {
		return Delay{}
	}
	d := Delay{Min: least + shift, Median: w.quantile(0.5) + shift, P95: w.quantile(0.95) + shift}
	if recent, ok := w.recentMedian(); ok {
		d.Recent = recent + shift
	} else {
		d.Recent = d.Median
	}
	return d
}

func (d *direction) figures(now time.Duration, shift time.Duration) Direction {
	c := d.loss.counts(now, lossSeconds)
	f := Direction{Packets: c.Packets, Delay: delayOf(&d.delay, d.least, shift), Filling: d.self.Filling, Queue: d.self.Queue}
	f.Delay.Jitter = time.Duration(d.jitter)
	if c.Packets > 0 {
		f.Loss = float64(c.Lost) / float64(c.Packets)
	}
	if c.Bursts > 0 {
		// Of the Gilbert model: the mean stay in the lossy state is a burst, and loss = enter / (enter + leave).
		f.Burst = float64(max(c.Lost, c.Bursts)) / float64(c.Bursts)
		f.BurstLeave = 1 / f.Burst
		if f.Loss < 1 {
			f.BurstEnter = min(f.Loss*f.BurstLeave/(1-f.Loss), 1)
		} else {
			f.BurstEnter = 1
		}
	}
	f.Now = f.Loss
	if d.lossTest.alarm {
		f.Now = max(f.Loss, d.lossTest.level())
	}
	return f
}
