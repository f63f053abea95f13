package bond

import (
	"sync/atomic"
	"testing"
	"time"
)

// lateSocket is a's end of a path. It counts the packets of a lane that the path itself brings after their time: they were
// in a queue, and not lost.
type lateSocket struct {
	Socket
	lane *atomic.Pointer[Lane]
	late *atomic.Int64
}

func (s *lateSocket) ReadBatch(ms []Message) (int, error) {
	n, err := s.Socket.ReadBatch(ms)
	l := s.lane.Load()
	if l == nil {
		return n, err
	}
	l.s.b.mu.Lock()
	defer l.s.b.mu.Unlock()
	for _, m := range ms[:n] {
		h, ok := parseHeader(m.Buf[:m.N])
		if !ok || h.kind != kindSource || h.aux&auxAgain != 0 || h.lane != l.id {
			continue
		}
		if seq := extend24(h.laneSeq, l.rx.high); seq >= l.rx.cum && seq < l.rx.scan && l.rx.slot(seq).state == slotMissing {
			s.late.Add(1)
		}
	}
	return n, err
}

// TestStart has a warm bulk lane send again after a pause, several times: in the first second repair brings most of what the
// paths lose back in time, at a delay that is that of the slowest path; then the repair ends and the delay hides repetitions.
func TestStart(t *testing.T) {
	const short = 3 * equaliseMargin // a queue on the slowest path comes on top of the margin
	starts := 4
	if raceOn {
		starts = 1 // too few to count what comes late
	}
	seed := testSeed(t)
	imps, _ := scenario(t, "typical")
	inBubble(t, func(t *testing.T) {
		var lane atomic.Pointer[Lane]
		var queued atomic.Int64
		w := newWorldOf(t, seed, worldConfig{links: bothWays(imps...), wrap: func(isA bool, _ int, s Socket) Socket {
			if !isA {
				return s
			}
			return &lateSocket{s, &lane, &queued}
		}})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		lane.Store(p.la)
		p.transfer(t, seed, 5*time.Second)

		type sample struct {
			above         time.Duration // of the common delay over the slowest path's base
			sent, repairs uint64
			lost          uint64 // datagrams, by the paths
			late          uint64 // after their time
			queued        uint64 // of them those that were not lost
		}
		look := func() (x sample) {
			sa.b.mu.Lock()
			var base int64
			for i, rx := range sa.rx {
				if rx == nil {
					continue
				}
				if base == 0 || rx.delay.base() > base {
					base = rx.delay.base()
				}
				x.lost += sa.rx[i].fates().Lost
			}
			x.above = time.Duration(p.la.rx.common-base) * time.Microsecond
			x.late, x.queued = p.la.rx.lateCount, uint64(queued.Load())
			sa.b.mu.Unlock()
			sb.b.mu.Lock()
			x.repairs, x.sent = p.lb.tx.repairs, p.lb.tx.sent
			sb.b.mu.Unlock()
			return x
		}
		var sum sample
		for range starts {
			time.Sleep(youngFor) // idle, and no longer young
			at := map[time.Duration]sample{}
			begin := time.Now()
			looks := []time.Duration{0, 400 * time.Millisecond, 900 * time.Millisecond, 1300 * time.Millisecond, 1800 * time.Millisecond}
			looked := make(chan struct{})
			go func() {
				defer close(looked)
				for _, d := range looks {
					time.Sleep(time.Until(begin.Add(d)))
					at[d] = look()
				}
			}()
			p.transfer(t, seed, 2*time.Second)
			<-looked
			for _, d := range looks {
				t.Logf("%v: %+v", d, at[d])
			}
			first, early, late, after, end := at[looks[0]], at[looks[1]], at[looks[2]], at[looks[3]], at[looks[4]]
			for _, x := range []sample{early, late} {
				if x.above > short {
					t.Errorf("the delay is %v above the slowest path's in the first second, want about %v", x.above, equaliseMargin)
				}
			}
			if end.above < short {
				t.Errorf("the delay is %v above the slowest path's after it", end.above)
			}
			if n, sent := late.repairs-first.repairs, late.sent-first.sent; n < sent/50 {
				t.Errorf("%d repairs for %d packets", n, sent)
			}
			if n := end.repairs - after.repairs; n > 2 {
				t.Errorf("%d repairs more after the first second", n)
			}
			sum.sent += late.sent - first.sent
			sum.lost += late.lost - first.lost
			sum.late += late.late - first.late
			sum.queued += late.queued - first.queued
		}
		// A tenth, and twice that where a start meets bursts on several paths at once; of what no repair is for it is nearly all.
		t.Logf("all starts: %+v", sum)
		if n := sum.late - sum.queued; starts > 1 && n > sum.lost*2/5 {
			t.Errorf("%d packets came late of %d lost: repair brought few back", n, sum.lost)
		}
		if sum.queued > sum.sent/20 {
			t.Errorf("%d packets of %d were not lost and yet late: the delay is too short", sum.queued, sum.sent)
		}
	})
}

