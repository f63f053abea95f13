package wan

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	hostA = netip.MustParseAddrPort("10.0.0.1:4500")
	hostB = netip.MustParseAddrPort("10.0.0.2:4500")
)

func pair(t testing.TB, n *Network, ab, ba Impairment) (a, b *Conn, l *Link) {
	t.Helper()
	a, err := n.Listen(hostA)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = n.Listen(hostB); err != nil {
		t.Fatal(err)
	}
	if l, err = n.Connect(hostA.Addr(), hostB.Addr(), ab, ba); err != nil {
		t.Fatal(err)
	}
	return a, b, l
}

func TestNetworkDelayAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b, l := pair(t, n, Impairment{Rate: 50e6, Delay: 90 * time.Millisecond}, Impairment{})
		defer a.Close()
		defer b.Close()
		const count = 200
		start := time.Now()
		for range count {
			if _, err := a.WriteToUDPAddrPort(make([]byte, 1472), hostB); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 2000)
		for i := range count {
			got, from, err := b.ReadFromUDPAddrPort(buf)
			if err != nil || got != 1472 || from != hostA {
				t.Fatalf("read: %d bytes from %v, %v", got, from, err)
			}
			want := 90*time.Millisecond + time.Duration(i+1)*1514*8*20*time.Nanosecond
			if d := time.Since(start) - want; d < -time.Microsecond || d > time.Microsecond {
				t.Fatalf("datagram %d after %v, want %v", i, time.Since(start), want)
			}
		}
		c := l.Stats(AtoB)
		if c.Delivered != count || c.SentBytes != count*1514 || c.InFlight != 0 {
			t.Errorf("counters %+v", c)
		}
		if _, err := b.WriteTo([]byte("back"), net.UDPAddrFromAddrPort(hostA)); err != nil {
			t.Fatal(err)
		}
		if k, from, err := a.ReadFrom(buf); err != nil || string(buf[:k]) != "back" || from.String() != hostB.String() {
			t.Errorf("back: %q from %v, %v", buf[:k], from, err)
		}
	})
}

func TestConnDeadlineAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b, _ := pair(t, n, Impairment{}, Impairment{})
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		_, _, err := a.ReadFrom(make([]byte, 10))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %v, want deadline after 1s", err, time.Since(start))
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		a.SetReadDeadline(time.Time{})
		done := make(chan error)
		for range 2 {
			go func() {
				_, _, err := a.ReadFrom(make([]byte, 10))
				done <- err
			}()
		}
		synctest.Wait()
		a.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after close: %v", err)
			}
		}
		if _, err := a.WriteToUDPAddrPort(nil, hostB); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		b.WriteToUDPAddrPort([]byte("x"), hostA)
		b.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("10.9.9.9:1"))
		time.Sleep(time.Millisecond)
		if s := n.Stats(); s.NoSocket != 1 || s.Unlinked != 1 {
			t.Errorf("stats %+v", s)
		}
		b.Close()
	})
}

// arrival is one datagram as the receiver saw it.
type arrival struct {
	id      uint32
	at      time.Duration
	flipped bool
}

// writeNumbered fills b with its number, over and over; readNumbered finds the
// number even with one byte flipped.
func writeNumbered(b []byte, id uint32) {
	for i := 0; i+4 <= len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], id)
	}
}

func readNumbered(b []byte, at time.Duration) arrival {
	x := arrival{id: binary.BigEndian.Uint32(b), at: at}
	if x.id != binary.BigEndian.Uint32(b[4:]) {
		x.id = binary.BigEndian.Uint32(b[8:])
	}
	for i := 0; i+4 <= len(b); i += 4 {
		x.flipped = x.flipped || binary.BigEndian.Uint32(b[i:]) != x.id
	}
	return x
}

// run sends count datagrams, one every gap, and returns what arrived.
func run(t *testing.T, seed uint64, imp Impairment, count int, gap time.Duration, during func(i int, l *Link)) (got []arrival, c Counters) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(seed)
		a, b, l := pair(t, n, imp, Impairment{})
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2000)
			for {
				k, _, err := b.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				got = append(got, readNumbered(buf[:k], time.Since(start)))
			}
		}()
		out := make([]byte, 500)
		for i := range count {
			writeNumbered(out, uint32(i))
			if during != nil {
				during(i, l)
			}
			a.WriteToUDPAddrPort(out, hostB)
			time.Sleep(gap)
		}
		time.Sleep(2 * time.Second)
		b.Close()
		a.Close()
		<-done
		c = l.Stats(AtoB)
	})
	return got, c
}

