package bond

import (
	"math"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestPathStats holds what a bond says of its paths against what the links know.
func TestPathStats(t *testing.T) {
	lossy := wan.Impairment{Rate: 20e6, Delay: 30 * time.Millisecond, Loss: 0.04}
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, seed, lossy, wan.Impairment{Rate: 20e6, Delay: 40 * time.Millisecond})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		if r := p.transfer(t, seed, 8*time.Second); !r.ok {
			t.Error("payload damaged")
		}
		receiver, sender := w.a.bond.Stats(), w.b.bond.Stats()
		for i, l := range w.links {
			truth, in, out := l.Stats(wan.BtoA), receiver.Paths[i], sender.Paths[i]
			t.Logf("link %+v\nsender %+v\nreceiver %+v", truth, out, in)
			// The handshake belongs to no path yet.
			if apart(in.Received, truth.Delivered, 10) || apart(in.ReceivedBytes, truth.DeliveredBytes, 15_000) {
				t.Errorf("path %d: received %d datagrams, %d bytes, the link delivered %d, %d", i, in.Received, in.ReceivedBytes, truth.Delivered, truth.DeliveredBytes)
			}
			if apart(out.Sent, truth.Offered, 10) {
				t.Errorf("path %d: sent %d datagrams, the link was offered %d", i, out.Sent, truth.Offered)
			}
			want := 0.0
			if i == 0 {
				want = lossy.Loss
			}
			for name, got := range map[string]float64{"loss at the sender": out.Loss, "at the receiver": in.LossIn} {
				if math.Abs(got-want) > want*0.75+0.001 {
					t.Errorf("path %d: %s %.4f, want about %.4f", i, name, got, want)
				}
			}
			for name, f := range map[string]Fates{"out": out.Out, "in": in.In} {
				lost := truth.Lost + truth.QueueDrops
				if apart(f.Packets, truth.Offered, 200) || apart(f.Lost, lost, 10) || f.Runs > f.Lost || f.Runs < lost/2 {
					t.Errorf("path %d: fates %s %+v, the link was offered %d and lost %d", i, name, f, truth.Offered, lost)
				}
			}
			if out.Pacing < 10e6 || out.Pacing > 40e6 || out.InFlight < 0 || out.InFlight > 1e6 {
				t.Errorf("path %d: pacing %d bit/s, %d bytes in flight", i, out.Pacing, out.InFlight)
			}
			if out.ExtraDelay < out.Queue || out.ExtraDelay > 100*time.Millisecond {
				t.Errorf("path %d: extra delay %v, queue %v", i, out.ExtraDelay, out.Queue)
			}
		}
		var repairs, resent uint64
		for _, ps := range sender.Paths {
			repairs, resent = repairs+ps.Repairs, resent+ps.Resent
		}
		// A lane counts a packet sent again over two paths at once a single time.
		if repairs == 0 || repairs != sender.Repairs || resent < sender.Resent || resent == 0 || resent > 2*sender.Resent {
			t.Errorf("by path %d repairs, %d sent again; by lane %d, %d", repairs, resent, sender.Repairs, sender.Resent)
		}
		time.Sleep(time.Second)
		if idle := w.b.bond.Stats().Paths[0]; idle.ExtraDelay > 5*time.Millisecond {
			t.Errorf("extra delay of an idle path %v", idle.ExtraDelay)
		}
	})
}

// apart tells whether two counters differ by more than slack.
func apart(a, b, slack uint64) bool { return max(a, b)-min(a, b) > slack }

func TestPathRxLoss(t *testing.T) {
	p := newPathRx(0)
	for seq := uint64(0); seq < 5000; seq++ {
		if seq%20 != 7 && seq%2 == 0 {
			p.accept(stamp(seq), seq^2, 0, 100, true) // in pairs, the second before the first
		} else if seq%20 != 7 {
			p.accept(stamp(seq), seq, 0, 100, true)
		}
		if seq%50 == 0 {
			p.section(nil)
		}
	}
	if p.lossShort < 0.04 || p.lossShort > 0.06 {
		t.Errorf("loss %.4f, want 0.05", p.lossShort)
	}
}

