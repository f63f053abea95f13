package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landbridge/landbridge/pathsel"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// twoPaths is what pathsel knows a minute after its epoch: ct browned out and realtime left it, cm is down.
func twoPaths() (Clock, []pathsel.PathState, pathsel.Decision, pathsel.Decision) {
	const s = time.Second
	delay := func(least time.Duration) pathsel.Delay {
		return pathsel.Delay{Min: least, Median: least + time.Millisecond, P95: least + 5*time.Millisecond, Recent: least + time.Millisecond, Jitter: 1500 * time.Microsecond}
	}
	states := []pathsel.PathState{
		{
			ID: 1, Name: "ct-ct", State: pathsel.StateUp, Since: s, Heard: 59980 * time.Millisecond, RTT: delay(180 * time.Millisecond),
			Out:  pathsel.Direction{Loss: 0.001, Now: 0.001, Packets: 1200, Burst: 1.5, Delay: delay(91 * time.Millisecond)},
			Back: pathsel.Direction{Loss: 0.002, Now: 0.002, Packets: 1200, Burst: 1, Delay: delay(89 * time.Millisecond)}, RateBitsPerSec: 12_000_000, CapacityBitsPerSec: 47_000_000,
		},
		{ID: 2, Name: "cu-cu", State: pathsel.StateUp, Since: s, Heard: 59990 * time.Millisecond, RTT: delay(300 * time.Millisecond), Out: pathsel.Direction{Delay: delay(150 * time.Millisecond)}, Back: pathsel.Direction{Delay: delay(150 * time.Millisecond)}, CapacityBitsPerSec: 20_000_000},
		{ID: 3, Name: "cm-cm", State: pathsel.StateDown, Why: "no reply yet"},
	}
	policy := pathsel.DefaultPolicy()
	before := pathsel.Select(10*s, states, &policy, nil)
	states[0].State, states[0].Since, states[0].Why, states[0].Out.Now = pathsel.StateBrownout, 50*s, "loss rose to 20 %", 0.2
	after := pathsel.Select(55*s, states, &policy, before)
	after.At = 60 * s
	return Clock{Wall: noon, Now: 60 * s}, states, *before, *after
}

func TestNewPeerPaths(t *testing.T) {
	clock, states, _, after := twoPaths()
	p := NewPeerPaths("fra", "gateway", clock, states, &after)
	ct := p.Paths[0]
	want := PathEstimate{
		Name: "ct-ct", State: "brownout", Since: noon.Add(-10 * time.Second), Why: "loss rose to 20 %", FreshMs: 20,
		RTT:      Delay{180, 181, 185, 181, 1.5},
		Out:      PathWay{Loss: 0.001, LossNow: 0.2, Packets: 1200, Burst: 1.5, Delay: Delay{91, 92, 96, 92, 1.5}},
		Back:     PathWay{Loss: 0.002, LossNow: 0.002, Packets: 1200, Burst: 1, Delay: Delay{89, 90, 94, 90, 1.5}},
		RateMbit: 12, CapacityMbit: 47,
	}
	if diff := cmp.Diff(want, ct); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if p.Paths[2].FreshMs != -1 {
		t.Errorf("a path that never answered is %v ms fresh, want -1", p.Paths[2].FreshMs)
	}
	rt := p.Classes[0]
	if rt.Class != "realtime" || rt.Path != "cu-cu" || rt.Next != "cu-cu" || rt.Why != "brownout" || rt.Unit != "R" || !rt.Since.Equal(noon.Add(-5*time.Second)) ||
		!strings.HasPrefix(rt.Reason, "left ct-ct in a brownout (loss rose to 20 %)") || len(rt.Candidates) != 2 || rt.Candidates[1].Path != "ct-ct" {
		t.Errorf("realtime: %+v", rt)
	}
	if p.Classes[2].Unit != "ms" || p.Classes[2].Path != "ct-ct" {
		t.Errorf("bulk: %+v", p.Classes[2])
	}
	none := NewClassChoice(clock, &pathsel.Choice{}, func(uint8) string { return "x" })
	if none.Path != "" || none.Next != "" || !none.Since.IsZero() || none.Reason != "no path answers" {
		t.Errorf("no choice: %+v", none)
	}
}

