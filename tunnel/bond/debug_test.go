package bond

import (
	"os"
	"testing"
	"time"
)

func TestDebugStart(t *testing.T) {
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
		go func() {
			for range 30 {
				st := p.cb.ConnectionStats()
				w.b.bond.mu.Lock()
				var rx *laneRx
				rx = p.la.rx
				t.Logf("%v cw %d srtt %v latest %v min %v sent %d q %d unacked %d; common a %d b %d", time.Now().UnixMilli()%100000, st.CongestionWindow/1280, st.SmoothedRTT, st.LatestRTT, st.MinRTT, st.PacketsSent,
					p.lb.tx.queue.len(), p.lb.tx.next-p.lb.tx.base, rx.common, p.lb.rx.common)
				w.b.bond.mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		}()
		p.transfer(t, seed, 3*time.Second)
		w.dump(t)
	})
}
