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
		time.Sleep(3 * time.Second)

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
