package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Warm-up. quic-go grows its congestion window only while the window is what limits the sender, so a lane that carried
// nothing yet starts its first elephant at 32 packets a round trip. While a lane is idle, each side fills it with
// streams of lowest priority whose bytes the other side throws away, until the window is what the bond needs.
const (
	// warmFactor times the bond's delay-bandwidth product is where filling a bulk lane stops: what it carries, and room for
	// a cut.
	warmFactor = 1.4
	// warmInteractive is where it stops on an interactive lane: a page of objects at once. Flows that need more move on.
	warmInteractive = 512 << 10
	// warmLeast is where it stops at the least: quic-go's first window and a doubling.
	warmLeast = 96 << 10
	// warmFloor is the least a bulk lane is warmed to: an early estimate of the capacity may be far too low.
	warmFloor = 1 << 20
	// warmTime and warmBytes bound one attempt, warmAttempts the attempts on a lane.
	warmTime     = 8 * time.Second
	warmBytes    = 96 << 20
	warmAttempts = 6
	// warmBudget is for how long a session's lanes may be filled, all together: on a bad link lanes that do not warm are
	// replaced, and filled, again and again. It comes back at a warmShare-th of the time. An idle bond whose lanes stay warm
	// fills none.
	warmBudget = 2 * time.Minute
	warmShare  = 200
	// warmGrowth in stuntedAfter is the least growth of a window in slow start, also while the lane below trains QUIC to
	// bear late packets. Slower means that slow start has ended for good: only another lane can do better.
	warmGrowth   = 1.2
	stuntedAfter = 2 * time.Second
	// warmPoll is how often a filler looks at the window.
	warmPoll = 20 * time.Millisecond
	// warmUrgency is quic-go's last: filler goes out only when the connection has nothing else.
	warmUrgency = 7
)

// warmer fills one lane. The session's manager runs fill; stop may be called by any goroutine.
type warmer struct {
	l        *lane
	busy     atomic.Bool // fill runs or is about to; set by the manager
	running  atomic.Bool
	attempts atomic.Int32 // that no flow interrupted
	stunted  atomic.Bool  // the window stopped growing below its target
	full     atomic.Bool  // the window reached its target once
	filled   atomic.Int64

	mu   sync.Mutex
	strs []*quic.SendStream
	quit chan struct{}
}

func (w *warmer) init(l *lane) { w.l = l }

// target is the congestion window that is enough for the lane, in bytes.
func (w *warmer) target() uint64 {
	most := uint64(quicMaxWindow * w.l.l.MaxPacketSize() * 9 / 10)
	bond := uint64(warmFactor * float64(w.l.ses.bdp()))
	if w.l.class != Bulk {
		return min(max(bond, warmLeast), warmInteractive)
	}
	return min(max(bond, warmFloor), most)
}

// need is the congestion window without which the lane is not worth keeping, in bytes; 0 is not known. For bulk it is
// what the bond carries, or a lane can at most; three quarters, as the estimate moves.
func (w *warmer) need() uint64 {
	bond := w.l.ses.bdp()
	if w.l.class != Bulk {
		return min(warmInteractive/4, bond*3/4)
	}
	return min(bond, uint64(quicMaxWindow*w.l.l.MaxPacketSize())*3/4) * 3 / 4
}

// small tells whether the window is less than need: flows had better take another lane.
func (w *warmer) small() bool {
	return !w.l.ses.node.cfg.NoWarmUp && w.l.conn.ConnectionStats().CongestionWindow < w.need()
}

// ready tells whether the bond is known, the window is not small and no filler is being sent.
func (w *warmer) ready() bool { return w.l.ses.bdp() > 0 && !w.small() && !w.running.Load() }

// wanted tells whether the lane is to be filled. One that was full is filled again when its window is less than what the bond
// carries: an idle bond's estimate of that moves up and down by more than nothing.
func (w *warmer) wanted() bool {
	if w.stunted.Load() || w.attempts.Load() >= warmAttempts || w.busy.Load() {
		return false
	}
	enough := w.target()
	if w.full.Load() {
		enough = uint64(float64(enough) / warmFactor)
	}
	return w.l.conn.ConnectionStats().CongestionWindow < enough
}

func (w *warmer) cold() bool { return w.l.conn.ConnectionStats().CongestionWindow < w.target() }

// fill sends filler until the window is large enough or grows no more, the bounds are reached or stop is called.
func (w *warmer) fill() {
	w.mu.Lock()
	if !w.l.alive() || w.running.Load() {
		w.mu.Unlock()
		return
	}
	w.quit = make(chan struct{})
	quit := w.quit
	// One stream has at most one stream window on the way, and the congestion window grows to twice that.
	n := 1
	if w.l.class != Bulk {
		n = warmInteractive/interactiveWindow + 1
	}
	for range n {
		str, err := w.l.conn.OpenUniStream()
		if err != nil {
			break
		}
		str.SetPriority(warmUrgency, true)
		w.strs = append(w.strs, str)
	}
	strs := w.strs
	w.running.Store(true)
	w.mu.Unlock()

	var wg sync.WaitGroup
	var sent atomic.Int64
	for _, str := range strs {
		wg.Go(func() {
			if _, err := str.Write([]byte{uniWarm}); err != nil {
				return
			}
			for sent.Load() < warmBytes {
				n, err := str.Write(filler[:])
				sent.Add(int64(n))
				w.filled.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	tick := time.NewTicker(warmPoll)
	defer tick.Stop()
	limit := time.NewTimer(warmTime)
	defer limit.Stop()
	best, grew := uint64(0), time.Now()
	for done := false; !done; {
		select {
		case now := <-tick.C:
			done = !w.cold() || sent.Load() >= warmBytes || !w.l.alive()
			if cw := w.l.conn.ConnectionStats().CongestionWindow; float64(cw) > warmGrowth*float64(best) {
				best, grew = cw, now
			} else if now.Sub(grew) > stuntedAfter {
				done = true
				w.stunted.Store(true)
			}
		case <-limit.C:
			done = true
		case <-quit:
			wg.Wait()
			return
		}
	}
	w.attempts.Add(1)
	w.full.Store(w.full.Load() || !w.cold())
	w.stop()
	wg.Wait()
}

// filler is what warm streams carry. QUIC encrypts it, so its content does not matter.
var filler [32 << 10]byte

// stop ends the filling at once; unsent filler is dropped, lost filler not sent again.
func (w *warmer) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running.Load() {
		return
	}
	w.running.Store(false)
	close(w.quit)
	for _, str := range w.strs {
		str.CancelWrite(quic.StreamErrorCode(CodeNotRead))
	}
	w.strs = nil
}
