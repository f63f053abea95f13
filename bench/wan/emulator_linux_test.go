package wan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		})
	}
	resolve(t, conns[0], conns[1])
	return e, conns[0], conns[1]
}

// resolve sends until something arrives, each way, so that no test datagram
// waits for ARP.
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

// tapRun sends count numbered datagrams of so many Ethernet bytes, a burst
// every gap, and returns when each was sent and what arrived (by the kernel's
// receive time stamps, since the first was sent) until quiet for 150 ms beyond
// the delay.
func tapRun(t *testing.T, from, to *net.UDPConn, count, frameBytes, burst int, gap, delay time.Duration) (sent []time.Duration, got []arrival) {
	t.Helper()
	base := time.Now()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, oob := make([]byte, 2000), make([]byte, 128)
		for {
			to.SetReadDeadline(time.Now().Add(delay + 150*time.Millisecond))
			n, oobn, _, _, err := to.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				select {
				case <-stop:
					return
				default: // an outage
					continue
				}
			}
			if n < 12 {
				continue // a late "resolve"
			}
			at := time.Now()
			if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 && len(msgs[0].Data) == 16 {
				d := msgs[0].Data
				at = time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
			}
			got = append(got, readNumbered(buf[:n], at.Sub(base)))
		}
	}()
	out := make([]byte, frameBytes-HeaderIPv4)
	start := time.Now()
	for i := range count {
		if i%burst == 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i/burst) * gap)))
		}
		writeNumbered(out, uint32(i))
		sent = append(sent, time.Since(base))
		if _, err := from.WriteTo(out, to.LocalAddr()); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-done
	return sent, got
}

