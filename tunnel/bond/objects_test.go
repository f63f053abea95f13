package bond

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// deafSocket loses every tenth packet of a lane sent for the first time, and while deaf all repairs, as a burst does that
// comes when they go out together.
type deafSocket struct {
	Socket
	deaf *atomic.Bool
	n    int
}

func (s *deafSocket) WriteBatch(ms []Message) (int, error) {
	var left []Message
	for _, m := range ms {
		h, _ := parseHeader(m.Buf)
		if h.kind == kindSource && h.aux&auxAgain == 0 {
			if s.n++; s.n%10 == 0 {
				continue
			}
		}
		if h.kind == kindRepair && s.deaf.Load() {
			continue
		}
		left = append(left, m)
	}
	if _, err := s.Socket.WriteBatch(left); err != nil {
		return 0, err
	}
	return len(ms), nil
}

// TestRepairsOnePathLost: objects and requests hardly ever need a repetition although now and then a path loses all repairs sent
// on it, whichever it is. That they spread is what TestTailRepairs shows; here one object in ten thousand is late for want of
// repairs, as losses bunch, which may be in any run.
func TestRepairsOnePathLost(t *testing.T) {
	seed := testSeed(t)
	late := 0
	for path := range 3 {
		inBubble(t, func(t *testing.T) {
			var deaf, hears atomic.Bool
			var imps []wan.Impairment
			for _, delay := range []time.Duration{90, 110, 80} {
				// What overflowed a queue when the rate was looked for would count as the path's loss for a minute.
				imps = append(imps, wan.Impairment{Rate: 50_000_000, Delay: delay * time.Millisecond, Queue: 500 * time.Millisecond})
			}
			w := newWorldOf(t, seed, worldConfig{links: bothWays(imps...), wrap: func(_ bool, i int, s Socket) Socket {
				if i == path {
					return &deafSocket{Socket: s, deaf: &deaf}
				}
				return &deafSocket{Socket: s, deaf: &hears}
			}})
			defer w.close()
			sa, sb := w.sessions()
			<-sa.Started()
			<-sb.Started()
			p := w.lane(sa, sb, Interactive)
			defer p.close()
			p.transfer(t, seed, 2*time.Second)
			time.Sleep(youngFor)
			ask, done := objectServer(t, p)
			defer done()
			ask() // tells the controllers of the loss
			for i := range 80 {
				deaf.Store(i%8 == 7)
				// A repetition comes after three ways at the earliest, 240 ms.
				if d := ask(); d > 230*time.Millisecond {
					late++
					t.Logf("path %d loses repairs, object %d: %v", path, i, d)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	if late > 2 {
		t.Errorf("%d of 240 objects waited for a repetition", late)
	}
}

// TestTailRepairs: the repairs of a train cover that train alone, whatever was lost before it, go over all paths, and pass
// over one whose pacer is not free.
func TestTailRepairs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 3, false)
		s, _ := r.establish(t)
		time.Sleep(time.Second)
		now, at := s.b.host.now()
		for i, p := range s.b.paths {
			p.acked, p.validated, p.rtt = true, true, 100*time.Millisecond
			p.owdRel = int64(us([]time.Duration{0, 10, 12}[i] * time.Millisecond))
			s.setState(at, p, PathUp)
		}
		l := s.addLane(laneID(Interactive, 0))
		l.tx.ctl.OnReport(now, 1000, 100, 0)
		for _, c := range []struct {
			packets int
			busy    int // path whose pacer is not free; -1: none
			paths   int // with repairs of the tail, at least
		}{{26, -1, 3}, {1, -1, 2}, {26, 1, 2}} {
			for range c.packets {
				l.tx.queue.push(newPacketBuf(make([]byte, 100)))
			}
			var repairs [maxPaths]int
			source, total := uint8(0), 0
			for range 2000 {
				for i, p := range s.b.paths {
					p.nextFree, p.inflight = 0, 0
					if i == c.busy && l.tx.queue.len() == 0 {
						p.nextFree = at + us(4*time.Millisecond)
					}
				}
				s.b.out.n, s.floor = 0, 0
				debt := l.tx.tailFrom > 0 && l.tx.debt >= 1
				if ok, _ := s.fillOne(now, at); !ok {
					if l.tx.tailFrom == 0 {
						break
					}
					at += us(tailAfter)
					continue
				}
				h, _ := parseHeader(append(s.b.out.bufs[0], make([]byte, tagSize)...))
				if h.kind == kindSource {
					source = h.path
					continue
				}
				if debt {
					continue
				}
				if total == 0 && c.packets == 1 && h.path != 1 {
					t.Errorf("first repair over path %d, want the earliest but the source's, 1", h.path)
				}
				repairs[h.path]++
				total++
				if first := uint64(h.laneSeq); first != l.tx.next-uint64(c.packets) || int(h.aux)+1 != c.packets {
					t.Errorf("train of %d: repair covers %d from %d, want all from %d", c.packets, h.aux+1, first, l.tx.next-uint64(c.packets))
				}
			}
			used := 0
			for _, n := range repairs {
				if n > 0 {
					used++
				}
			}
			if used < c.paths || c.busy >= 0 && repairs[c.busy] > 0 {
				t.Errorf("train of %d, path %d busy: repairs over paths %v, want %d of them and not the busy one", c.packets, c.busy, repairs[:3], c.paths)
			}
			if n := repairs[source]; c.busy < 0 && 3*n > total+2 {
				t.Errorf("train of %d over path %d: %d of %d repairs over the same one", c.packets, source, n, total)
			}
		}
	})
}

// TestRepairWaits: a repair waits for the pacer of the earliest path rather than go over one that is later by more than
// half a round trip: a repetition would be there as soon.
func TestRepairWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, l, _, at := startRig(t, 2, Interactive)
		for _, tt := range []struct {
			later, busy time.Duration
			last        uint8 // path of the source packet
			want        int   // path; -1: waits
		}{
			{80 * time.Millisecond, 0, 1, 0},
			{80 * time.Millisecond, 2 * time.Millisecond, 1, -1},
			{20 * time.Millisecond, 2 * time.Millisecond, 1, 1},
			{80 * time.Millisecond, 60 * time.Millisecond, 1, 1},
			{10 * time.Millisecond, 0, 0, 1}, // another than the source's
		} {
			first, second := s.b.paths[0], s.b.paths[1]
			first.rtt = 100 * time.Millisecond
			if tt.last == 0 {
				first.rtt = 10 * time.Millisecond
			}
			first.nextFree, first.owdRel = 0, 0
			if tt.busy > 0 {
				first.nextFree = at + us(tt.busy)
			}
			second.nextFree, second.owdRel = 0, int64(us(tt.later))
			l.tx.lastPath = tt.last
			p, wait := s.pickRepair(at, l.tx, 1000)
			switch {
			case tt.want >= 0 && (p == nil || int(p.id) != tt.want):
				t.Errorf("%+v: another path, or none", tt)
			case tt.want < 0 && (p != nil || wait != first.nextFree):
				t.Errorf("%+v: wait %v, path %v", tt, wait-at, p != nil)
			}
		}
	})
}

