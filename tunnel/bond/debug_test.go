package bond

import (
	"os"
	"testing"
	"time"
)

func TestDebugLoss(t *testing.T) {
	seed := testSeed(t)
	imps, _ := scenario(t, os.Getenv("SCEN"))
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, seed, imps...)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		var at [12]uint64
		go func() {
			for i := range at {
				time.Sleep(500 * time.Millisecond)
				at[i] = p.cb.ConnectionStats().CongestionWindow / 1280
			}
		}()
		go func() {
			last := time.Duration(0)
			for range 2000 {
				st := p.cb.ConnectionStats()
				if st.LatestRTT != last && os.Getenv("RTT") != "" {
					w.a.bond.mu.Lock()
					t.Logf("rtt %.1f min %.1f cw %d sent %d; a rx common %.1f, b rx common %.1f", float64(st.LatestRTT)/1e6, float64(st.MinRTT)/1e6, st.CongestionWindow/1280, st.PacketsSent, float64(p.la.rx.common)/1e3, float64(p.lb.rx.common)/1e3)
					w.a.bond.mu.Unlock()
					last = st.LatestRTT
				}
				time.Sleep(time.Millisecond)
			}
		}()
		p.transfer(t, seed, 6*time.Second)
		t.Logf("cwnd each 0.5 s: %d, lost %d; lessons left %d", at, p.cb.ConnectionStats().PacketsLost, p.la.rx.lesson.left)
	})
}
