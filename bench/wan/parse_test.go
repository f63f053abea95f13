package wan

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var parseTable = []struct {
	text string
	want Impairment
}{
	{"", Impairment{}},
	{"unlimited", Impairment{}},
	{"50mbit delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3 queue 100ms", Impairment{
		Rate: 50e6, Delay: 90 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.01,
		GE: GE{P: 0.002, R: 0.2, H: 0.3}, Queue: 100 * time.Millisecond,
	}},
	{"2.5Mbit loss 0.005 queue-packets 50", Impairment{Rate: 2.5e6, Loss: 0.005, QueuePackets: 50}},
	{"1gbit reorder 1% 5ms duplicate 0.1% corrupt 0.1% mtu 1400", Impairment{
		Rate: 1e9, Reorder: Reorder{0.01, 5 * time.Millisecond}, Duplicate: 0.001, Corrupt: 0.001, MTU: 1400,
	}},
	{"policer 40mbit burst 64000 outage 3s every 10s from 5s outage 1s", Impairment{
		Policer: Policer{Rate: 40e6, Burst: 64000},
		Outages: []Outage{{Start: 5 * time.Second, Duration: 3 * time.Second, Every: 10 * time.Second}, {Duration: time.Second}},
	}},
}

func TestParseImpairment(t *testing.T) {
	for _, tt := range parseTable {
		got, err := ParseImpairment(tt.text)
		if err != nil {
			t.Errorf("parse %q: %v", tt.text, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("parse %q: %s", tt.text, d)
		}
		back, err := ParseImpairment(got.String())
		if d := cmp.Diff(got, back); err != nil || d != "" {
			t.Errorf("%q printed as %q: %v %s", tt.text, got, err, d)
		}
	}
}

func TestParseImpairmentErrors(t *testing.T) {
	for _, text := range []string{
		"50", "fast", "50mbit 60mbit", "delay", "delay 5", "delay -1ms", "delay 2h", "loss 101%", "loss NaN",
		"ge 0.1/0.2", "ge 1/2/3", "reorder 1%", "mtu x", "outage 0s", "outage 3s every 1s", "policer",
		"9999gbit", "0.3bit", "-5mbit", "queue-packets -1", "outage 1s every", "loss 1% loss 1%", "gbit",
	} {
		if imp, err := ParseImpairment(text); !errors.Is(err, ErrImpairment) {
			t.Errorf("parse %q: %v, %v; want ErrImpairment", text, imp, err)
		}
	}
}

func FuzzParseImpairment(f *testing.F) {
	for _, tt := range parseTable {
		f.Add(tt.text)
		f.Add(tt.want.String())
	}
	for _, s := range Scenarios() {
		for _, c := range s.Carriers {
			f.Add(c.Impairment.String())
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		imp, err := ParseImpairment(text)
		if err != nil {
			if !errors.Is(err, ErrImpairment) {
				t.Fatalf("%q: %v does not wrap ErrImpairment", text, err)
			}
			return
		}
		back, err := ParseImpairment(imp.String())
		if d := cmp.Diff(imp, back); err != nil || d != "" {
			t.Fatalf("%q printed as %q: %v %s", text, imp, err, d)
		}
		// Whatever parses must run: times go forward, whatever the values.
		s := NewShaper(imp, 1)
		now := time.Duration(0)
		for i := range 50 {
			d := s.Offer(now, 60+i*29)
			if d.Copies > 0 && (d.Depart < now || d.At < d.Depart) {
				t.Fatalf("%q: offered at %v departs %v arrives %v", text, now, d.Depart, d.At)
			}
			now += time.Millisecond
		}
	})
}

func TestScenarios(t *testing.T) {
	// The limits of the design's table, in Mbit/s.
	want := map[string]float64{"clean": 143, "typical": 141, "heavy": 133, "skewed": 119, "outage": 141, "policed": 143}
	for _, s := range Scenarios() {
		if got := math.Round(s.Limit() / 1e6); got != want[s.Name] {
			t.Errorf("%s: limit %v Mbit/s, want %v", s.Name, got, want[s.Name])
		}
		again, err := ScenarioNamed(s.Name)
		if d := cmp.Diff(s, again); err != nil || d != "" {
			t.Errorf("%s: %v %s", s.Name, err, d)
		}
		delete(want, s.Name)
	}
	if len(want) != 0 {
		t.Errorf("missing scenarios: %v", want)
	}
	if _, err := ScenarioNamed("sunny"); err == nil {
		t.Error("no error for an unknown scenario")
	}
}