func TestNetworkImpairments(t *testing.T) {
	const n = 20000
	got, c := run(t, testSeed(t), mustParse("delay 30ms loss 3% duplicate 2% corrupt 1% reorder 4% 5ms"), n, time.Millisecond, nil)
	checkCounters(t, c)
	within99(t, "lost", c.Lost, n, 0.03, 1)
	if c.DeliveredBytes != c.Delivered*(500+HeaderIPv4) {
		t.Errorf("%d bytes delivered in %d frames of %d", c.DeliveredBytes, c.Delivered, 500+HeaderIPv4)
	}
	if uint64(len(got)) != c.Delivered {
		t.Errorf("%d arrive, counted %d", len(got), c.Delivered)
	}
	seen := make(map[uint32]int)
	var corrupt, late, dup uint64
	for _, x := range got {
		if seen[x.id]++; seen[x.id] == 2 {
			dup++
			continue
		}
		if x.flipped {
			corrupt++
		}
		switch d := x.at - time.Duration(x.id)*time.Millisecond; d {
		case 30 * time.Millisecond:
		case 35 * time.Millisecond:
			late++
		default:
			t.Fatalf("datagram %d took %v", x.id, d)
		}
	}
	arrived := c.Sent - c.Lost
	within99(t, "duplicated", dup, arrived, 0.02, 1)
	within99(t, "corrupted", corrupt, arrived, 0.01, 1)
	within99(t, "reordered", late, arrived, 0.04, 1)
}

func TestNetworkSeeds(t *testing.T) {
	imp := mustParse("8mbit delay 30ms jitter 4ms loss 3% ge 0.01/0.2/0.3 reorder 1% 4ms duplicate 1%")
	one, _ := run(t, 5, imp, 3000, 500*time.Microsecond, nil)
	two, _ := run(t, 5, imp, 3000, 500*time.Microsecond, nil)
	other, _ := run(t, 6, imp, 3000, 500*time.Microsecond, nil)
	if !slices.Equal(one, two) {
		t.Error("same seed, different runs")
	}
	if slices.Equal(one, other) {
		t.Error("different seeds, same run")
	}
}

func TestNetworkRateCut(t *testing.T) {
	// 500 bytes of payload are 542 on the wire: 9 Mbit/s is 0.4818 ms each. Send
	// at 90 % of that, and cut the rate to a third in the middle.
	const gap = 535 * time.Microsecond
	got, c := run(t, 1, mustParse("9mbit queue 100ms"), 4000, gap, func(i int, l *Link) {
		if i == 2000 {
			imp := l.Impairment(AtoB)
			imp.Rate /= 3
			if err := l.SetImpairment(AtoB, imp); err != nil {
				t.Fatal(err)
			}
		}
	})
	rate := func(from, to time.Duration) float64 {
		n := 0
		for _, x := range got {
			if x.at >= from && x.at < to {
				n++
			}
		}
		return float64(n) * 542 * 8 / (to - from).Seconds() / 1e6
	}
	if before := rate(0, 2000*gap); math.Abs(before/(542*8/gap.Seconds()/1e6)-1) > 0.01 {
		t.Errorf("before the cut: %.3f Mbit/s", before)
	}
	if after := rate(2100*gap, 4000*gap); math.Abs(after/3-1) > 0.01 {
		t.Errorf("after the cut: %.3f Mbit/s, want 3", after)
	}
	if c.QueueDrops == 0 {
		t.Error("nothing dropped from a queue at thrice its rate")
	}
}

func TestNetworkDarken(t *testing.T) {
	got, c := run(t, 1, mustParse("delay 50ms"), 1000, time.Millisecond, func(i int, l *Link) {
		switch i {
		case 300:
			l.Darken(true)
		case 600:
			l.Darken(false)
		}
	})
	if len(got) != 700 || got[299].id != 299 || got[300].id != 600 || c.Outage != 300 {
		t.Errorf("%d arrive, around the dark: %v; counters %+v", len(got), got[295:305], c)
	}
}

func TestConnReceiveBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := pair(t, NewNetwork(1), Impairment{}, Impairment{})
		defer a.Close()
		defer b.Close()
		if err := b.SetReadBuffer(10 * (1000 + perDatagram)); err != nil {
			t.Fatal(err)
		}
		for range 25 {
			a.WriteToUDPAddrPort(make([]byte, 1000), hostB)
		}
		time.Sleep(time.Millisecond)
		if s := b.Stats(); s.Received != 10 || s.BufferDrops != 15 || s.BufferedSize != 10*(1000+perDatagram) {
			t.Errorf("stats %+v", s)
		}
		big := make([]byte, 4000) // larger than a pooled buffer
		big[3999] = 7
		for range 10 {
			b.ReadFrom(big[:10])
		}
		if _, err := a.WriteToUDPAddrPort(big, hostB); err != nil {
			t.Fatal(err)
		}
		in := make([]byte, 5000)
		if n, _, err := b.ReadFromUDPAddrPort(in); n != 4000 || in[3999] != 7 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if b.Stats().BufferedSize != 0 {
			t.Errorf("stats %+v", b.Stats())
		}
		if _, err := a.WriteToUDPAddrPort(make([]byte, MaxDatagram+1), hostB); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("huge datagram: %v", err)
		}
	})
}