// TestTap proves the model on real kernel traffic, over one link whose
// impairment changes from part to part.
func TestTap(t *testing.T) {
	seed := testSeed(t)
	e, a, b := tapPair(t, seed, Impairment{}, Impairment{})
	set := func(t *testing.T, d Direction, text string) {
		t.Helper()
		if err := e.SetImpairment("x", d, mustParse(text)); err != nil {
			t.Fatal(err)
		}
	}
	settle := func(t *testing.T) WayStats { // of a to b
		t.Helper()
		s := e.Stats()[0].AtoB
		checkCounters(t, s.Counters)
		if s.DeviceDrops != 0 || s.WriteErrors != 0 || s.Overflow != 0 {
			t.Errorf("the emulator itself dropped: %+v", s)
		}
		return s
	}

	t.Run("delay", func(t *testing.T) {
		set(t, AtoB, "delay 40ms")
		set(t, BtoA, "delay 15ms")
		for _, way := range []struct {
			from, to *net.UDPConn
			want     time.Duration
		}{{a, b, 40 * time.Millisecond}, {b, a, 15 * time.Millisecond}} {
			patiently(t, func() error {
				sent, got := tapRun(t, way.from, way.to, 150, 400, 1, 1300*time.Microsecond, way.want)
				if len(got) != 150 {
					t.Fatalf("%d of 150 arrive", len(got))
				}
				var delays []time.Duration
				for _, x := range got {
					delays = append(delays, x.at-sent[x.id])
				}
				slices.Sort(delays)
				median := delays[len(delays)/2]
				t.Logf("want %v: min %v, median %v, p90 %v, max %v", way.want, delays[0], median, delays[135], delays[149])
				if d := median - way.want; d < -time.Millisecond || d > time.Millisecond {
					return fmt.Errorf("median delay %v, want %v", median, way.want)
				}
				return nil
			})
		}
	})

	t.Run("rate", func(t *testing.T) {
		// Fill the queue at once and time how it drains: that needs no punctual sender.
		set(t, AtoB, "50mbit queue 300ms delay 50ms")
		patiently(t, func() error {
			before := settle(t)
			_, got := tapRun(t, a, b, 2000, 1514, 2000, 0, 350*time.Millisecond)
			c := settle(t)
			n := uint64(len(got))
			if n < 1230 || n != c.Delivered-before.Delivered || n+c.QueueDrops-before.QueueDrops != 2000 {
				return fmt.Errorf("%d of 2000 arrive, %d dropped; the queue holds 1238", n, c.QueueDrops-before.QueueDrops)
			}
			rate := float64(n-1) * 1514 * 8 / (got[n-1].at - got[0].at).Seconds()
			t.Logf("%.2f Mbit/s over %d frames", rate/1e6, n)
			if math.Abs(rate/50e6-1) > 0.02 {
				return fmt.Errorf("measured %.2f Mbit/s, want 50", rate/1e6)
			}
			return nil
		})
	})

	t.Run("loss", func(t *testing.T) {
		const n = 12000
		imp := mustParse("delay 20ms loss 2% ge 0.003/0.15/0.3 duplicate 1% corrupt 1.5% reorder 3% 10ms")
		set(t, AtoB, imp.String())
		before, checksums := settle(t), checksumErrors(t)
		// Bursts above the device's queue would drop there: 2,000 frames in 40 ms stay below it.
		var got []arrival
		for range n / 2000 {
			_, part := tapRun(t, a, b, 2000, 300, 50, time.Millisecond, 30*time.Millisecond)
			got = append(got, part...)
		}
		c := settle(t)
		if c.Offered-before.Offered != n {
			t.Fatalf("%d frames offered, want %d", c.Offered-before.Offered, n)
		}
		lost := c.Lost - before.Lost
		arrived := n - lost
		dup, corrupt := c.Duplicated-before.Duplicated, c.Corrupted-before.Corrupted
		within99(t, "lost", lost, n, imp.MeanLoss(), math.Sqrt(1.5/imp.GE.R))
		within99(t, "duplicated", dup, arrived, 0.01, 1)
		within99(t, "corrupted", corrupt, arrived, 0.015, 1)
		within99(t, "reordered", c.Reordered-before.Reordered, arrived, 0.03, 1)
		// A flip in IP header or payload fails a checksum in the kernel; only one
		// in a field that no checksum covers could come through.
		if bad := checksumErrors(t) - checksums; bad < corrupt*9/10 {
			t.Errorf("%d checksum errors for %d corrupted frames", bad, corrupt)
		}
		copies := arrived + dup
		if g := uint64(len(got)); g > copies || g < copies-2*corrupt {
			t.Errorf("%d datagrams arrive of %d copies with %d corrupted", g, copies, corrupt)
		}
		if late := overtaken(got); late == 0 || late > c.Reordered-before.Reordered {
			t.Errorf("%d datagrams overtaken, %d held back", late, c.Reordered-before.Reordered)
		}
	})

	t.Run("outage", func(t *testing.T) {
		const delay, dark, every = 10 * time.Millisecond, 120 * time.Millisecond, 250 * time.Millisecond
		patiently(t, func() error {
			base := time.Since(e.start)
			from := base + 100*time.Millisecond
			set(t, AtoB, fmt.Sprintf("delay %v outage %v every %v from %v", delay, dark, every, from))
			before := settle(t)
			_, got := tapRun(t, a, b, 600, 200, 1, time.Millisecond, dark)
			c := settle(t)
			lost := c.Outage - before.Outage
			if lost+uint64(len(got)) != 600 || lost < 150 || lost > 400 {
				return fmt.Errorf("%d frames lost, %d arrive of 600, dark half of the time", lost, len(got))
			}
			wrong := 0
			for _, x := range got {
				// When it left the queue, and how far into a period that is.
				left := base + x.at - delay
				if into := (left - from) % every; left > from && into > 2*time.Millisecond && into < dark-2*time.Millisecond {
					wrong++
				}
			}
			if wrong > len(got)/100 {
				return fmt.Errorf("%d of %d frames left in the dark", wrong, len(got))
			}
			return nil
		})
	})

	t.Run("dark", func(t *testing.T) {
		set(t, AtoB, "delay 5ms")
		if err := e.Darken("x", true); err != nil {
			t.Fatal(err)
		}
		before := settle(t).Outage
		if _, got := tapRun(t, a, b, 50, 200, 50, 0, 5*time.Millisecond); len(got) != 0 {
			t.Errorf("%d frames pass in the dark", len(got))
		}
		if n := settle(t).Outage - before; n != 50 {
			t.Errorf("%d frames counted lost in the dark, want 50", n)
		}
		if err := e.Darken("x", false); err != nil {
			t.Fatal(err)
		}
		if _, got := tapRun(t, a, b, 50, 200, 50, 0, 5*time.Millisecond); len(got) != 50 {
			t.Errorf("%d of 50 frames pass in the light", len(got))
		}
	})

	t.Run("errors", func(t *testing.T) {
		if err := e.Darken("y", true); err == nil {
			t.Error("no error for an unknown link")
		}
		if err := e.SetImpairment("x", AtoB, Impairment{Loss: 3}); !errors.Is(err, ErrImpairment) {
			t.Errorf("loss 3: %v", err)
		}
	})
}

