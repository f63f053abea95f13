package bond

import (
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestRestart: a peer that dies without a word and comes back is found again, also one that does not know where we are.
func TestRestart(t *testing.T) {
	for _, tc := range []struct {
		name    string
		knowsUs bool
	}{{"it knows our addresses", true}, {"it waits for us", false}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				link := wan.Impairment{Rate: 50_000_000, Delay: 50 * time.Millisecond}
				net := wan.NewNetwork(testSeed(t))
				here, there := addrs(0)
				if _, err := net.Connect(here.Addr(), there.Addr(), link, link); err != nil {
					t.Fatal(err)
				}
				start := func(key byte, peer byte, remote bool) (*Host, *Bond, Socket) {
					from, to := here, there
					if key == 2 {
						from, to = there, here
					}
					c, err := net.Listen(from)
					if err != nil {
						t.Fatal(err)
					}
					sock := NewPacketSocket(c, from)
					h, err := NewHost(HostConfig{Key: testKey(key), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
					if err != nil {
						t.Fatal(err)
					}
					if err := h.AddUplink(Uplink{Name: "p", Socket: sock}); err != nil {
						t.Fatal(err)
					}
					cfg := PeerConfig{Name: "peer", Key: testKey(peer).Public()}
					if remote {
						cfg.Paths = []PathConfig{{Name: "p", Uplink: "p", Remote: to}}
					}
					b, err := h.Bond(cfg)
					if err != nil {
						t.Fatal(err)
					}
					return h, b, sock
				}
				host, bond, _ := start(1, 2, true)
				defer host.Close()
				peer, far, sock := start(2, 1, tc.knowsUs)
				time.Sleep(3 * time.Second)
				if !bond.Connected() || !far.Connected() {
					t.Fatal("no session")
				}
				_ = sock.Close() // from here on it can say nothing, not even that it ends
				peer.Close()
				peer, far, _ = start(2, 1, tc.knowsUs)
				defer peer.Close()
				began := time.Now()
				for !far.Connected() {
					if time.Since(began) > 20*time.Second {
						t.Fatal("not found again")
					}
					time.Sleep(10 * time.Millisecond)
				}
				if d := time.Since(began); d > 2*time.Second {
					t.Errorf("found again after %v, want 2s", d)
				}
				time.Sleep(5 * time.Second)
				for _, b := range []*Bond{bond, far} {
					if st := b.Stats(); !st.Established || len(st.Paths) != 1 || st.Paths[0].State != PathUp || st.Since < 4*time.Second {
						t.Errorf("5 s later: established %v, since %v, paths %+v", st.Established, st.Since, st.Paths)
					}
				}
			})
		})
	}
}
