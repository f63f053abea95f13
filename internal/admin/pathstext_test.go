package admin

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landbridge/landbridge/pathsel"
)

// border is twoPaths as a node shows it, with names that a hostile peer might choose.
func border() Paths {
	clock, states, _, after := twoPaths()
	return Paths{
		Node: "sha", Role: "gateway", Taken: noon, Lost: []string{"no XDP on cm0\x1b[2J"}, Peers: []PeerPaths{NewPeerPaths("fra", "gateway", clock, states, &after), {Name: "plant", Kind: "agent"}},
		Verdicts: map[string]map[string]uint64{"guard": {"passed": 2, "dropped": 9, "never": 0}, "classifier": {"denied": 0}},
	}
}

// TestRateUnknown: a score that counts an assumed capacity says so.
func TestRateUnknown(t *testing.T) {
	clock, states, _, _ := twoPaths()
	states[1].CapacityBitsPerSec = 0
	policy := pathsel.DefaultPolicy()
	c := NewClassChoice(clock, &pathsel.Select(clock.Now, states, &policy, nil).Classes[pathsel.Bulk], func(uint8) string { return "x" })
	if got, want := candidates(&c), "cu-cu 1015 ms (rate unknown), ct-ct 1430 ms (brownout)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c = NewClassChoice(clock, &pathsel.Select(clock.Now, states, &policy, nil).Classes[pathsel.Interactive], func(uint8) string { return "x" })
	if got := candidates(&c); strings.Contains(got, rateUnknown) {
		t.Errorf("interactive, which counts no rate: %s", got)
	}
}

