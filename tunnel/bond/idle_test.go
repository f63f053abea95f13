package bond

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// tally counts what leaves by an uplink, in Ethernet bytes by kind of datagram.
type tally struct {
	Socket
	mu    sync.Mutex
	bytes [kindEnd]int
	mtu   int // of the probes: those of a size
}

func (c *tally) WriteBatch(ms []Message) (int, error) {
	c.mu.Lock()
	for _, m := range ms {
		h, ok := parseHeader(m.Buf)
		switch size := len(m.Buf) + frameOverhead; {
		case !ok:
		case h.kind == kindProbe && len(m.Buf) > headerSize+tagSize:
			c.mtu += size
		default:
			c.bytes[h.kind] += size
		}
	}
	c.mu.Unlock()
	return c.Socket.WriteBatch(ms)
}

func (c *tally) take() (kinds [kindEnd]int, mtu int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kinds, mtu = c.bytes, c.mtu
	c.bytes, c.mtu = [kindEnd]int{}, 0
	return kinds, mtu
}

// TestIdleCost counts what an idle bond sends on each path, by kind, while its lanes' QUIC connections keep themselves alive.
// STAMP probes and their answers are 35 of the 64 kbit/s that a path may cost, so the bond has 24 at the most.
func TestIdleCost(t *testing.T) {
	t.Parallel()
	const most = 24.0
	limits := map[kind]float64{kindProbe: 4, kindReport: 10, kindSource: 2, kindRepair: 5}
	const mtuMost = 4.0
	for _, tt := range []struct {
		name  string
		links []string
	}{
		{"typical", []string{"50mbit queue 100ms delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3", "50mbit queue 100ms delay 110ms jitter 2ms loss 0.5%",
			"50mbit queue 100ms delay 80ms jitter 5ms loss 2% ge 0.003/0.15/0.3"}},
		{"heavy", []string{"50mbit queue 60ms delay 90ms jitter 5ms loss 5% ge 0.005/0.1/0.2", "50mbit queue 60ms delay 110ms jitter 5ms loss 3%",
			"50mbit queue 60ms delay 80ms jitter 10ms loss 10%"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := testSeed(t)
			synctest.Test(t, func(t *testing.T) {
				var imps []wan.Impairment
				for _, text := range tt.links {
					imp, err := wan.ParseImpairment(text)
					if err != nil {
						t.Fatal(err)
					}
					imps = append(imps, imp)
				}
				tallies := map[string]*tally{}
				w := newWorldOf(t, seed, worldConfig{links: bothWays(imps...), wrap: func(isA bool, i int, s Socket) Socket {
					c := &tally{Socket: s}
					tallies[fmt.Sprintf("path %d, a %v", i, isA)] = c
					return c
				}})
				defer w.close()
				sa, sb := w.sessions()
				var lanes []*Lane
				for _, c := range []Class{Interactive, Interactive, Bulk, Bulk} {
					la, lb := w.rawLane(sa, sb, c)
					lanes = append(lanes, la, lb)
				}
				for _, l := range lanes {
					go func() {
						for buf := make([]byte, maxPacket); ; {
							if _, _, err := l.ReadFrom(buf); err != nil {
								return
							}
						}
					}()
				}
				for range 20 {
					for _, l := range lanes {
						write(t, l, make([]byte, 1200))
					}
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(2 * idleAfter)
				for _, c := range tallies {
					c.take()
				}
				const span = 2 * time.Minute
				for range int(span / (5 * time.Second)) {
					for _, l := range lanes { // a ping and the answer to the peer's
						write(t, l, make([]byte, 33))
						write(t, l, make([]byte, 38))
					}
					time.Sleep(5 * time.Second)
				}
				kbit := func(n int) float64 { return float64(n) * 8 / 1000 / span.Seconds() }
				for name, c := range tallies {
					kinds, mtu := c.take()
					sum := kbit(mtu)
					line := fmt.Sprintf("mtu %.1f", kbit(mtu))
					for k, n := range kinds {
						sum += kbit(n)
						line += fmt.Sprintf(", %d: %.1f", k, kbit(n))
						if most, ok := limits[kind(k)]; ok && kbit(n) > most {
							t.Errorf("%s: kind %d costs %.1f kbit/s, want at most %v", name, k, kbit(n), most)
						}
					}
					if kbit(mtu) > mtuMost {
						t.Errorf("%s: probes of the MTU cost %.1f kbit/s, want at most %v", name, kbit(mtu), mtuMost)
					}
					if sum > most || kinds[kindProbe] == 0 {
						t.Errorf("%s: %.1f kbit/s, want at most %v", name, sum, most)
					}
					t.Logf("%s: %.1f kbit/s: %s", name, sum, line)
				}
				for _, s := range []*side{w.a, w.b} {
					s.bond.mu.Lock()
					n := s.bond.pathEvents
					s.bond.mu.Unlock()
					if n > 5 { // each second one is a burst of losses
						t.Errorf("paths were suspect %d times", n)
					}
					t.Logf("%d times a path was suspect", n)
				}
			})
		})
	}
}

func write(t testing.TB, l *Lane, b []byte) {
	t.Helper()
	if _, err := l.WriteTo(b, l.RemoteAddr()); err != nil {
		t.Fatal(err)
	}
}
