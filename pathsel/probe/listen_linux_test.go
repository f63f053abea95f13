package probe

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// TestLoopback probes over real sockets, v4 and v6: TTL 255 arrives, and round trips are short.
func TestLoopback(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		local := netip.MustParseAddrPort(addr)
		conn, err := Listen(local, "")
		if err != nil && strings.HasPrefix(addr, "[") {
			t.Skipf("no IPv6 on the loopback: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		key := stamp.NewKey(1, [16]byte{1})
		got := make(chan stamp.Event, 64)
		r := New(Config{OnEvent: func(ev *stamp.Event) {
			select {
			case got <- *ev:
			default:
			}
		}})
		r.AddReflected(key) // it is its own peer
		remote := conn.(*udpConn).LocalAddr().String()
		if err := r.SetUplink("lo", conn); err != nil {
			t.Fatal(err)
		}
		if err := r.AddPath(Path{ID: 3, Uplink: "lo", Remote: netip.MustParseAddrPort(remote), Key: key}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		for n := 0; n < 5; {
			select {
			case ev := <-got:
				if ev.Kind != stamp.EventReply {
					continue
				}
				n++
				if ev.TTL != 255 || ev.RTT <= 0 || ev.RTT > 5*time.Second {
					t.Errorf("%s: %+v", addr, ev)
				}
			case <-ctx.Done():
				t.Fatalf("%s: %d replies", addr, n)
			}
		}
		cancel()
		wg.Wait()
	}
}

func TestListenErrors(t *testing.T) {
	if _, err := Listen(netip.MustParseAddrPort("192.0.2.1:862"), ""); err == nil || !strings.Contains(err.Error(), "192.0.2.1:862") {
		t.Errorf("%v", err)
	}
	if _, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"), "no-such-nic"); err == nil || !strings.Contains(err.Error(), `"no-such-nic"`) {
		t.Errorf("%v", err)
	}
}