// TestTailGoesOn: packets that come before the repairs of the tail before them could go do not cost it these.
func TestTailGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, l, now, at := startRig(t, 2, Interactive)
		l.sendAt(t, now, at, 3)
		at += us(tailAfter)
		for _, p := range s.b.paths {
			p.nextFree = at + us(10*time.Millisecond)
		}
		if ok, _ := s.sendRepair(now, at, l); ok || l.tx.tailDue == 0 {
			t.Fatalf("sent %v, %d repairs due", ok, l.tx.tailDue)
		}
		l.sendAt(t, now, at, 1)
		at += us(tailAfter)
		for _, p := range s.b.paths {
			p.nextFree = 0
		}
		if ok, _ := s.sendRepair(now, at, l); !ok {
			t.Fatal("no repair")
		}
		h, _ := parseHeader(append(s.b.out.bufs[0], make([]byte, tagSize)...))
		if int(h.aux)+1 != 4 || h.laneSeq != 0 {
			t.Errorf("the repair covers %d packets from %d, want all 4", h.aux+1, h.laneSeq)
		}
	})
}

// TestCopiesInTime: with one path, the copies of a repetition come when they are due, whatever waits of the one before it.
func TestCopiesInTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, l, now, at := startRig(t, 1, Interactive)
		p := s.b.paths[0]
		p.lossShort = 0.3
		for i := range 2 {
			seq := l.sendAt(t, now, at, 1)
			s.sendCopies(now, at+us(time.Duration(i)*time.Millisecond), l, seq, l.tx.entry(seq), p)
		}
		for _, tt := range []struct {
			after time.Duration
			sent  int
		}{{copyAfter, 1}, {copyAfter + time.Millisecond, 2}, {2 * copyAfter, 3}, {time.Second, 6}} {
			if s.runCopies(now, at+us(tt.after)); s.b.out.n != tt.sent {
				t.Errorf("after %v: %d copies were sent, want %d", tt.after, s.b.out.n, tt.sent)
			}
		}
	})
}
