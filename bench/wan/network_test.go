package wan

import (
	"errors"
	"net"
	"net/netip"
	"os"
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

// BenchmarkNetwork simulates virtual seconds of three 50 Mbit/s links, full.
func BenchmarkNetwork(b *testing.B) {
	b.ReportAllocs()
	n := NewNetwork(1)
	src, dst, _ := pair(b, n, Impairment{Delay: time.Millisecond}, Impairment{})
	dst.SetReadBuffer(1 << 30)
	buf := make([]byte, 1472)
	got := 0
	for i := range b.N {
		src.WriteToUDPAddrPort(buf, hostB)
		if i%64 == 63 {
			for range 64 {
				dst.ReadFromUDPAddrPort(buf)
				got++
			}
		}
	}
}

func TestNetworkCPU(t *testing.T) {
	wall := time.Now()
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b, _ := pair(t, n, Impairment{Rate: 400e6, Delay: 90 * time.Millisecond, Jitter: 2 * time.Millisecond}, Impairment{})
		go func() {
			for range 20000 {
				a.WriteToUDPAddrPort(make([]byte, 1000), hostB)
				time.Sleep(50 * time.Microsecond)
			}
			time.Sleep(time.Second)
			b.Close()
			a.Close()
		}()
		buf := make([]byte, 2000)
		for {
			if _, _, err := b.ReadFromUDPAddrPort(buf); err != nil {
				break
			}
		}
	})
	t.Logf("20,000 packets in a virtual second: %v", time.Since(wall))
}
