package bond

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

func TestAddAndRemovePathErrors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, testSeed(t), worldConfig{links: simLinks("clean")[:2]})
		defer w.close()
		b, h := w.a.bond, w.a.host
		_, remote := addrs(5)
		for _, tc := range []struct {
			name string
			err  error
			is   error
			says string
		}{
			{"path twice", b.AddPath(PathConfig{Name: "p0", Uplink: "p0", Remote: remote}), ErrDuplicate, `add path "p0"`},
			{"path over no uplink", b.AddPath(PathConfig{Name: "p9", Uplink: "p9", Remote: remote}), ErrUnknown, `uplink "p9"`},
			{"path to nowhere", b.AddPath(PathConfig{Name: "p9", Uplink: "p0", Remote: netip.AddrPort{}}), nil, "not valid"},
			{"no such path", b.RemovePath("p9"), ErrUnknown, `remove path "p9"`},
			{"no such uplink", h.RemoveUplink("p9"), ErrUnknown, `remove uplink "p9"`},
			{"uplink in use", h.RemoveUplink("p0"), nil, `path "p0"`},
			{"a path of two", b.RemovePath("p0"), nil, ""},
			{"its uplink", h.RemoveUplink("p0"), nil, ""},
			{"the same again", h.RemoveUplink("p0"), ErrUnknown, `remove uplink "p0"`},
			{"the last path", b.RemovePath("p1"), nil, "last"},
		} {
			if tc.says == "" && tc.err == nil {
				continue
			}
			if tc.err == nil || tc.says == "" || !strings.Contains(tc.err.Error(), tc.says) || tc.is != nil && !errors.Is(tc.err, tc.is) {
				t.Errorf("%s: %v, want it to say %q and to be %v", tc.name, tc.err, tc.says, tc.is)
			}
		}
		b.Close()
		if err := b.AddPath(PathConfig{Name: "p9", Uplink: "p1", Remote: remote}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("add a path to a closed bond: %v, want %v", err, net.ErrClosed)
		}
		if err := b.RemovePath("p1"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("remove a path from a closed bond: %v, want %v", err, net.ErrClosed)
		}
	})
}

// A link may come and go more often than the table has places: a new path takes a removed one's place and goes on with its
// numbers, which the session's keys must not use twice.
func TestPathsComeAndGo(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		clean := wan.Impairment{Rate: 50_000_000, Delay: 20 * time.Millisecond}
		w := newWorldOf(t, seed, worldConfig{links: bothWays(clean, clean)})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		_, remote := addrs(1)
		local, _ := addrs(1)
		for i := range 2 * maxPaths {
			for _, s := range []*side{w.a, w.b} {
				name := "p1"
				if i > 0 {
					name = fmt.Sprint("again-", i-1)
				}
				if err := s.bond.RemovePath(name); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range []*side{w.a, w.b} {
				to := remote
				if s == w.b {
					to = local
				}
				if err := s.bond.AddPath(PathConfig{Name: fmt.Sprint("again-", i), Uplink: "p1", Remote: to}); err != nil {
					t.Fatal(err)
				}
			}
			if r := p.transfer(t, seed, 300*time.Millisecond); !r.ok {
				t.Fatal("payload damaged")
			}
			st := w.b.bond.Stats()
			if len(st.Paths) != 2 {
				t.Fatalf("%d paths, want 2: %+v", len(st.Paths), st.Paths)
			}
			if q := st.Paths[len(st.Paths)-1]; i == 2*maxPaths-1 && (q.Name == "p0" || q.State != PathUp) {
				q = st.Paths[0]
				if q.State != PathUp {
					t.Errorf("the path added last is %v, want up", q.State)
				}
			}
		}
		for _, s := range []*side{w.a, w.b} {
			if d := s.host.Drops(); d["bad_tag"] != 0 || d["replayed"] != 0 {
				t.Errorf("datagrams dropped: %v, want no bad tags and no replays", d)
			}
		}
	})
}

// A removed path's uplink does not come back by a datagram that was read before.
func TestRemovedUplinkIsNotLearnedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, testSeed(t), worldConfig{links: simLinks("clean")[:1]})
		defer w.close()
		w.sessions()
		b := w.a.bond
		b.mu.Lock()
		defer b.mu.Unlock()
		b.configured = false
		u := b.paths[0].uplink
		_, other := addrs(7)
		u.left.Store(true)
		if p := b.pathTo(0, u, other, nil); p != nil {
			t.Errorf("path %q learned on an uplink that was removed", p.name)
		}
		u.left.Store(false)
		if p := b.pathTo(0, u, other, nil); p == nil || p.remote != other {
			t.Error("no path learned on an uplink that is there")
		}
	})
}
