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
		p.transfer(t, seed, 6*time.Second)
		t.Logf("cwnd each 0.5 s: %d, lost %d; lessons left %d", at, p.cb.ConnectionStats().PacketsLost, p.la.rx.lesson.left)
	})
}
