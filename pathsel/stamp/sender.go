package stamp

import (
	"fmt"
	"time"
)

const (
	// DefaultInterval is 20 probes a second: 17 kbit/s a path with all headers.
	DefaultInterval = 50 * time.Millisecond
	// BoostInterval is the pace at which a path is looked at more closely (Sender.Boost).
	BoostInterval = 2500 * time.Microsecond
	minInterval   = BoostInterval
	maxInterval   = 10 * time.Second
	// lossTimeout is when a probe without reply is lost though nothing came after it: beyond any usable round trip.
	lossTimeout = 2 * time.Second
	// reorderWait is how long a probe is waited for after a later one was answered. Carriers reorder by less.
	reorderWait = 25 * time.Millisecond
	// ringSize bounds the probes of a path in flight: lossTimeout at BoostInterval, and a power of two.
	ringSize = 1024
	// maxDebt bounds how far the counts of reordered replies may be off before the reflector is taken for a new one.
	maxDebt = 64
)

// EventKind says what an Event tells.
type EventKind uint8

const (
	// EventReply is a reply, as soon as it is there.
	EventReply EventKind = iota + 1
	// EventFate is what became of a stretch of probes, in the order they were sent: OutLost did not arrive at the
	// reflector, then BackLost were answered and their replies lost, then Answered came back.
	EventFate
)

// Event is what a Sender learns about a path.
type Event struct {
	Kind EventKind
	Path uint8
	At   time.Duration

	// EventReply. Out and Back hold the unknown difference between the two clocks, with opposite signs.
	Sent           time.Duration
	RTT, Out, Back time.Duration
	TTL            uint8
	Late           bool // already counted as lost

	// EventFate.
	OutLost, BackLost, Answered int
}

// SenderStats count datagrams since the start.
type SenderStats struct {
	Sent, Answered   uint64
	Late             uint64 // replies to probes already given up
	Duplicate        uint64
	Unmatched        uint64 // replies to nothing that was sent
	Malformed        uint64
	Forged           uint64 // wrong tag or unknown key
	ReflectorRestart uint64 // reply counters that cannot be the old ones
}

// Sender is a session-sender for the paths of one node. Use [NewSender]. Not safe for concurrent use.
//
// The owner asks Next when it is due, calls Due until it has nothing more, gives every reply to Receive (datagrams) or
// Reply (from the kernel), and calls Expire with each Due.
type Sender struct {
	interval time.Duration
	paths    [256]*senderPath
	ids      []uint8
	keys     map[uint32]*Key
	stats    SenderStats
}

type senderPath struct {
	id         uint8
	key        *Key
	interval   time.Duration
	due        time.Duration
	boostUntil time.Duration

	ring [ringSize]flying
	base uint32 // the oldest whose fate is open
	next uint32 // sequence number of the next

	// laterAt is when the first reply came in that is ahead of base; 0 for none.
	laterAt time.Duration
	// gap counts the probes before base given up since the last answered one; their direction is known from the
	// next reply's count.
	gap     int
	counted bool   // maxCount holds
	count   uint32 // of the answered probe before the gap, or the highest
	debt    int    // probes the counts say were lost on the way out, and not yet reported
}

type flying struct {
	sent     time.Duration
	count    uint32
	answered bool
}

// NewSender makes a sender without paths. Interval 0 is DefaultInterval; others are held to 2.5 ms to 10 s.
func NewSender(interval time.Duration) *Sender {
	if interval == 0 {
		interval = DefaultInterval
	}
	return &Sender{interval: min(max(interval, minInterval), maxInterval), keys: make(map[uint32]*Key)}
}

