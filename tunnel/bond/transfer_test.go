package bond

import (
	"testing"
	"time"
)

func TestTransferScenarios(t *testing.T) {
	cases := []struct {
		scenario string
		least    float64 // of limit
	}{{"clean", 0.85}, {"typical", 0.80}, {"heavy", 0.70}}
	if raceOn {
		cases = cases[1:2]
	}
	for _, tc := range cases {
		t.Run(tc.scenario, func(t *testing.T) {
			seed := testSeed(t)
			imps, limit := scenario(t, tc.scenario)
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, seed, imps...)
				defer w.close()
				start := time.Now()
				sa, sb := w.sessions()
				t.Logf("session after %v", time.Since(start))
				<-sa.Started()
				<-sb.Started()
				p := w.lane(sa, sb, Bulk)
				defer p.close()
				t.Logf("lane after %v", time.Since(start))
				t.Logf("started after %v", time.Since(start))
				c, rtt := sb.Capacity()
				t.Logf("capacity %.1f Mbit/s rtt %v", float64(c)/1e6, rtt)
				p.transfer(t, seed, 7*time.Second) // warm
				r := p.transfer(t, seed, 10*time.Second)
				t.Logf("%.1f Mbit/s of %.1f = %.3f, stall %v, cw %d, lost %d", r.mbit(), limit/1e6, r.mbit()*1e6/limit, r.stall,
					p.cb.ConnectionStats().CongestionWindow/uint64(p.lb.MaxPacketSize()), p.cb.ConnectionStats().PacketsLost)
				t.Logf("per second %v", r.perSec)
				w.dump(t)
				if !r.ok {
					t.Error("payload damaged")
				}
				if r.mbit()*1e6 < tc.least*limit {
					t.Errorf("%.3f of the limit, want at least %.2f", r.mbit()*1e6/limit, tc.least)
				}
			})
		})
	}
}

func (w *world) dump(t testing.TB) {
	for _, s := range []*side{w.a, w.b} {
		s.bond.mu.Lock()
		for _, p := range s.bond.paths {
			t.Logf("path %s %v rtt %v bw %.1f pace %.1f queue %v loss %.3f floor %.3f sent %d lost %d state %s inflight %d cap %d mtu %d", p.name, p.state, p.rtt,
				float64(p.ctrl.Bandwidth())/1e6, float64(p.ctrl.PacingRate())/1e6, p.ctrl.QueueDelay(), p.lossShort, p.ctrl.LossFloor(), p.sent, p.lost, p.ctrl.State(), p.inflight, p.ctrl.InflightCap(), p.search.size)
		}
		if s.bond.sess != nil {
			for _, l := range s.bond.sess.live {
				t.Logf("lane %d tx sent %d resent %d repairs %d unacked %d; rx received %d recovered %d dup %d overflow %d late %d holds %d common %d", l.id, l.tx.sent, l.tx.resent, l.tx.repairs,
					l.tx.next-l.tx.base, l.rx.received, l.rx.recovered, l.rx.duplicate, l.rx.overflow, l.rx.lateCount, l.rx.holds, l.rx.common)
			}
		}
		s.bond.mu.Unlock()
		t.Log(s.host.Drops())
	}
	for i, l := range w.links {
		t.Logf("link %d: %+v", i, l.Stats(1))
	}
}
