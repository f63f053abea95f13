package bond

import (
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestNumbersWrap: paths, lanes and reports go on when the 24 bits of their numbers in a header are used up, with losses,
// repairs and repetitions at that moment.
func TestNumbersWrap(t *testing.T) {
	const wrap, before, packets = uint64(seqMask + 1), 200, 4000
	for _, class := range []Class{Interactive, Bulk} {
		t.Run(class.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				link := wan.Impairment{Rate: 20e6, Delay: 20 * time.Millisecond, Queue: 100 * time.Millisecond, Loss: 0.05}
				w := newWorld(t, testSeed(t), link, link)
				defer w.close()
				sa, sb := w.sessions()
				<-sa.Started()
				<-sb.Started()
				la, lb := w.rawLane(sa, sb, class)
				time.Sleep(time.Second)
				w.a.bond.mu.Lock()
				w.b.bond.mu.Lock()
				for _, s := range [][2]*Session{{sa, sb}, {sb, sa}} {
					for i, p := range s[0].b.paths {
						p.next = wrap - before
						p.low, p.tailChecked, p.largest = p.next, p.next, p.next-1
						p.inflight, p.elicOut = 0, 0
						rx := s[1].rx[i]
						rx.window.note(p.largest)
						rx.largest, rx.lossLargest, rx.measuredLargest = p.largest, p.largest, p.largest
						rx.said = [reportBack]uint64{}
					}
					s[0].reportNo = seqMask - 10
					s[1].lastReportNo = s[0].reportNo
				}
				_, at := w.a.bond.host.now()
				for _, l := range [][2]*Lane{{la, lb}, {lb, la}} {
					l[0].tx.fullFrom, l[0].tx.fullAt = at-us(startRepair), at // bulk repeats what is lost: its start is over
					l[0].tx.next = wrap - before
					l[0].tx.base, l[0].tx.enc = l[0].tx.next, nil
					rx := l[1].rx
					rx.cum, rx.high, rx.scan, rx.dec = l[0].tx.next, l[0].tx.next, l[0].tx.next, nil
					rx.decoder()
				}
				w.b.bond.mu.Unlock()
				w.a.bond.mu.Unlock()
				stop := collect(lb)
				for i := range packets {
					if _, err := la.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Second)
				w.a.bond.mu.Lock()
				var answered []int
				for _, p := range w.a.bond.paths {
					if p.next < wrap {
						t.Errorf("path %s has sent %d datagrams, not enough to wrap", p.name, p.next)
					}
					answered = append(answered, p.clean)
				}
				w.a.bond.mu.Unlock()
				time.Sleep(2 * time.Second)
				w.a.bond.mu.Lock()
				for i, p := range w.a.bond.paths { // a path that went down never came back without answers
					if n := p.clean - answered[i]; n < 10 {
						t.Errorf("path %s: %d answers to the probes of 2 s, want about 18", p.name, n)
					}
				}
				w.a.bond.mu.Unlock()
				st, far := w.a.bond.Stats(), w.b.bond.Stats()
				exactlyOnce(t, stop(), packets)
				if st.Lanes[0].Unconfirmed != 0 || st.Resent == 0 || class == Interactive && far.Recovered < 4*st.Resent {
					t.Errorf("%d packets not confirmed, %d sent again and %d recovered of %d, of which one in 20 was lost",
						st.Lanes[0].Unconfirmed, st.Resent, far.Recovered, packets)
				}
				for _, p := range st.Paths {
					if p.State != PathUp || p.Sent < packets/4 {
						t.Errorf("path %s is %v after %d datagrams", p.Name, p.State, p.Sent)
					}
				}
				if n := w.b.host.drops.badTag.Load() + w.a.host.drops.badTag.Load(); n > 50 {
					t.Errorf("%d tags were wrong", n)
				}
			})
		})
	}
}
