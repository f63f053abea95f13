package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel"
)

// TestDarkTrial: what the record of new flows says about a carrier that went dark.
func TestDarkTrial(t *testing.T) {
	const ms = time.Millisecond
	at := func(link string, d time.Duration) departure { return departure{link, d} }
	for name, tc := range map[string]struct {
		flows map[uint32]departure
		want  DarkTrial
	}{
		"leaves": {map[uint32]departure{1: at("ct", 90*ms), 2: at("ct", 150*ms), 3: at("ct", 280*ms), 4: at("cu", 310*ms), 5: at("cm", 300*ms)},
			DarkTrial{Link: "ct", LastPick: 180, Picked: 2, Elsewhere: 200}},
		"stays":       {map[uint32]departure{1: at("ct", 90*ms), 2: at("ct", 900*ms)}, DarkTrial{Link: "ct", LastPick: 800, Picked: 1, Elsewhere: -1}},
		"nowhere":     {map[uint32]departure{1: at("cu", 90*ms), 2: at("ct", 95*ms)}, DarkTrial{Link: "ct", Elsewhere: -1}},
		"left before": {map[uint32]departure{1: at("ct", 90*ms), 2: at("cu", 95*ms), 3: at("cu", 105*ms)}, DarkTrial{Link: "ct", Elsewhere: 5}},
		"none before": {map[uint32]departure{1: at("cu", 105*ms)}, DarkTrial{Link: "ct", Elsewhere: 5}},
	} {
		d := DarkTrial{Link: "ct"}
		if d.judge(tc.flows, 100*ms); d != tc.want {
			t.Errorf("%s: %+v, want %+v", name, d, tc.want)
		}
	}
}

// TestSteadyTrial: what the record of new flows says where nothing is dark.
func TestSteadyTrial(t *testing.T) {
	s := SteadyTrial{Link: "ct"}
	s.judge(map[uint32]departure{1: {link: "ct"}, 2: {link: "cu"}, 3: {link: "ct"}, 4: {link: "ct"}}, 5)
	if s.Flows != 5 || s.Lost != 1 || s.Elsewhere != 1 {
		t.Errorf("%+v", s)
	}
}

func TestBrownoutTrial(t *testing.T) {
	const ms = time.Millisecond
	flow := func(ct, cu []time.Duration) map[uint32]departure {
		out := map[uint32]departure{}
		for _, d := range ct {
			out[uint32(len(out))] = departure{"ct", d}
		}
		for _, d := range cu {
			out[uint32(len(out))] = departure{"cu", d}
		}
		return out
	}
	for name, tc := range map[string]struct {
		packets map[uint32]departure
		moved   bool
		after   float64
	}{
		"moves":           {flow([]time.Duration{50 * ms, 700 * ms}, []time.Duration{720 * ms}), true, 600},
		"stays":           {flow([]time.Duration{50 * ms, 700 * ms}, nil), false, 600},
		"comes back":      {flow([]time.Duration{50 * ms, 700 * ms}, []time.Duration{600 * ms}), false, 600},
		"left before":     {flow([]time.Duration{50 * ms}, []time.Duration{80 * ms, 700 * ms}), false, 0},
		"never was there": {flow(nil, []time.Duration{80 * ms, 700 * ms}), false, 0},
	} {
		b := BrownoutTrial{Link: "ct"}
		if b.judge(tc.packets, 100*ms); b.Moved != tc.moved || b.MovedMS != tc.after {
			t.Errorf("%s: %+v, want %v after %v ms", name, b, tc.moved, tc.after)
		}
	}
}

func TestDepartures(t *testing.T) {
	got := departures(map[string][]wan.Passage{
		"ct": {{Direction: wan.AtoB, Number: 1, Entered: 5, Read: 6}, {Direction: wan.BtoA, Number: 2, Entered: 7}},
		"cu": {{Direction: wan.AtoB, Number: 3, Read: 9}},
	})
	if len(got) != 2 || got[1] != (departure{"ct", 5}) || got[3] != (departure{"cu", 9}) {
		t.Errorf("%+v", got)
	}
}

// TestOracle: the oracle takes the carrier that is best by the scenario's figures.
func TestOracle(t *testing.T) {
	for _, tc := range []struct {
		scenario string
		class    pathsel.Class
		want     string
	}{
		{"clean", pathsel.Realtime, "cm"}, // the shortest
		{"clean", pathsel.Interactive, "cm"},
		{"typical", pathsel.Realtime, "cu"}, // longer, and a third of the others' loss
		{"heavy", pathsel.Realtime, "cu"},
		{"skewed", pathsel.Interactive, "ct"},
	} {
		links, err := scenarioLinks(tc.scenario)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := oracle(links, tc.class, testSeed(t)); got != tc.want || err != nil {
			t.Errorf("%s, %v: %q, %v, want %q", tc.scenario, tc.class, got, err, tc.want)
		}
	}
	d := modelled(wan.Impairment{Rate: 50_000_000, Delay: 90 * time.Millisecond, Queue: time.Second, Loss: 0.05}, 1)
	if d.Loss < 0.045 || d.Loss > 0.055 || d.Burst > 1.2 || d.Delay.Median < 90*time.Millisecond || d.Delay.P95 > 91*time.Millisecond {
		t.Errorf("modelled %+v, want 5 %% of single losses and 90 ms", d)
	}
}

