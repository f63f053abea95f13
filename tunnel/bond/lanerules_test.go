package bond

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestRule4Backlog: a connection that stands still is given quicBacklog packets and one, and loses none.
func TestRule4Backlog(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := &gate{}
		w := newWorldOf(t, testSeed(t), worldConfig{quic: func(isA bool, c *quic.Config) {
			if isA {
				c.Tracer = g.tracer
			}
		}, links: bothWays(wan.Impairment{Rate: 100e6, Delay: 10 * time.Millisecond, Queue: 100 * time.Millisecond})})
		defer w.close()
		sa, sb := w.sessions()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		stalls := 0
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			time.Sleep(time.Second)
			for range 5 {
				g.close()
				time.Sleep(backlogStuck - 20*time.Millisecond)
				if p.la.backlog.ends.len() >= quicBacklog {
					stalls++
				}
				g.open()
				time.Sleep(300 * time.Millisecond)
			}
		}()
		r := p.transfer(t, 1, 4*time.Second)
		<-stop
		if !r.ok {
			t.Error("payload damaged")
		}
		if stalls < 3 {
			t.Errorf("the lane was held back in %d of 5 stalls: nothing was shown", stalls)
		}
		if n := g.dropped.Load(); n != 0 {
			t.Errorf("quic-go's receive queue dropped %d packets", n)
		}
		if quicBacklog >= 256 {
			t.Errorf("quicBacklog is %d, quic-go keeps 256", quicBacklog)
		}
	})
}

// TestRule5Lanes: several lanes of each class, each wide enough for quic-go's window; a lane that is replaced drains, and
// its number stays unused while its packets may be about.
func TestRule5Lanes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testSeed(t), wan.Impairment{Rate: 20e6, Delay: 30 * time.Millisecond})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		if tx := newLaneTx(0, Bulk); true {
			tx.next = 10_000
			if !tx.room() {
				t.Error("no room for 10,000 packets on the way")
			}
		}
		if _, err := sb.OpenLane(Bulk); err == nil {
			t.Error("the accepting side opened a lane")
		}
		old, oldB := w.rawLane(sa, sb, Bulk)
		stop := collect(oldB)
		for i := range 500 {
			if _, err := old.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
		}
		old.Close() // its last packets still go out
		fresh, freshB := w.rawLane(sa, sb, Bulk)
		stopFresh := collect(freshB)
		for i := range 500 {
			if _, err := fresh.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		exactlyOnce(t, stop(), 500)
		exactlyOnce(t, stopFresh(), 500)
		if old.ID() == fresh.ID() {
			t.Error("the fresh lane has the old one's number")
		}
		fresh.Close()
		time.Sleep(2 * time.Second) // forgotten

		ids := map[int]bool{}
		var open []*Lane
		for i := 0; ; i++ {
			l, err := sa.OpenLane(Class(i % int(numClasses)))
			if err != nil {
				if !errors.Is(err, ErrTooMany) || len(open) != maxLanes {
					t.Errorf("%d lanes, then %v; want %d", len(open), err, maxLanes)
				}
				break
			}
			if ids[l.ID()] || l.ID() == old.ID() || laneClass(l.id) != l.Class() {
				t.Errorf("lane number %d of class %v twice", l.ID(), l.Class())
			}
			ids[l.ID()] = true
			open = append(open, l)
		}
		for _, l := range open {
			l.Close()
		}
		time.Sleep(2 * time.Second)
		// All numbers of the class in a row: those used lately are passed over, and free again in the end.
		n := 0
		for {
			l, err := sa.OpenLane(Bulk)
			if err != nil {
				break
			}
			l.Close()
			time.Sleep(50 * time.Millisecond)
			n++
		}
		if used := maxLanes/int(numClasses) + 2; n < lanesPerClass-used-1 || n >= lanesPerClass {
			t.Errorf("%d lanes could be opened in a row, %d numbers were fresh", n, lanesPerClass-used)
		}
		time.Sleep(laneTombstone + time.Second)
		if _, err := sa.OpenLane(Bulk); err != nil {
			t.Errorf("no number is free again: %v", err)
		}
	})
}

// tapSocket shows what is written to an uplink.
type tapSocket struct {
	Socket
	see func(ms []Message)
}

func (s *tapSocket) WriteBatch(ms []Message) (int, error) {
	s.see(ms)
	return s.Socket.WriteBatch(ms)
}

// TestRule6PacketSize: a lane packet of the largest size, its repair symbols and all else fit the uplink's MTU, and use it
// to the last byte.
func TestRule6PacketSize(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 1500} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var mu sync.Mutex
				var most [kindEnd]int
				w := newWorldOf(t, testSeed(t), worldConfig{mtu: mtu, wrap: func(_ bool, _ int, s Socket) Socket {
					return &tapSocket{s, func(ms []Message) {
						mu.Lock()
						defer mu.Unlock()
						for _, m := range ms {
							h, ok := parseHeader(m.Buf)
							if !ok {
								t.Error("a malformed datagram was sent")
							}
							most[h.kind] = max(most[h.kind], len(m.Buf))
						}
					}}
				}, links: bothWays(wan.Impairment{Rate: 20e6, Delay: 20 * time.Millisecond, Loss: 0.05, MTU: mtu},
					wan.Impairment{Rate: 20e6, Delay: 25 * time.Millisecond, Loss: 0.05, MTU: mtu})})
				defer w.close()
				sa, sb := w.sessions()
				<-sa.Started()
				la, lb := w.rawLane(sa, sb, Interactive)
				if got := la.MaxPacketSize(); got != mtu-28-Overhead {
					t.Errorf("largest lane packet %d, want %d", got, mtu-28-Overhead)
				}
				stop := collect(lb)
				src := rand.New(rand.NewPCG(1, 2))
				b := make([]byte, la.MaxPacketSize())
				const packets = 2000
				for i := range packets {
					for j := range b {
						b[j] = byte(src.Uint32())
					}
					if _, err := la.WriteTo(stampPacket(b, uint64(i)), nil); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				exactlyOnce(t, stop(), packets)
				mu.Lock()
				defer mu.Unlock()
				for k, n := range most {
					if n > mtu-28 {
						t.Errorf("datagram of kind %d has %d bytes, the uplink takes %d", k, n, mtu-28)
					}
				}
				if most[kindRepair] != mtu-28 || most[kindSource] != mtu-28-2 {
					t.Errorf("largest source and repair %d and %d bytes, want %d and %d", most[kindSource], most[kindRepair], mtu-30, mtu-28)
				}
			})
		})
	}
}