func TestPathsText(t *testing.T) {
	var v PathsView
	v.Add(border())
	var b strings.Builder
	if err := v.WriteText(&b, 0, nil); err != nil {
		t.Fatal(err)
	}
	want := `gateway sha, 2026-03-01 12:00:00

gateway fra
   path     state  rtt ms    p95  jitter  loss out  back  burst  Mbit/s  capacity  heard
  ct-ct  brownout   181.0  185.0     1.5     20.0%  0.2%    1.5    12.0      47.0  20 ms  loss rose to 20 %
  cu-cu        up   301.0  305.0     1.5      0.0%  0.0%    0.0     0.0      20.0  10 ms
  cm-cm      down       -      -       -         -     -      -       -         -  never  no reply yet

  realtime     cu-cu  for 5s   cu-cu R 89.0, ct-ct R 41.0 (brownout)
  interactive  cu-cu  for 5s   cu-cu 305 ms, ct-ct 550 ms (brownout)
  bulk         ct-ct  for 50s  ct-ct 1430 ms (brownout), cu-cu 1979 ms
  realtime: left ct-ct in a brownout (loss rose to 20 %), R 41.0 (20.2 % loss, 181 ms round trip); cu-cu is better, R 89.0 (0.0 % loss, 301 ms round trip); since 5.0 s ago
  interactive: left ct-ct in a brownout (loss rose to 20 %), 550 ms (20.2 % loss, 181 ms round trip); cu-cu is better, 305 ms (0.0 % loss, 301 ms round trip); since 5.0 s ago

agent plant
  no paths

guard: dropped 9, passed 2
missing: no XDP on cm0?[2J
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestPathsTextFits(t *testing.T) {
	for _, columns := range []int{40, 80, 100, 130, 200, 400} {
		var v PathsView
		for i := range 2 * keptSamples {
			p := border()
			p.Peers[0].Paths[0].RTT.Recent += float64(i % 30)
			v.Add(p)
		}
		var b strings.Builder
		if err := v.WriteText(&b, columns, Plain); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > columns {
				t.Errorf("%d columns: a line of %d: %s", columns, n, line)
			}
		}
		if has := strings.Contains(b.String(), "#"); has != (columns >= 80) {
			t.Errorf("%d columns: sparklines %v\n%s", columns, has, b.String())
		}
		if full := strings.Contains(b.String(), "jitter"); columns >= 80 && full != (columns >= 130) {
			t.Errorf("%d columns: all figures %v\n%s", columns, full, b.String())
		}
		if !strings.Contains(b.String(), "since") {
			t.Errorf("%d columns: the reason is cut off\n%s", columns, b.String())
		}
	}
}

func TestSparkline(t *testing.T) {
	nan := math.NaN()
	for _, tc := range []struct {
		name     string
		samples  []float64
		from, to float64
		width    int
		want     string
	}{
		{"all levels", []float64{0, 1, 2, 3, 4, 5, 6, 7, 8}, 0, 8, 9, "▁▂▃▄▅▆▇██"},
		{"newest on the right", []float64{0, 8}, 0, 8, 4, "  ▁█"},
		{"the last ones", []float64{8, 8, 0, 8}, 0, 8, 2, "▁█"},
		{"gaps", []float64{8, nan, 8}, 0, 8, 3, "█ █"},
		{"beyond the ends", []float64{-5, 99}, 0, 8, 2, "▁█"},
		{"no span", []float64{3, 3}, 3, 3, 2, "▁▁"},
		{"nothing", nil, math.Inf(1), math.Inf(1), 2, "  "},
	} {
		if got := sparkline(tc.samples, tc.from, tc.to, tc.width, Blocks); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if from, to := span([]float64{nan, 100, 103}, minSpanRTT); from != 100 || to != 120 {
		t.Errorf("span %v to %v, want 100 to 120: noise is no drama", from, to)
	}
}

// TestPathsViewFollowsThePaths: a path's history is its own, and goes with it.
func TestPathsViewFollowsThePaths(t *testing.T) {
	var v PathsView
	for range keptSamples + 5 {
		v.Add(border())
	}
	p := border()
	p.Peers[0].Paths = p.Peers[0].Paths[1:]
	v.Add(p)
	if n := len(v.history); n != 2 {
		t.Errorf("%d histories, want 2", n)
	}
	h := v.history[[2]string{"fra", "cu-cu"}]
	if len(h.rtt) != keptSamples || len(h.loss) != keptSamples || len(h.rate) != keptSamples || h.rtt[0] != 301 {
		t.Errorf("kept %d, %d, %d samples, the first %v", len(h.rtt), len(h.loss), len(h.rate), h.rtt[0])
	}
	if down := v.history[[2]string{"fra", "cm-cm"}]; !math.IsNaN(down.rtt[0]) || !math.IsNaN(down.rate[0]) {
		t.Errorf("a path that is down has samples: %v, %v", down.rtt[0], down.rate[0])
	}
}

func TestExplanationText(t *testing.T) {
	clock, _, _, after := twoPaths()
	choice := NewClassChoice(clock, &after.Classes[0], func(uint8) string { return "cu-cu" })
	for _, tc := range []struct {
		name string
		x    Explanation
		want string
	}{
		{"direct, moved", Explanation{Node: "sha", Taken: noon, More: 3, Flows: []ExplainedFlow{{
			Protocol: "udp", Src: "10.10.0.7:51234", Dst: "10.20.0.9:16400", Fate: FlowDirect, Source: "classifier", Tenant: "acme", Site: "hq", Class: "realtime",
			RuleNumber: 2, Rule: "udp 10.20.0.0/24 direct realtime", Peer: "fra", Path: "cu-cu", Since: noon.Add(-5 * time.Second), Moves: 1,
			Opened: noon.Add(-5 * time.Minute), Last: noon.Add(-20 * time.Millisecond), Packets: 15000, BytesOut: 3 << 20, Choice: &choice,
		}}}, `udp 10.10.0.7:51234 -> 10.20.0.9:16400
  goes        straight out of a carrier's NIC, to fra
  seen        by the classifier of sha, open for 5m0s, 15000 packets, 3.0 MiB out, last packet 20 ms ago
  tenant      acme, site hq
  rule        2: udp 10.20.0.0/24 direct realtime
  class       realtime
  path        cu-cu for 5s, after 1 move
  candidates  cu-cu  R 89.0  up, where realtime is since 5s
              ct-ct  R 41.0  brownout
  why         left ct-ct in a brownout (loss rose to 20 %), R 41.0 (20.2 % loss, 181 ms round trip); cu-cu is better, R 89.0 (0.0 % loss, 301 ms round trip); since 5.0 s ago

and 3 more: name both ends
`},
		{"tunnelled, by default", Explanation{Node: "sha", Taken: noon, Flows: []ExplainedFlow{{
			Protocol: "tcp", Src: "10.10.0.7:1", Dst: "10.20.0.9:443", Fate: FlowTunnelled, Source: "tunnel", Tenant: "acme", Class: "bulk", Elephant: true,
			Peer: "fra", Path: "ct-ct", Lane: 3, Moves: 2, BytesOut: 100, BytesIn: 2048,
		}}}, `tcp 10.10.0.7:1 -> 10.20.0.9:443
  goes    through the tunnel to fra
  seen    by the tunnel of sha, 100 B out, 2.0 KiB back
  tenant  acme
  rule    none of its own: the tenant's default
  class   bulk, as it carried too much for interactive
  path    ct-ct first, lane 3, after 2 moves
`},
		{"not seen, denied, and odd names", Explanation{Node: "sha", Taken: noon, Flows: []ExplainedFlow{
			{Protocol: "tcp", Src: "10.10.0.7:1", Dst: "10.20.0.9:25", Fate: FlowDenied, Source: "rules", Rule: "deny\x1b[2J", Stale: true},
			{Protocol: "47", Src: "10.10.0.7", Dst: "10.20.0.9", Fate: FlowUntouched, Source: "classifier", Note: "no tenant has this source"},
		}}, `tcp 10.10.0.7:1 -> 10.20.0.9:25
  goes  nowhere: denied
  seen  no: this is where it would go now
  rule  deny?[2J
  note  the rules have changed since its last packet; the next one is judged again

47 10.10.0.7 -> 10.20.0.9
  goes  past: left to the host's own routing
  seen  by the classifier of sha
  note  no tenant has this source
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			if err := tc.x.WriteText(&b); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, b.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestEventText(t *testing.T) {
	for _, tc := range []struct {
		e    Event
		want string
	}{
		{Event{At: noon, Kind: EventMove, Peer: "fra", Class: "bulk", From: "ct-ct", Path: "cu-cu", Text: "because"}, "2026-03-01 12:00:00.000  move  fra  bulk  ct-ct -> cu-cu  because\n"},
		{Event{At: noon, Kind: EventMove, Peer: "fra", Class: "bulk", From: "ct-ct", Text: "no path answers"}, "2026-03-01 12:00:00.000  move  fra  bulk  ct-ct -> none  no path answers\n"},
		{Event{At: noon, Kind: EventNode, Text: "reloaded\n"}, "2026-03-01 12:00:00.000  node  reloaded?\n"},
	} {
		var b strings.Builder
		if err := tc.e.WriteText(&b); err != nil || b.String() != tc.want {
			t.Errorf("%q, %v, want %q", b.String(), err, tc.want)
		}
	}
}