func TestProofRows(t *testing.T) {
	calls := func(p99, mos, loss float64) *Result {
		return &Result{CallFigures: &CallFigures{Packets: 30_000, OWDP99: p99, MOS: mos, CallLoss: loss}}
	}
	objects := func(p99 float64) *Result { return &Result{ObjectFigures: &ObjectFigures{P99: p99}} }
	bulk := func(mbit float64) *Result { return &Result{GoodputMbit: mbit} }
	good := Proof{
		Probes: []ProbeFigures{{Prober: ProberNIC, ErrorP95: 0.3, Loss: [2]float64{0.012, 0.1}, TrueLoss: [2]float64{0.01, 0.1}}, {Prober: ProberUser, ErrorP95: 50, Loss: [2]float64{1, 1}}},
		Dark: []DarkTrial{{Scenario: "typical", Picked: 1, LastPick: 199, Elsewhere: 205}, {Scenario: "typical", Picked: 1, LastPick: 100, Elsewhere: 101, Stopped: true},
			{Scenario: "heavy", Picked: 1, LastPick: 199, Elsewhere: 205}},
		Steady: []SteadyTrial{{Flows: 1000, Lost: 2, Elsewhere: 98}},
		Brown:  []BrownoutTrial{{Link: "ct", Moved: true, MovedMS: 2000}},
		Oracle: []OracleTrial{{Workload: WorkloadCalls, Picked: calls(110, 4, 0.008), Oracle: calls(100, 4.4, 0.005)}, {Workload: WorkloadObjects, Picked: objects(109), Oracle: objects(100)}},
		Junk:   []JunkTrial{{Guard: "off", Alone: bulk(100), Under: bulk(10)}, {Guard: "enforce", Alone: bulk(100), Under: bulk(90)}},
	}
	if good.judge(); good.Failed() != "" || len(good.Rows) != 13 {
		t.Fatalf("failed: %q; %d rows, want 13", good.Failed(), len(good.Rows))
	}
	for name, spoil := range map[string]func(*Proof){
		"probe RTT":           func(p *Proof) { p.Probes[0].ErrorP95 = 0.31 },
		"probe loss":          func(p *Proof) { p.Probes[0].Loss[0] = 0.013 },
		"typical, daemon run": func(p *Proof) { p.Dark[0].LastPick = 200 },
		"heavy, daemon run":   func(p *Proof) { p.Dark[2].Elsewhere = -1 },
		"SIGSTOP":             func(p *Proof) { p.Dark[1].Picked = 0 },
		"nothing is dark":     func(p *Proof) { p.Steady[0].Lost = 3 },
		"daemon stop":         func(p *Proof) { p.Dark[1].Elsewhere = -1 },
		"brownout":            func(p *Proof) { p.Brown[0].Moved = false },
		"ct":                  func(p *Proof) { p.Brown[0].MovedMS = 2001 },
		"calls":               func(p *Proof) { p.Oracle[0].Picked = calls(111, 4, 0) },
		"calls beside":        func(p *Proof) { p.Oracle[0].Picked = calls(90, 3.9, 0) },
		"calls, lossy":        func(p *Proof) { p.Oracle[0].Picked = calls(90, 4.3, 0.01) },
		"calls, none": func(p *Proof) {
			p.Oracle[0].Picked = &Result{CallFigures: &CallFigures{OWDP99: 90, MOS: 4.3, CallLoss: 0.001}}
		},
		"objects":       func(p *Proof) { p.Oracle[1].Picked = nil },
		"guard enforce": func(p *Proof) { p.Junk[1].Under = bulk(89) },
		"no lab":        func(p *Proof) { p.Errors = []string{"no lab"} },
	} {
		bad := Proof{
			Probes: append([]ProbeFigures(nil), good.Probes...), Dark: append([]DarkTrial(nil), good.Dark...),
			Steady: append([]SteadyTrial(nil), good.Steady...), Brown: append([]BrownoutTrial(nil), good.Brown...),
			Oracle: append([]OracleTrial(nil), good.Oracle...), Junk: append([]JunkTrial(nil), good.Junk...),
		}
		spoil(&bad)
		what, _, _ := strings.Cut(name, ",")
		if bad.judge(); !strings.Contains(bad.Failed(), what) || strings.Contains(bad.Failed(), "; ") {
			t.Errorf("%s: failed %q, want this alone", name, bad.Failed())
		}
	}
	dir := t.TempDir()
	if err := good.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, proofMarkdown))
	if err != nil || strings.Count(string(md), "\n|") != 15 || strings.Count(string(md), "| yes |") != 10 || strings.Contains(string(md), "| NO |") {
		t.Errorf("table, %v:\n%s", err, md)
	}
	for _, o := range []ProofOptions{{Checks: []string{"nothing"}}, {Scenarios: []string{"nowhere"}}, {Window: 1}} {
		if o.check() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