func TestNetworkRebind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b, _ := pair(t, n, Impairment{}, Impairment{})
		defer a.Close()
		defer b.Close()
		moved := netip.AddrPortFrom(hostA.Addr(), 7777)
		if err := n.Rebind(a, hostB); !errors.Is(err, ErrAddressUsed) {
			t.Errorf("rebind to a used address: %v", err)
		}
		if err := n.Rebind(a, moved); err != nil {
			t.Fatal(err)
		}
		a.WriteToUDPAddrPort([]byte("x"), hostB)
		in := make([]byte, 10)
		if _, from, _ := b.ReadFromUDPAddrPort(in); from != moved {
			t.Errorf("comes from %v, want %v", from, moved)
		}
		b.WriteToUDPAddrPort([]byte("old"), hostA)
		b.WriteToUDPAddrPort([]byte("new"), moved)
		if k, _, err := a.ReadFromUDPAddrPort(in); string(in[:k]) != "new" || err != nil {
			t.Errorf("read %q, %v", in[:k], err)
		}
		if s := n.Stats(); s.NoSocket != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestNetworkIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		x, y := netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2")
		a, _ := n.Listen(x)
		b, _ := n.Listen(y)
		defer a.Close()
		defer b.Close()
		l, err := n.Connect(x.Addr(), y.Addr(), Impairment{}, Impairment{})
		if err != nil {
			t.Fatal(err)
		}
		a.WriteToUDPAddrPort(make([]byte, 1000), y)
		if k, from, err := b.ReadFromUDPAddrPort(make([]byte, 2000)); k != 1000 || from != x || err != nil {
			t.Errorf("read %d from %v, %v", k, from, err)
		}
		if c := l.Stats(AtoB); c.SentBytes != 1062 {
			t.Errorf("%d bytes on the wire, want 1062", c.SentBytes)
		}
	})
}

func TestNetworkErrors(t *testing.T) {
	n := NewNetwork(1)
	a, _, _ := pair(t, n, Impairment{}, Impairment{})
	any4, v6 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("fd00::1")
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"listen twice", second(n.Listen(hostA)), ErrAddressUsed},
		{"listen anywhere", second(n.Listen(netip.AddrPortFrom(any4, 1))), ErrAddress},
		{"listen nowhere", second(n.Listen(netip.AddrPort{})), ErrAddress},
		{"connect twice", second(n.Connect(hostA.Addr(), hostB.Addr(), Impairment{}, Impairment{})), ErrLinked},
		{"connect twice, turned", second(n.Connect(hostB.Addr(), hostA.Addr(), Impairment{}, Impairment{})), ErrLinked},
		{"connect to itself", second(n.Connect(hostA.Addr(), hostA.Addr(), Impairment{}, Impairment{})), ErrAddress},
		{"connect families", second(n.Connect(hostA.Addr(), v6, Impairment{}, Impairment{})), ErrAddress},
		{"connect badly", second(n.Connect(hostA.Addr(), netip.MustParseAddr("10.0.0.3"), Impairment{Loss: 2}, Impairment{})), ErrImpairment},
		{"write nowhere", second(a.WriteToUDPAddrPort(nil, netip.AddrPort{})), ErrAddress},
		{"write to a TCP address", second(a.WriteTo(nil, &net.TCPAddr{})), ErrAddress},
		{"no buffer", a.SetReadBuffer(0), syscall.EINVAL},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	c, err := n.Listen(netip.AddrPortFrom(hostA.Addr(), 0))
	if err != nil || c.LocalAddr().(*net.UDPAddr).Port < 49152 {
		t.Errorf("listen on port 0: %v, %v", c.LocalAddr(), err)
	}
}

func second[T any](_ T, err error) error { return err }

// BenchmarkNetwork is the cost of a datagram from write to read.
func BenchmarkNetwork(b *testing.B) {
	src, dst, _ := pair(b, NewNetwork(1), Impairment{}, Impairment{})
	buf := make([]byte, 1472)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	const batch = 64
	for i := 0; b.Loop(); i++ {
		src.WriteToUDPAddrPort(buf, hostB)
		if i%batch == batch-1 {
			for range batch {
				dst.ReadFromUDPAddrPort(buf)
			}
		}
	}
}

// TestNetworkCPU keeps simulation cheap: 20,000 packets a virtual second must
// take well under a second, also under -race on a busy machine.
func TestNetworkCPU(t *testing.T) {
	start := time.Now()
	got, _ := run(t, 1, mustParse("400mbit delay 90ms jitter 2ms"), 20000, 50*time.Microsecond, nil)
	wall := time.Since(start)
	t.Logf("%d datagrams in a virtual second: %v", len(got), wall)
	if len(got) != 20000 || wall > 5*time.Second {
		t.Errorf("%d datagrams in %v", len(got), wall)
	}
}
