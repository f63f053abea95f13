package wan

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestFlood: junk reaches the NIC's host at the rate asked for, takes nothing of
// the link, and ends when it is told to.
func TestFlood(t *testing.T) {
	slow := Impairment{Rate: 1_000_000, Delay: 10 * time.Millisecond, Queue: 100 * time.Millisecond}
	e, a, b := tapPair(t, 1, slow, slow)
	before := e.Stats()[0]
	const pps, long = 2000, time.Second
	f, err := e.Flood(FloodConfig{Link: "x", AtB: true, To: b.LocalAddr().(*net.UDPAddr).AddrPort(), PPS: pps, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	sources := make(map[netip.Addr]bool)
	got := 0
	var buf [64]byte
	if err := b.SetReadDeadline(time.Now().Add(long)); err != nil {
		t.Fatal(err)
	}
	for {
		n, from, err := b.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			break
		}
		if n != floodPayload || !netip.MustParsePrefix("198.18.0.0/15").Contains(from.Addr().Unmap()) {
			t.Fatalf("%d bytes from %v", n, from)
		}
		sources[from.Addr()] = true
		got++
	}
	stats := f.Stop()
	if again := f.Stop(); again != stats {
		t.Errorf("stopped twice: %+v, %+v", stats, again)
	}
	if stats.Refused > 0 || stats.PPS() < pps/2 || stats.PPS() > pps*1.01 || uint64(got) < stats.Sent/2 {
		t.Errorf("%d of %+v arrived, want %d a second", got, stats, pps)
	}
	if len(sources) < got*9/10 {
		t.Errorf("%d packets come from %d sources, want nearly as many", got, len(sources))
	}
	if after := e.Stats()[0]; after != before {
		t.Errorf("the flood counts on the link: %+v, was %+v", after, before)
	}
	// The link still works, and its own packets come through.
	if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		n, _, err := b.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			t.Fatalf("after the flood: %v", err)
		}
		if string(buf[:n]) == "hello" {
			break
		}
	}
}

func TestFloodErrors(t *testing.T) {
	fine := Impairment{Rate: 1_000_000, Delay: time.Millisecond, Queue: 100 * time.Millisecond}
	e, _, b := tapPair(t, 1, fine, fine)
	to := b.LocalAddr().(*net.UDPAddr).AddrPort()
	for name, c := range map[string]FloodConfig{
		"no such link": {Link: "y", To: to, PPS: 1},
		"no packets":   {Link: "x", To: to},
		"too many":     {Link: "x", To: to, PPS: MaxFloodRate + 1},
		"no port":      {Link: "x", To: netip.AddrPortFrom(to.Addr(), 0), PPS: 1},
		"IPv6":         {Link: "x", To: netip.MustParseAddrPort("[::1]:1"), PPS: 1},
	} {
		if _, err := e.Flood(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A flood does not outlive its emulator.
	f, err := e.Flood(FloodConfig{Link: "x", To: to, PPS: 100})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	<-f.done
	if _, err := e.Flood(FloodConfig{Link: "x", To: to, PPS: 100}); err == nil {
		t.Error("a closed emulator floods")
	}
}