func TestEventLog(t *testing.T) {
	clock, states, before, after := twoPaths()
	var l EventLog
	l.Decided(clock, "fra", &pathsel.Decision{}, &before)
	l.Decided(clock, "fra", &before, &after)
	old := append([]pathsel.PathState{}, states...)
	old[0].State = pathsel.StateUp
	l.Changed(clock, "fra", old[:2], states) // cm is new: no event
	got := l.After(3)
	want := []Event{
		{Seq: 4, At: noon, Kind: EventMove, Peer: "fra", Path: "cu-cu", From: "ct-ct", Class: "realtime", Text: after.Classes[0].Reason(after.At)},
		{Seq: 5, At: noon, Kind: EventMove, Peer: "fra", Path: "cu-cu", From: "ct-ct", Class: "interactive", Text: after.Classes[1].Reason(after.At)},
		{Seq: 6, At: noon.Add(-10 * time.Second), Kind: EventPath, Peer: "fra", Path: "ct-ct", From: "up", State: "brownout", Text: "ct-ct is brownout, was up: loss rose to 20 %"},
	}
	if diff := cmp.Diff(Events{Last: 6, Life: got.Life, Events: want}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.Life == 0 {
		t.Error("no life")
	}
	if first := l.After(0).Events[0]; first.Path != "ct-ct" || first.From != "" {
		t.Errorf("the first choice: %+v", first)
	}
}

func TestEventLogIsBounded(t *testing.T) {
	var l EventLog
	if got := l.After(9); got.Last != 0 || got.Missed != 0 || len(got.Events) != 0 {
		t.Errorf("an empty log: %+v", got)
	}
	const n = 2*MaxEvents + 7
	for i := range n {
		l.Add(Event{Text: fmt.Sprint(i + 1)})
	}
	for _, tc := range []struct{ after, missed, first, many uint64 }{
		{0, MaxEvents + 7, MaxEvents + 8, MaxEvents},
		{MaxEvents + 7, 0, MaxEvents + 8, MaxEvents},
		{n - 2, 0, n - 1, 2},
		{n + 1, MaxEvents + 7, MaxEvents + 8, MaxEvents}, // of another life of the node
	} {
		got := l.After(tc.after)
		if got.Missed != tc.missed || got.Last != n || uint64(len(got.Events)) != tc.many {
			t.Fatalf("after %d: missed %d, last %d, %d events", tc.after, got.Missed, got.Last, len(got.Events))
		}
		for i, e := range got.Events {
			if e.Seq != tc.first+uint64(i) || e.Text != fmt.Sprint(e.Seq) || e.At.IsZero() {
				t.Fatalf("after %d: event %d is %+v", tc.after, i, e)
			}
		}
	}
	if got := l.After(n); len(got.Events) != 0 {
		t.Errorf("after the last: %d events", len(got.Events))
	}
}

func TestParseFlow(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, tc := range []struct {
		text string
		want FlowQuery
		back string
	}{
		{"10.10.0.7:51234", FlowQuery{A: ap("10.10.0.7:51234")}, "10.10.0.7:51234"},
		{"tcp 10.10.0.7:51234 10.20.0.9:443", FlowQuery{6, ap("10.10.0.7:51234"), ap("10.20.0.9:443")}, "tcp 10.10.0.7:51234 10.20.0.9:443"},
		{"UDP,10.10.0.7:1->10.20.0.9:2", FlowQuery{17, ap("10.10.0.7:1"), ap("10.20.0.9:2")}, "udp 10.10.0.7:1 10.20.0.9:2"},
		{"47 10.10.0.7 10.20.0.9", FlowQuery{47, ap("10.10.0.7:0"), ap("10.20.0.9:0")}, "47 10.10.0.7 10.20.0.9"},
		{"udp [fd00::1]:5 fd00::2", FlowQuery{17, ap("[fd00::1]:5"), ap("[fd00::2]:0")}, "udp [fd00::1]:5 fd00::2"},
		{"[::ffff:10.0.0.1]:5", FlowQuery{A: ap("10.0.0.1:5")}, "10.0.0.1:5"},
	} {
		got, err := ParseFlow(tc.text)
		if err != nil || got != tc.want || got.String() != tc.back {
			t.Errorf("%q: %+v (%s), %v", tc.text, got, got, err)
		}
		if again, err := ParseFlow(got.String()); err != nil || again != got {
			t.Errorf("%q again: %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "tcp", "10.0.0.1:x", "a 10.0.0.1:1", "0 10.0.0.1:1", "10.0.0.1:1 10.0.0.2:2 10.0.0.3:3", "10.0.0.1:1 [fd00::1]:1", strings.Repeat("1", 300)} {
		if q, err := ParseFlow(text); !errors.Is(err, ErrFlowQuery) {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	for _, s := range []string{"10.10.0.7:51234", "tcp 10.10.0.7:51234 10.20.0.9:443", "47 10.10.0.7->fd00::1", "[fe80::1%a]:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseFlow(text)
		if err != nil {
			return
		}
		if again, err := ParseFlow(q.String()); err != nil || again != q {
			t.Errorf("%q is %+v, and its text %q is %+v, %v", text, q, q, again, err)
		}
	})
}

func TestFlowQueryMatches(t *testing.T) {
	ap := netip.MustParseAddrPort
	src, dst := ap("10.10.0.7:51234"), ap("10.20.0.9:443")
	for text, want := range map[string]bool{
		"10.10.0.7:51234": true, "10.20.0.9:443": true, "10.10.0.7": true, "tcp 10.20.0.9:443 10.10.0.7:51234": true,
		"udp 10.10.0.7:51234": false, "10.10.0.7:443": false, "10.10.0.7:51234 10.20.0.9:444": false, "10.10.0.7 10.10.0.7": false,
	} {
		q, err := ParseFlow(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Matches(6, src, dst); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if (FlowQuery{}).Matches(6, src, dst) {
		t.Error("a query of nothing matches")
	}
}

func TestPathsOverTheSocket(t *testing.T) {
	clock, states, before, after := twoPaths()
	paths := func() Paths {
		p := NewPeerPaths("fra", "gateway", clock, states, &after)
		p.Paths[0].Out.Loss, p.Classes[0].Candidates[0].Score = math.NaN(), math.Inf(1)
		return Paths{Node: "sha", Role: "gateway", Taken: noon, Peers: []PeerPaths{p}}
	}
	var events EventLog
	events.Decided(clock, "fra", &before, &after)
	flow := ExplainedFlow{Protocol: "udp", Src: "10.10.0.7:51234", Dst: "10.20.0.9:443", Fate: FlowDirect}
	path := filepath.Join(t.TempDir(), "a.sock")
	s, err := Start(path, Source{
		Status: sample, Paths: paths, Events: &events,
		Explain: func(q FlowQuery) (Explanation, error) {
			if q.Protocol == 1 {
				return Explanation{}, errors.New("table is gone")
			}
			if !q.Matches(17, netip.MustParseAddrPort(flow.Src), netip.MustParseAddrPort(flow.Dst)) {
				return Explanation{}, fmt.Errorf("flow %s: %w", q, ErrNoFlow)
			}
			return Explanation{Node: "sha", Taken: noon, Flows: []ExplainedFlow{flow}}, nil
		},
		Decisions: func(w io.Writer) error { _, err := io.WriteString(w, "{}\n"); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := NewClient(path)
	defer c.Close()
	ctx := context.Background()
	if got, err := c.Paths(ctx); err != nil || cmp.Diff(paths().finite(), got) != "" {
		t.Errorf("paths: %v\n%s", err, cmp.Diff(paths().finite(), got))
	}
	if got, err := c.Events(ctx, 1); err != nil || got.Node != "sha" || got.Last != 2 || len(got.Events) != 1 || got.Events[0].Seq != 2 {
		t.Errorf("events: %+v, %v", got, err)
	}
	query := func(text string) FlowQuery {
		q, err := ParseFlow(text)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	if got, err := c.Explain(ctx, query("udp 10.10.0.7:51234 10.20.0.9")); err != nil || cmp.Diff([]ExplainedFlow{flow}, got.Flows) != "" {
		t.Errorf("explain: %+v, %v", got, err)
	}
	if _, err := c.Explain(ctx, query("10.10.0.7:1")); !errors.Is(err, ErrNoFlow) {
		t.Errorf("explain a flow that is not there: %v", err)
	}
	if _, err := c.Explain(ctx, query("icmp 10.10.0.7")); err == nil || !strings.Contains(err.Error(), "table is gone") {
		t.Errorf("explain with a broken table: %v", err)
	}
	if _, err := c.Explain(ctx, FlowQuery{}); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("explain nothing: %v", err)
	}
	var log strings.Builder
	if err := c.Decisions(ctx, &log); err != nil || log.String() != "{}\n" {
		t.Errorf("decisions: %q, %v", log.String(), err)
	}
	if code, _ := get(t, Handler(Source{Status: sample, Events: &events}), "/events?after=x"); code != http.StatusBadRequest {
		t.Errorf("events after x: %d", code)
	}
}

// TestNodeThatShowsLess: an older node, or one without paths, says so.
func TestNodeThatShowsLess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	s, err := Start(path, Source{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := NewClient(path)
	defer c.Close()
	_, paths := c.Paths(context.Background())
	_, explain := c.Explain(context.Background(), FlowQuery{A: netip.MustParseAddrPort("10.0.0.1:1")})
	for _, err := range []error{paths, explain} {
		if err == nil || errors.Is(err, ErrNoFlow) || !strings.Contains(err.Error(), "does not show this") {
			t.Errorf("%v", err)
		}
	}
}

func TestPathMetrics(t *testing.T) {
	clock, _, before, after := twoPaths()
	var events EventLog
	events.Decided(clock, "fra", &pathsel.Decision{}, &before) // first choices are no moves
	events.Decided(clock, "fra", &before, &after)
	code, body := get(t, Handler(Source{Status: sample, Paths: border, Events: &events}), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{
		`landbridge_estimate_state{path="ct-ct",peer="fra",state="brownout"} 1`,
		`landbridge_estimate_state{path="ct-ct",peer="fra",state="up"} 0`,
		`landbridge_estimate_rtt_seconds{path="ct-ct",peer="fra",stat="p95"} 0.185`,
		`landbridge_estimate_loss_ratio{direction="tx",path="ct-ct",peer="fra"} 0.2`,
		`landbridge_estimate_age_seconds{path="ct-ct",peer="fra"} 0.02`,
		`landbridge_estimate_age_seconds{path="cm-cm",peer="fra"} -1`,
		`landbridge_choice_path{class="realtime",path="cu-cu",peer="fra"} 1`,
		`landbridge_choice_path{class="realtime",path="ct-ct",peer="fra"} 0`,
		`landbridge_moves_total{class="realtime",peer="fra"} 1`,
		`landbridge_verdicts_total{program="guard",verdict="dropped"} 9`,
		`landbridge_flows_active 5`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	if strings.Contains(body, `landbridge_moves_total{class="bulk"`) {
		t.Error("bulk has not moved")
	}
	if t.Failed() {
		t.Log(body)
	}
}