// TestStartAfterYouth: keep-alives of a lane that was young when they began let its next flow begin with a short delay all
// the same; what is on its way when the youth ends keeps its delay.
func TestStartAfterYouth(t *testing.T) {
	second := us(time.Second)
	for _, tt := range []struct {
		name string
		size int
		step stamp
		want bool
	}{
		{"keep-alives", 40, 5 * second, true},
		{"data", 1200, second / 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLaneRx(laneID(Bulk, 0), Bulk)
			at := second
			for ; at < us(youngFor)+4*second; at += tt.step {
				l.onStart(at, l.high, true)
				l.source(at, l.high, make([]byte, tt.size), at)
			}
			if l.onStart(at, l.high, true); l.start != tt.want || l.young {
				t.Errorf("start %v, young %v, want %v and false", l.start, l.young, tt.want)
			}
			if l.onStart(at, l.high, false); l.start || l.toldStart {
				t.Error("still starting after a packet that says otherwise")
			}
		})
	}
}

// startRig is a session of so many paths that are up, each 10 ms later than the one before, with a lane of the class that
// has seen loss.
func startRig(t *testing.T, paths int, c Class) (s *Session, l *Lane, now time.Time, at stamp) {
	t.Helper()
	r := newRig(t, paths, false)
	s, _ = r.establish(t)
	time.Sleep(10 * time.Second)
	now, at = s.b.host.now()
	for i, p := range s.b.paths {
		p.acked, p.validated, p.rtt, p.owdRel = true, true, 100*time.Millisecond, int64(us(10*time.Millisecond))*int64(i)
		s.setState(at, p, PathUp)
	}
	l = s.addLane(laneID(c, 0))
	l.tx.ctl.OnReport(now, 1000, 100, 0)
	l.tx.start = startMost
	return s, l, now, at
}

// sendAt lets n packets of a lane out, and none of its repairs, and returns the last one's number.
func (l *Lane) sendAt(t *testing.T, now time.Time, at stamp, n int) uint64 {
	t.Helper()
	for range n {
		l.tx.queue.push(newPacketBuf(make([]byte, 1000)))
		for _, p := range l.s.b.paths {
			p.nextFree, p.inflight = 0, 0
		}
		if ok, _ := l.s.sendNew(now, at, l); !ok {
			t.Fatal("not sent")
		}
		l.s.b.out.n = 0
	}
	return l.tx.next - 1
}

// TestHeldLosses: what a path lost waits for its repairs no longer than it must, whatever else waits longer; and not at all
// once the path is silent, as what went over others has come by then.
func TestHeldLosses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, bulk, now, at := startRig(t, 2, Bulk)
		s.b.paths[1].owdRel = int64(us(100 * time.Millisecond))
		calls := s.addLane(laneID(Interactive, 0))
		lose := func(l *Lane) {
			seq := l.sendAt(t, now, at, 1)
			o := l.tx.entry(seq)
			if o.path != 0 {
				t.Fatalf("sent over path %d", o.path)
			}
			s.lost = append(s.lost, lostRef{l.id, o.path, seq, o.pseq})
			s.handleLost(at)
		}
		lose(bulk)
		lose(calls)
		for _, tt := range []struct {
			after       time.Duration
			bulk, calls int
		}{{24 * time.Millisecond, 0, 0}, {25 * time.Millisecond, 0, 1}, {100*time.Millisecond + startSlack, 1, 1}} {
			s.runDeferred(at + us(tt.after))
			if b, c := bulk.tx.again.len(), calls.tx.again.len(); b != tt.bulk || c != tt.calls {
				t.Errorf("after %v: %d bulk and %d interactive packets are to be sent again, want %d and %d", tt.after, b, c, tt.bulk, tt.calls)
			}
		}
		s.setState(at, s.b.paths[0], PathUp)
		for _, l := range []*Lane{bulk, calls} {
			seq := l.sendAt(t, now, at, 1)
			o := l.tx.entry(seq)
			o.path, o.pseq = 0, o.pseq+100 // whichever it was
			s.lost = append(s.lost, lostRef{l.id, 0, seq, o.pseq})
		}
		s.setState(at, s.b.paths[0], PathSuspect)
		s.handleLost(at)
		if b, c := bulk.tx.again.len(), calls.tx.again.len(); b != 2 || c != 2 {
			t.Errorf("path silent: %d bulk and %d interactive packets are to be sent again, want 2 and 2", b, c)
		}
	})
}

// TestStartLeavesNothing: the repair of one start leaves nothing to do for the next one.
func TestStartLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, l, now, at := startRig(t, 2, Bulk)
		l.sendAt(t, now, at, 50)
		if l.tx.uncovered != 50 || l.tx.tailFrom == 0 {
			t.Fatalf("%d packets to repair, tail from %d", l.tx.uncovered, l.tx.tailFrom)
		}
		at += us(startRepair - 100*time.Millisecond)
		l.sendAt(t, now, at, 1)
		at += us(200 * time.Millisecond)
		l.sendAt(t, now, at, 1) // the start is over
		at += us(activeFor) + 1
		l.sendAt(t, now, at, 1)
		if l.tx.uncovered != 1 || l.tx.debt != startMost {
			t.Errorf("a train of 1 counts %d packets and owes %v repairs", l.tx.uncovered, l.tx.debt)
		}
	})
}
