package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel"
)

// memoryCalls is a border of one link, in memory.
type memoryCalls struct {
	network *wan.Network
	tamper  func(net.Conn) net.Conn
	opened  []*fixedConn
	refuse  int // port
}

var callEnds = [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}

// fixedConn is a packet connection with one peer.
type fixedConn struct {
	*wan.Conn
	to     net.Addr
	closed bool
}

func (c *fixedConn) Write(b []byte) (int, error) { return c.WriteTo(b, c.to) }
func (c *fixedConn) RemoteAddr() net.Addr        { return c.to }
func (c *fixedConn) Close() error                { c.closed = true; return c.Conn.Close() }
func (c *fixedConn) Read(b []byte) (n int, _ error) {
	n, _, err := c.ReadFrom(b)
	return n, err
}

func (m *memoryCalls) OpenCall(port int) (client, origin net.Conn, err error) {
	var conns [2]net.Conn
	if port == m.refuse {
		return nil, nil, errors.New("no socket")
	}
	for i, a := range callEnds {
		c, err := m.network.Listen(netip.AddrPortFrom(a, uint16(port)))
		if err != nil {
			return nil, nil, err
		}
		f := &fixedConn{Conn: c, to: net.UDPAddrFromAddrPort(netip.AddrPortFrom(callEnds[1-i], uint16(port)))}
		m.opened = append(m.opened, f)
		conns[i] = f
	}
	if m.tamper != nil {
		conns[0] = m.tamper(conns[0])
	}
	return conns[0], conns[1], nil
}

// calls runs the workload over one link in virtual time; during runs beside it.
func calls(t *testing.T, out, back wan.Impairment, window time.Duration, during func(*wan.Link)) (res CallsResult) {
	t.Helper()
	seed := testSeed(t)
	synctest.Test(t, func(t *testing.T) {
		m := &memoryCalls{network: wan.NewNetwork(seed)}
		link, err := m.network.Connect(callEnds[0], callEnds[1], out, back)
		if err != nil {
			t.Fatal(err)
		}
		if during != nil {
			during(link)
		}
		if res, err = RunCalls(t.Context(), m, CallsOptions{Seed: seed, Window: window}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	})
	return res
}

func TestCalls(t *testing.T) {
	const window = 20 * time.Second
	clean := wan.Impairment{Rate: 50_000_000, Delay: 90 * time.Millisecond, Queue: 100 * time.Millisecond}
	lossy, late := clean, clean
	lossy.Loss = 0.02
	late.Delay = 250 * time.Millisecond
	perfect := pathsel.MOS(pathsel.RFactor(110*time.Millisecond, 0, 1))
	for _, tc := range []struct {
		name      string
		out, back wan.Impairment
		loss      float64
		p50       time.Duration
		mos       float64 // within 0.1
		gap       time.Duration
	}{
		{"clean", clean, clean, 0, 90 * time.Millisecond, perfect, 20 * time.Millisecond},
		// A call is as good as its worse half.
		{"2 % lost on the way back", clean, lossy, 0.01, 90 * time.Millisecond, pathsel.MOS(pathsel.RFactor(110*time.Millisecond, 0.02, 1)), 0},
		{"one way is long", late, clean, 0, 90 * time.Millisecond, pathsel.MOS(pathsel.RFactor(270*time.Millisecond, 0, 1)), 20 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := calls(t, tc.out, tc.back, window, nil)
			if sent := 2 * Calls * 50 * int(window/time.Second); res.Calls != Calls || res.Sent != sent || !res.SumOK || len(res.Delays) != res.Sent-res.Lost {
				t.Errorf("%d calls, %d packets sent, %d delays, intact %v, want %d, %d", res.Calls, res.Sent, len(res.Delays), res.SumOK, Calls, sent)
			}
			if want := int64(len(res.Delays) * callPayload); res.Bytes != want {
				t.Errorf("%d bytes, want %d", res.Bytes, want)
			}
			// 20,000 packets a direction: five standard deviations of 2 % are 25 %.
			if loss := float64(res.Lost) / float64(res.Sent); math.Abs(loss-tc.loss) > 0.25*tc.loss {
				t.Errorf("loss %v, want %v", loss, tc.loss)
			}
			// A packet of 214 bytes takes 34 µs at the rate.
			if p50 := Quantile(res.Delays, 0.5); p50 < tc.p50 || p50 > tc.p50+time.Millisecond {
				t.Errorf("median delay %v, want %v", p50, tc.p50)
			}
			if math.Abs(res.MOS-tc.mos) > 0.1 || res.MOSWorst > res.MOS {
				t.Errorf("MOS %v, worst %v, want %v", res.MOS, res.MOSWorst, tc.mos)
			}
			if tc.gap > 0 && (res.GapMax < tc.gap || res.GapMax > tc.gap+time.Millisecond) {
				t.Errorf("longest gap %v, want %v", res.GapMax, tc.gap)
			}
		})
	}
}