// AddPath probes one more path, from now on. With key nil its probes are RFC 8762's alone and any reply is believed. A
// path with the same id is replaced. Several paths may share a key.
func (s *Sender) AddPath(now time.Duration, id uint8, key *Key) {
	if s.paths[id] == nil {
		s.ids = append(s.ids, id)
	}
	// Paths take turns within an interval, so that no NIC and no peer sees bursts.
	phase := s.interval * time.Duration(len(s.ids)-1) / time.Duration(len(s.ids))
	s.paths[id] = &senderPath{id: id, key: key, interval: s.interval, due: now + phase}
	if key != nil {
		s.keys[key.ID] = key
	}
}

// RemovePath forgets a path.
func (s *Sender) RemovePath(id uint8) {
	s.paths[id] = nil
	for i, have := range s.ids {
		if have == id {
			s.ids = append(s.ids[:i], s.ids[i+1:]...)
			break
		}
	}
	clear(s.keys)
	for _, id := range s.ids {
		if k := s.paths[id].key; k != nil {
			s.keys[k.ID] = k
		}
	}
}

// Pace changes the interval between a path's probes, within the same limits; 0 is the sender's.
func (s *Sender) Pace(now time.Duration, id uint8, interval time.Duration) {
	p := s.paths[id]
	if p == nil {
		return
	}
	if p.interval = s.interval; interval != 0 {
		p.interval = min(max(interval, minInterval), maxInterval)
	}
	p.due = min(p.due, now+p.interval)
}

// Boost probes a path every 2.5 ms until then. A path whose figures look wrong is decided upon as much faster.
func (s *Sender) Boost(now time.Duration, id uint8, until time.Duration) {
	p := s.paths[id]
	if p == nil {
		return
	}
	if p.boostUntil = until; until > now {
		p.due = min(p.due, now+BoostInterval)
	}
}

// Stats returns the counters.
func (s *Sender) Stats() SenderStats { return s.stats }

// Next returns when the next probe is due.
func (s *Sender) Next() (time.Duration, bool) {
	var due time.Duration
	for i, id := range s.ids {
		if p := s.paths[id]; i == 0 || p.due < due {
			due = p.due
		}
	}
	return due, len(s.ids) > 0
}

// Due appends the next probe that is due to dst and says on which path it leaves. Probes missed while nobody asked
// are not made up for.
func (s *Sender) Due(now time.Duration, dst []byte) (path uint8, packet []byte, ok bool) {
	for _, id := range s.ids {
		p := s.paths[id]
		if p.due > now {
			continue
		}
		interval := p.interval
		if now < p.boostUntil {
			interval = min(interval, BoostInterval)
		}
		if p.due += interval; p.due <= now {
			p.due = now + interval
		}
		if p.next-p.base == ringSize { // nobody called Expire for seconds
			p.giveUp()
		}
		p.ring[p.next%ringSize] = flying{sent: now}
		probe := Probe{Seq: p.next, Sent: now, Path: id}
		p.next++
		s.stats.Sent++
		return id, AppendProbe(dst, &probe, p.key), true
	}
	return 0, dst, false
}

// Receive takes a datagram that came in at t4 and appends what it tells to ev. A reply to an open path names it with the
// SSID; where a reflector sends none, from says on which path's socket it came in.
func (s *Sender) Receive(t4 time.Duration, b []byte, from uint8, ev []Event) ([]Event, error) {
	r, err := ParseReply(b, t4, func(id uint32) *Key { return s.keys[id] })
	if err != nil && s.paths[from] != nil && s.paths[from].key == nil {
		if r, err = ParseOpenReply(b, t4); err == nil {
			r.Path = from
		}
	}
	switch {
	case err == nil:
		return s.Reply(r, ev)
	case len(b) == Len && hasTLV(b, directionReply):
		s.stats.Forged++
	default:
		s.stats.Malformed++
	}
	return ev, err
}

