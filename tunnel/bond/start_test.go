package bond

import (
	"testing"
	"time"
)

// TestStart has a warm bulk lane send again after a pause: in the first second repair brings most of what the paths lose back
// in time, at a delay that is that of the slowest path; then the repair ends and the delay hides repetitions.
func TestStart(t *testing.T) {
	seed := testSeed(t)
	imps, _ := scenario(t, "typical")
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, seed, imps...)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		p.transfer(t, seed, 5*time.Second)
		time.Sleep(youngFor) // idle, and no longer young

		type sample struct {
			above              time.Duration // of the common delay over the slowest path's base
			repairs            uint64
			lost, late, packet uint64
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
			x.late = p.la.rx.lateCount
			sa.b.mu.Unlock()
			sb.b.mu.Lock()
			x.repairs, x.packet = p.lb.tx.repairs, p.lb.tx.sent
			sb.b.mu.Unlock()
			return x
		}
		at := map[time.Duration]sample{}
		begin := time.Now()
		go func() {
			for _, d := range []time.Duration{0, 400 * time.Millisecond, 900 * time.Millisecond, 1300 * time.Millisecond, 1800 * time.Millisecond} {
				time.Sleep(time.Until(begin.Add(d)))
				at[d] = look()
			}
		}()
		p.transfer(t, seed, 2*time.Second)
		for d, x := range at {
			t.Logf("%v: %+v", d, x)
		}
		first, early, late, after, end := at[0], at[400*time.Millisecond], at[900*time.Millisecond], at[1300*time.Millisecond], at[1800*time.Millisecond]
		for _, x := range []sample{early, late} {
			if x.above > equaliseMargin+15*time.Millisecond {
				t.Errorf("the delay is %v above the slowest path's in the first second, want about %v", x.above, equaliseMargin)
			}
		}
		if end.above < 2*equaliseMargin {
			t.Errorf("the delay is %v above the slowest path's after it", end.above)
		}
		if n, sent := late.repairs-first.repairs, late.packet-first.packet; n < sent/50 {
			t.Errorf("%d repairs for %d packets", n, sent)
		}
		if n := end.repairs - after.repairs; n > 2 {
			t.Errorf("%d repairs more after the first second", n)
		}
		if lost, n := late.lost-first.lost, late.late-first.late; n > lost/4 {
			t.Errorf("%d packets came late of %d lost: repair brought few back", n, lost)
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