// patiently repeats a measurement of real time that a busy machine may spoil.
func patiently(t *testing.T, measure func() error) {
	t.Helper()
	const tries = 5
	for try := 1; ; try++ {
		err := measure()
		if err == nil || t.Failed() {
			return
		}
		if try == tries {
			t.Fatalf("%d tries, last: %v", tries, err)
		}
		t.Logf("try %d: %v", try, err)
	}
}

// overtaken counts the datagrams that arrive after one with a higher number, in
// runs numbered from 0.
func overtaken(got []arrival) (late uint64) {
	seen, highest := make(map[uint32]bool), uint32(0)
	for _, x := range got {
		if x.id+1000 < highest { // the next run
			clear(seen)
			highest = 0
		}
		if x.id < highest && !seen[x.id] {
			late++
		}
		highest = max(highest, x.id)
		seen[x.id] = true
	}
	return late
}

// checksumErrors is the kernel's count of bad IP, UDP and ICMP packets in the
// receiving namespace.
func checksumErrors(t *testing.T) (sum uint64) {
	t.Helper()
	err := InNamespace(fmt.Sprintf("wanb%d", os.Getpid()), func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		lines := strings.Split(string(raw), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for k, name := range names {
				switch names[0] + name {
				case "Ip:InHdrErrors", "Ip:InAddrErrors", "Ip:InDiscards", "Ip:InUnknownProtos", "Ip:ForwDatagrams", "Ip:ReasmReqds",
					"Udp:InErrors", "Udp:NoPorts":
					var v uint64
					fmt.Sscan(values[k], &v)
					sum += v
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestTapIPv6 checks addresses without delay by detection, both families at
// once, TCP through the link, and that Close leaves nothing.
func TestTapIPv6(t *testing.T) {
	requireRoot(t)
	fds, routines := openFiles(t), runtime.NumGoroutine()
	nsA, nsB := fmt.Sprintf("wanc%d", os.Getpid()), fmt.Sprintf("wand%d", os.Getpid())
	for _, ns := range []string{nsA, nsB} {
		if err := CreateNamespace(ns); err != nil {
			t.Fatal(err)
		}
		defer DeleteNamespace(ns)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:07")
	six := Impairment{Rate: 100e6, Delay: 3 * time.Millisecond}
	cfg := []LinkConfig{{
		Name: "six", AtoB: six, BtoA: six,
		A: End{Namespace: nsA, Interface: "lb6", MAC: mac, Addresses: []netip.Prefix{netip.MustParsePrefix("fd99::1/64"), tapA}},
		B: End{Namespace: nsB, Interface: "lb6", Addresses: []netip.Prefix{netip.MustParsePrefix("fd99::2/64"), tapB}},
	}}
	e, err := NewEmulator(1, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := NewEmulator(1, cfg); err == nil {
		t.Error("two devices of one name")
	}
	err = InNamespace(nsA, func() error {
		i, err := net.InterfaceByName("lb6")
		if err == nil && (i.MTU != 1500 || i.HardwareAddr.String() != mac.String()) {
			err = fmt.Errorf("interface %+v", i)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, at := range []string{"[fd99::2]:80", "10.99.0.2:80"} {
		l, err := ListenIn(nsB, "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		payload := strings.Repeat("landbridge", 20000)
		go func() {
			c, err := l.Accept()
			if err == nil {
				io.WriteString(c, payload)
				c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := DialIn(ctx, nsA, "tcp", at)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if got, err := io.ReadAll(c); string(got) != payload {
			t.Errorf("%s: %d of %d bytes, %v", at, len(got), len(payload), err)
		}
		c.Close()
		l.Close()
	}
	s := e.Stats()[0]
	if s.Name != "six" || s.BtoA.SentBytes < 400000 || s.AtoB.Other == 0 {
		t.Errorf("stats %+v", s)
	}
	if e.CPU() <= 0 {
		t.Error("no CPU time")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := e.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if err := e.Darken("six", true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("darken after close: %v", err)
	}
	e.Stats()
	err = InNamespace(nsA, func() error {
		if _, err := net.InterfaceByName("lb6"); err == nil {
			return errors.New("device survives close")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for range 100 { // threads and sockets need a moment to go
		if openFiles(t) <= fds && runtime.NumGoroutine() <= routines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("leaks: %d descriptors, were %d; %d goroutines, were %d", openFiles(t), fds, runtime.NumGoroutine(), routines)
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