// Reply takes a reply that was parsed and authenticated elsewhere, in the kernel, and appends what it tells to ev.
func (s *Sender) Reply(r Reply, ev []Event) ([]Event, error) {
	p := s.paths[r.Path]
	if p == nil || !r.Open && (p.key == nil || p.key.ID != r.Key) || r.Open && p.key != nil {
		s.stats.Unmatched++
		return ev, fmt.Errorf("reply for path %d under key id %#x: %w", r.Path, r.Key, ErrUnmatched)
	}
	back := p.next - r.Seq
	f := &p.ring[r.Seq%ringSize]
	if r.Open {
		r.T1 = f.sent // a foreign reflector need not copy the error estimate, which says how to read it
	}
	if back == 0 || back > ringSize || f.sent != r.T1 {
		s.stats.Unmatched++
		return ev, fmt.Errorf("reply to probe %d of path %d: %w", r.Seq, r.Path, ErrUnmatched)
	}
	if f.answered {
		s.stats.Duplicate++
		return ev, nil
	}
	f.answered, f.count = true, r.Count
	late := int32(r.Seq-p.base) < 0
	if late {
		s.stats.Late++
	} else {
		s.stats.Answered++
	}
	ev = append(ev, Event{
		Kind: EventReply, Path: r.Path, At: r.T4, Sent: r.T1, RTT: r.RTT(), Out: r.T2 - r.left(), Back: r.T4 - r.T3, TTL: r.TTL, Late: late,
	})
	if !late && r.Seq != p.base && p.laterAt == 0 {
		p.laterAt = r.T4
	}
	return s.settle(p, r.T4, ev), nil
}

// Expire appends the fates that are known by now only, because nothing came in.
func (s *Sender) Expire(now time.Duration, ev []Event) []Event {
	for _, id := range s.ids {
		ev = s.settle(s.paths[id], now, ev)
	}
	return ev
}

// settle decides the fate of the oldest probes, in order.
func (s *Sender) settle(p *senderPath, now time.Duration, ev []Event) []Event {
	for p.base != p.next {
		f := &p.ring[p.base%ringSize]
		switch {
		case f.answered:
			ev = append(ev, s.fate(p, now, f.count))
			p.base++
			p.findLater(now)
		case p.laterAt != 0 && now-p.laterAt >= reorderWait, now-f.sent >= lossTimeout:
			p.giveUp()
		default:
			return ev
		}
	}
	return ev
}

func (p *senderPath) giveUp() {
	p.gap++
	p.base++
}

// findLater restarts the reordering clock for the new base: what is ahead of it has been answered by now at the latest.
func (p *senderPath) findLater(now time.Duration) {
	if p.laterAt == 0 || p.ring[p.base%ringSize].answered && p.base != p.next {
		return // nothing ahead, or base is settled next
	}
	p.laterAt = 0
	for q := p.base; q != p.next; q++ {
		if p.ring[q%ringSize].answered {
			p.laterAt = now
			return
		}
	}
}

// fate attributes the probes given up before an answered one: the reflector's count says how many of them it saw.
func (s *Sender) fate(p *senderPath, now time.Duration, count uint32) Event {
	lost := p.gap
	p.gap = 0
	ev := Event{Kind: EventFate, Path: p.id, At: now, Answered: 1}
	if !p.counted {
		// The first answer: without an earlier count nobody can say, and the reflector starts at 0.
		p.counted, p.count = true, count
		ev.OutLost = lost - min(lost, int(min(count, maxDebt)))
		ev.BackLost = lost - ev.OutLost
		return ev
	}
	ahead := int(int32(count - p.count)) // of the highest count so far; negative when replies were reordered
	if ahead > lost+1+maxDebt || ahead < -maxDebt {
		s.stats.ReflectorRestart++
		p.debt, p.count = 0, count
		ev.OutLost = lost
		return ev
	}
	p.debt += lost + 1 - max(ahead, 0)
	if ahead > 0 {
		p.count = count
	}
	ev.OutLost = min(max(p.debt, 0), lost)
	ev.BackLost = lost - ev.OutLost
	p.debt = min(max(p.debt-ev.OutLost, -maxDebt), maxDebt)
	return ev
}
