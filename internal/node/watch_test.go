package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// darkConn loses what is sent while it is dark.
type darkConn struct {
	probe.Conn
	dark *atomic.Bool
}

func (c darkConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if c.dark.Load() {
		return len(b), nil
	}
	return c.Conn.WriteToUDPAddrPort(b, to)
}

// pathStates returns the states of a peer's paths by name, and its decision.
func pathStates(n *Node, peer string) (map[string]pathsel.State, *pathsel.Decision) {
	for _, p := range n.watch.all() {
		if p.cfg.Name == peer {
			_, states, d := p.snapshot()
			out := map[string]pathsel.State{}
			for _, s := range states {
				out[s.Name] = s.State
			}
			return out, d
		}
	}
	return nil, nil
}

func waitStates(t *testing.T, n *Node, peer string, within time.Duration, want map[string]pathsel.State) {
	t.Helper()
	eventually(t, within, func() error {
		if got, _ := pathStates(n, peer); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("paths %v, want %v", got, want)
		}
		return nil
	})
}

// TestWatch: all paths of both nodes are measured, one that goes dark is left, and a peer that starts again is measured
// under new keys.
func TestWatch(t *testing.T) {
	t.Parallel()
	fleet := fleetOf(takePorts(t, 4), acme)
	var dark atomic.Bool
	listen := func(u config.NodeUplink, port uint16) (probe.Conn, error) {
		c, err := listenProbe(u, port)
		if u.Name == "ct" && port == 0 {
			c = darkConn{c, &dark}
		}
		return c, err
	}
	sha, book := startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA, ListenProbe: listen})
	fra, _ := startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA})
	up := map[string]pathsel.State{"ct-ct": pathsel.StateUp, "cu-cu": pathsel.StateUp}
	waitStates(t, sha, "fra", testTimeout, up)
	waitStates(t, fra, "sha", testTimeout, up)
	dark.Store(true)
	waitStates(t, sha, "fra", testTimeout, map[string]pathsel.State{"ct-ct": pathsel.StateDown, "cu-cu": pathsel.StateUp})
	_, d := pathStates(sha, "fra")
	for _, c := range d.Classes {
		if len(c.Order) != 1 || c.Order[0].Name != "cu-cu" || !strings.Contains(c.Reason(probe.Now()), "cu-cu") {
			t.Errorf("%v: %+v, want cu-cu alone", c.Class, c)
		}
	}
	// The bond itself gets through there, so that it stays in use, last.
	p := sha.watch.all()[0]
	eventually(t, testTimeout, func() error {
		p.mu.Lock()
		orders := p.orders
		p.mu.Unlock()
		for c := range pathsel.NumClasses {
			if got := fmt.Sprint(orders[c]); got != "[1 0]" {
				return fmt.Errorf("%v: the bond was told %s, want [1 0]", pathsel.Class(c), got)
			}
		}
		return nil
	})
	dark.Store(false)
	waitStates(t, sha, "fra", testTimeout, up)

	must(t, fra.Close())
	waitStates(t, sha, "fra", testTimeout, map[string]pathsel.State{"ct-ct": pathsel.StateDown, "cu-cu": pathsel.StateDown})
	startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA})
	waitStates(t, sha, "fra", testTimeout, up)
	if len(book.lines("class moves", "class=realtime")) == 0 {
		t.Errorf("the log says nothing of realtime's path:\n%s", book)
	}

	// What was decided can be replayed.
	var lines strings.Builder
	must(t, sha.Decisions(&lines))
	n := 0
	for line := range strings.Lines(lines.String()) {
		r, err := pathsel.ReadRecord([]byte(strings.TrimSuffix(line, "\n")))
		must(t, err, r.Verify())
		n++
	}
	ev := sha.Source().Events.After(0)
	for _, want := range []string{"ct-ct is down, was suspect", "cu-cu"} {
		if !slices.ContainsFunc(ev.Events, func(e admin.Event) bool { return strings.Contains(e.Text, want) }) {
			t.Errorf("no event says %q: %+v", want, ev.Events)
		}
	}
	if pp := sha.Paths().Peers; len(pp) != 1 || len(pp[0].Paths) != 2 || len(pp[0].Classes) != 3 || pp[0].Paths[0].RTT.Median <= 0 {
		t.Errorf("paths %+v", pp)
	}
	if n < 3 {
		t.Errorf("%d decisions in the log, want one for each change at least", n)
	}
}