// TestProbeKeys: both nodes derive the same keys, and none is that of another path, sender or session.
func TestProbeKeys(t *testing.T) {
	seen := map[[16]byte]bool{}
	for range 2 {
		r := newRig(t, 2, false)
		sa, sb := r.establish(t)
		for path := range uint8(MaxPaths) {
			for _, ours := range []bool{true, false} {
				id, key := sa.ProbeKey(ours, path)
				if otherID, other := sb.ProbeKey(!ours, path); otherID != id || other != key {
					t.Errorf("path %d, ours %v: key id %#x, the peer has %#x", path, ours, id, otherID)
				}
				if seen[key] {
					t.Errorf("path %d, ours %v: the key was there before", path, ours)
				}
				seen[key] = true
			}
		}
		time.Sleep(time.Millisecond) // epochs are in microseconds
	}
	if len(seen) != 4*MaxPaths {
		t.Errorf("%d keys, want %d", len(seen), 4*MaxPaths)
	}
}

// TestFilling: while a session finds the paths' rates, both ends know whose queue is on them; a path that carries probes
// alone, a while later, has none.
func TestFilling(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, seed, wan.Impairment{Rate: 20e6, Delay: 30 * time.Millisecond, Queue: 100 * time.Millisecond},
			wan.Impairment{Rate: 50e6, Delay: 80 * time.Millisecond, Queue: 100 * time.Millisecond})
		defer w.close()
		w.sessions()
		const step, seconds = 5 * time.Millisecond, 5
		// Steps in which the sender said it, those in which the receiver did, and the greatest queue in neither.
		var out, in [2]int
		var other [2]time.Duration
		for range seconds * int(time.Second/step) {
			time.Sleep(step)
			sender, receiver := w.b.bond.Stats(), w.a.bond.Stats()
			for i := range sender.Paths {
				s, r := &sender.Paths[i], &receiver.Paths[i]
				if s.Filling {
					out[i]++
				}
				if r.FillingIn {
					in[i]++
				}
				if !s.Filling && !r.FillingIn {
					other[i] = max(other[i], s.Queue)
				}
			}
		}
		t.Logf("filling: %v steps of %v at the sender, %v seen by the receiver; queue otherwise up to %v", out, step, in, other)
		sender, receiver := w.b.bond.Stats(), w.a.bond.Stats()
		for i := range out {
			if out[i] < 20 || out[i] > 400 || in[i] < out[i]*3/4 || in[i] > out[i]*5/4+10 {
				t.Errorf("path %d: filling for %d steps, seen for %d, want 20 to 400 and about as many", i, out[i], in[i])
			}
			if other[i] > 25*time.Millisecond {
				t.Errorf("path %d: a queue of %v, and nobody said it was filling", i, other[i])
			}
			if sender.Paths[i].Filling || receiver.Paths[i].FillingIn {
				t.Errorf("path %d is still filling after %d s", i, seconds)
			}
		}
	})
}

// TestLossOfStart: what overflows the queues while the rates are found does not count as the paths' loss for long.
func TestLossOfStart(t *testing.T) {
	seed := testSeed(t)
	for _, tt := range []struct {
		scenario string
		after    int // seconds
		out, in  float64
		least    float64 // mean of out
	}{
		{"clean", 3, 0.02, 0.04, 0},
		{"heavy", 15, 0.45, 0.45, 0.004},
	} {
		t.Run(tt.scenario, func(t *testing.T) {
			imps, _ := scenario(t, tt.scenario)
			lost := 0.0
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, seed, imps...)
				defer w.close()
				sa, sb := w.sessions()
				<-sa.Started()
				<-sb.Started()
				for seconds := range 21 {
					var out, in [3]float64
					for i, ps := range w.b.bond.Stats().Paths {
						out[i], in[i] = ps.Loss, ps.LossIn
						if tt.after <= seconds && ps.Loss > tt.out || seconds == 20 && ps.LossIn > tt.in {
							t.Errorf("%s after %d s: loss %.3f out and %.3f in", ps.Name, seconds, ps.Loss, ps.LossIn)
						}
						lost = max(lost, float64(ps.Lost)/float64(ps.Sent))
					}
					t.Logf("after %d s: out %.3f, in %.3f", seconds, out, in)
					if mean := (out[0] + out[1] + out[2]) / 3; seconds == 20 && mean < tt.least {
						t.Errorf("the mean loss is %.4f, want %v at least", mean, tt.least)
					}
					time.Sleep(time.Second)
				}
				if lost < 0.1 {
					t.Errorf("the start lost %.3f of its packets: nothing was to be forgotten", lost)
				}
			})
		})
	}
}
