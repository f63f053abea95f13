package wan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal("LANDBRIDGE_REQUIRE_ROOT=1, but not root")
	}
	t.Skip("needs root: makes TAP devices and network namespaces")
}

var (
	tapA = netip.MustParsePrefix("10.99.0.1/24")
	tapB = netip.MustParsePrefix("10.99.0.2/24")
)

// tapPair makes two namespaces with one link between them and a UDP socket in
// each, neighbours resolved.
func tapPair(t testing.TB, seed uint64, ab, ba Impairment) (e *Emulator, a, b *net.UDPConn) {
	t.Helper()
	requireRoot(t)
	nsA, nsB := fmt.Sprintf("wana%d", os.Getpid()), fmt.Sprintf("wanb%d", os.Getpid())
	for _, ns := range []string{nsA, nsB} {
		if err := CreateNamespace(ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := DeleteNamespace(ns); err != nil {
				t.Error(err)
			}
		})
	}
	e, err := NewEmulator(seed, []LinkConfig{{
		Name: "x", AtoB: ab, BtoA: ba,
		A: End{Namespace: nsA, Interface: "x0", Addresses: []netip.Prefix{tapA}},
		B: End{Namespace: nsB, Interface: "x0", Addresses: []netip.Prefix{tapB}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	var conns [2]*net.UDPConn
	for i, ns := range []string{nsA, nsB} {
		at := netip.AddrPortFrom([]netip.Prefix{tapA, tapB}[i].Addr(), 5000)
		if conns[i], err = ListenUDPIn(ns, at); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
		raw, _ := conns[i].SyscallConn()
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) })
	}
	resolve(t, conns[0], conns[1])
	return e, conns[0], conns[1]
}

// resolve sends one datagram each way, outside the model (multicast-free ARP
// only covers the first), so that no test frame waits for ARP.
func resolve(t testing.TB, a, b *net.UDPConn) {
	t.Helper()
	in := make([]byte, 16)
	for _, p := range [][2]*net.UDPConn{{a, b}, {b, a}} {
		for try := 0; ; try++ {
			if try == 20 {
				t.Fatal("link carries nothing")
			}
			if _, err := p[0].WriteTo([]byte("resolve"), p[1].LocalAddr()); err != nil {
				t.Fatal(err)
			}
			p[1].SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, _, err := p[1].ReadFrom(in); err == nil {
				break
			}
		}
		p[1].SetReadDeadline(time.Time{})
	}
}

var tapDst = netip.AddrPortFrom(tapB.Addr(), 5000)

func BenchmarkTap(b *testing.B) {
	for _, gap := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprintf("gap=%v", gap), func(b *testing.B) {
			e, src, dst := tapPair(b, 1, Impairment{Delay: 20 * time.Millisecond}, Impairment{})
			buf := make([]byte, 1400)
			got := make(chan int)
			go func() {
				n := 0
				in := make([]byte, 2000)
				for {
					dst.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
					if _, _, err := dst.ReadFromUDPAddrPort(in); err != nil {
						break
					}
					n++
				}
				got <- n
			}()
			base := e.Stats()[0].AtoB.Offered
			cpu := e.CPU()
			b.ReportAllocs()
			b.SetBytes(1400)
			b.ResetTimer()
			for i := range b.N {
				src.WriteToUDPAddrPort(buf, tapDst)
				if gap > 0 && i%13 == 0 {
					time.Sleep(gap)
				} else if gap == 0 && i%256 == 255 { // stay inside what the device queues
					for i > 1024 {
						s := e.Stats()[0].AtoB
						if s.Offered-base+s.DeviceDrops >= uint64(i)-1024 {
							break
						}
						time.Sleep(100 * time.Microsecond)
					}
				}
			}
			b.StopTimer()
			n := <-got
			b.ReportMetric(float64(e.CPU()-cpu)/float64(b.N)/1e3, "cpu-us/frame")
			b.ReportMetric(float64(n)/float64(b.N), "delivered")
			b.ReportMetric(float64(e.Stats()[0].AtoB.DeviceDrops), "device-drops")
		})
	}
}