func TestSince(t *testing.T) {
	last := bond.Fates{}
	for i, step := range []struct {
		next bond.Fates
		want pathsel.Counts
	}{
		{bond.Fates{Packets: 100, Lost: 4, Runs: 2}, pathsel.Counts{Packets: 100, Lost: 4, Bursts: 2}},
		{bond.Fates{Packets: 110, Lost: 1, Runs: 1}, pathsel.Counts{Packets: 10}},                       // three came late
		{bond.Fates{Packets: 120, Lost: 3, Runs: 3}, pathsel.Counts{Packets: 10, Bursts: 0}},            // still fewer than were counted
		{bond.Fates{Packets: 130, Lost: 6, Runs: 3}, pathsel.Counts{Packets: 10, Lost: 2, Bursts: 1}},   // one gap grew
		{bond.Fates{Packets: 140, Lost: 90, Runs: 9}, pathsel.Counts{Packets: 10, Lost: 10, Bursts: 6}}, // never more than there were
		{bond.Fates{Packets: 5, Lost: 1, Runs: 1}, pathsel.Counts{Packets: 5, Lost: 1, Bursts: 1}},      // another session
	} {
		next := step.next
		if _, got := since(&last, &next); got != step.want {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
		last = next
	}
}

// TestCount: pathsel learns of each direction whether the bond's own sender fills it.
func TestCount(t *testing.T) {
	p := &peerWatch{table: pathsel.NewTable(0), counted: map[uint8]counted{}}
	for id, want := range []bond.PathStats{{Filling: true, Queue: time.Millisecond}, {FillingIn: true}} {
		want.ID = uint8(id)
		if err := p.table.Add(0, want.ID, "path"); err != nil {
			t.Fatal(err)
		}
		p.count(time.Second, &want)
		got := p.table.States(time.Second, nil)[id]
		if got.Out.Filling != want.Filling || got.Back.Filling != want.FillingIn || got.Out.Queue != want.Queue || got.Back.Queue != 0 {
			t.Errorf("path %d: out %+v, back %+v", id, got.Out, got.Back)
		}
	}
}

// TestClasses: the packages count the classes alike.
func TestClasses(t *testing.T) {
	for c := range pathsel.Class(pathsel.NumClasses) {
		if b, k := bond.Class(c), tunnel.Class(c); b.String() != c.String() || k.String() != c.String() {
			t.Errorf("class %d: %v, %v and %v", c, c, b, k)
		}
	}
}

func TestOrder(t *testing.T) {
	p := &peerWatch{counted: map[uint8]counted{1: {delivered: 9500 * time.Millisecond}, 2: {delivered: 8 * time.Second}}}
	states := []pathsel.PathState{{ID: 0, Heard: 1}, {ID: 1, Heard: 1}, {ID: 2, Heard: 1}, {ID: 3}}
	for _, tc := range []struct {
		name  string
		order []uint8
		want  string
	}{
		{"nothing usable", nil, "[]"},
		{"one that delivers, one that never answered", []uint8{0}, "[0 1 3]"},
		{"all", []uint8{2, 1, 0, 3}, "[2 1 0 3]"},
	} {
		c := pathsel.Choice{}
		for _, id := range tc.order {
			c.Order = append(c.Order, pathsel.Candidate{Path: id})
		}
		if got := fmt.Sprint(p.order(10*time.Second, &c, states)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestRulesInUserSpace: flows that no classifier has seen, of a proxy or of a peer, are judged all the same.
func TestRulesInUserSpace(t *testing.T) {
	t.Parallel()
	tenants := strings.Replace(acme, "    sites:", "    rules:\n      - {protocol: tcp, ports: 81, action: deny}\n    sites:", 1)
	fleet := fleetOf(takePorts(t, 4), tenants)
	o := serve(t, echo)
	fra := nodeConfig(t, fleet, "fra")
	startNode(t, fra, Options{Key: keyFRA, Dial: o.dial})
	sha, book := startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA})
	eventually(t, testTimeout, func() error { return ask(open(t, sha, "10.10.0.5:1", "10.20.0.2:80"), "allowed") })
	wantReset(t, open(t, sha, "10.10.0.5:1", "10.20.0.2:81"))
	book.waitFor(t, "flow reset", "rule 1 of tenant acme denies it")
	h := tunnel.Header{Tenant: "acme", Src: netip.MustParseAddrPort("10.10.0.5:1"), Dst: netip.MustParseAddrPort("10.20.0.2:80")}
	must(t, newRouter(fra).Authorise("sha", h))
	h.Dst = netip.MustParseAddrPort("10.20.0.2:81")
	if err := newRouter(fra).Authorise("sha", h); err == nil || !strings.Contains(err.Error(), "denies it") {
		t.Errorf("authorised at the exit: %v, want that a rule denies it", err)
	}
}

// TestLateTick: after a late tick the readers of replies go first, and a machine that is always late still judges.
func TestLateTick(t *testing.T) {
	t.Parallel()
	p := punctual{last: time.Second}
	now := time.Second
	for i, tt := range []struct {
		after time.Duration
		judge bool
	}{
		{watchTick, true}, {lateTick, true}, {3 * time.Second, false}, {watchTick, true}, {watchTick, true},
		{2 * lateTick, false}, {2 * lateTick, true}, {2 * lateTick, false}, {2 * lateTick, true},
	} {
		now += tt.after
		if got := p.tick(now); got != tt.judge {
			t.Errorf("tick %d after %v: judges %v, want %v", i, tt.after, got, tt.judge)
		}
	}
}

// TestCarrying: paths count as used while customers' packets move, and for a while after.
func TestCarrying(t *testing.T) {
	moved, asked := uint64(7), 0
	w := &watch{moved: func() uint64 { asked++; return moved }}
	for _, step := range []struct {
		at, more int
		want     bool
	}{{0, 0, true}, {9, 0, true}, {10, 0, false}, {60, 0, false}, {61, 1, true}, {62, 1, true}, {71, 0, true}, {72, 0, false}} {
		moved += uint64(step.more)
		now := time.Duration(step.at) * time.Second
		if got := w.carrying(now); got != step.want {
			t.Errorf("after %v: carrying %v, want %v", now, got, step.want)
		}
		before := asked
		if w.carrying(now + lookEvery - 1); asked != before {
			t.Errorf("after %v: the counters are read twice in %v", now, lookEvery)
		}
	}
}