// TestCallsInAnOutage: an outage shows in the gap, also when it lasts to the end.
func TestCallsInAnOutage(t *testing.T) {
	clean := wan.Impairment{Rate: 50_000_000, Delay: 90 * time.Millisecond, Queue: 100 * time.Millisecond}
	for _, tc := range []struct {
		name           string
		from, long     time.Duration
		window         time.Duration
		gap, within    time.Duration
		loss, nearness float64
	}{
		{"in the middle", 5 * time.Second, 2 * time.Second, 9 * time.Second, 2 * time.Second, 50 * time.Millisecond, 2.0 / 9, 0.01},
		{"to the end", 5 * time.Second, time.Minute, 9 * time.Second, 5 * time.Second, 150 * time.Millisecond, 5.0 / 9, 0.02},
		{"all the time", 0, time.Minute, 9 * time.Second, 9 * time.Second, 50 * time.Millisecond, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := calls(t, clean, clean, tc.window, func(l *wan.Link) {
				time.AfterFunc(tc.from, func() { l.Darken(true) })
				time.AfterFunc(tc.from+tc.long, func() { l.Darken(false) })
			})
			if d := res.GapMax - tc.gap; d < -tc.within || d > tc.within {
				t.Errorf("longest gap %v, want %v", res.GapMax, tc.gap)
			}
			if loss := float64(res.Lost) / float64(res.Sent); math.Abs(loss-tc.loss) > tc.nearness {
				t.Errorf("loss %v, want %v", loss, tc.loss)
			}
			if tc.loss == 1 && math.Abs(res.MOS-1) > 1e-9 {
				t.Errorf("MOS %v of calls that heard nothing, want 1", res.MOS)
			}
		})
	}
}

// tamperedConn changes what is read.
type tamperedConn struct {
	net.Conn
	change func(b []byte) (again bool)
}

func (c tamperedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		c.change(b[:n])
	}
	return n, err
}

func TestCallsNoticeFaults(t *testing.T) {
	clean := wan.Impairment{Rate: 50_000_000, Delay: 10 * time.Millisecond, Queue: 100 * time.Millisecond}
	for _, tc := range []struct {
		name   string
		change func(b []byte) bool
	}{
		{"a byte of speech", func(b []byte) bool { b[100]++; return false }},
		{"a number far off", func(b []byte) bool { b[2] ^= 0x40; return false }},
		{"somebody else's", func(b []byte) bool { b[9]++; return false }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seed := testSeed(t)
			synctest.Test(t, func(t *testing.T) {
				m := &memoryCalls{network: wan.NewNetwork(seed), tamper: func(c net.Conn) net.Conn { return tamperedConn{c, tc.change} }}
				if _, err := m.network.Connect(callEnds[0], callEnds[1], clean, clean); err != nil {
					t.Fatal(err)
				}
				res, err := RunCalls(t.Context(), m, CallsOptions{Seed: seed, Window: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if res.SumOK || res.Lost != res.Sent/2 {
					t.Errorf("intact %v, %d of %d lost, want false and half", res.SumOK, res.Lost, res.Sent)
				}
			})
		})
	}
}

func TestCallsEndWell(t *testing.T) {
	clean := wan.Impairment{Rate: 50_000_000, Delay: 10 * time.Millisecond, Queue: 100 * time.Millisecond}
	for _, tc := range []struct {
		name string
		prep func(m *memoryCalls, cancel func())
		want string
	}{
		{"cancelled", func(_ *memoryCalls, cancel func()) { time.AfterFunc(3*time.Second, cancel) }, context.Canceled.Error()},
		{"no socket for the last call", func(m *memoryCalls, _ func()) { m.refuse = callPort + 2*(Calls-1) }, fmt.Sprintf("call %d: no socket", Calls-1)},
		{"a socket breaks", func(m *memoryCalls, _ func()) {
			time.AfterFunc(3*time.Second, func() { m.opened[7].SetReadDeadline(time.Now()) })
		}, "call 3: receive: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memoryCalls{network: wan.NewNetwork(1)}
				if _, err := m.network.Connect(callEnds[0], callEnds[1], clean, clean); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				tc.prep(m, cancel)
				_, err := RunCalls(ctx, m, CallsOptions{Window: 10 * time.Second})
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want %q", err, tc.want)
				}
				for i, c := range m.opened {
					if !c.closed {
						t.Errorf("socket %d stays open", i)
					}
				}
			})
		})
	}
	if _, err := RunCalls(t.Context(), &memoryCalls{}, CallsOptions{}); err == nil {
		t.Error("a run without a window")
	}
}

// TestCallNumbers: RTP's 16 bits wrap after 22 minutes.
func TestCallNumbers(t *testing.T) {
	l := &callLeg{sent: make([]time.Time, 200_000), payload: 9}
	var b [callPacket]byte
	for _, i := range []int{199_999, 199_990, 180_000} {
		l.packet(b[:], i)
		if got, ok := l.number(b[:]); !ok || got != i {
			t.Errorf("packet %d is %d, %v", i, got, ok)
		}
	}
	l.packet(b[:], 200_001) // from the future
	if got, ok := l.number(b[:]); ok {
		t.Errorf("a packet that was not sent is %d", got)
	}
	if _, ok := l.number(b[:callPacket-1]); ok {
		t.Error("a short packet has a number")
	}
}

// TestPlayout: rare packets that are very late are lost to the player and do not hold up the speech.
func TestPlayout(t *testing.T) {
	start := time.Unix(1000, 0)
	var sent, arrived []time.Time
	for i := range 2000 {
		at := start.Add(time.Duration(i) * callInterval)
		delay := 100 * time.Millisecond
		if i%500 == 77 || i == 0 {
			delay = time.Second
		}
		sent, arrived = append(sent, at), append(arrived, at.Add(delay))
	}
	want := pathsel.RFactor(120*time.Millisecond, 0.0025, 1)
	if got := playout(sent, arrived); math.Abs(got-want) > 0.1 {
		t.Errorf("R %v, want %v", got, want)
	}
	late := slices.Clone(sent)
	for i := 500; i < 510; i++ { // the sender was busy
		late[i], arrived[i] = late[i].Add(time.Second), arrived[i].Add(time.Second)
	}
	if gap := longestGap(late, arrived); gap != 2*callInterval {
		t.Errorf("longest gap %v, want that of one late packet, %v", gap, 2*callInterval)
	}
}
