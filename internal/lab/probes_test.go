package lab

import (
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestTrueProbes: what the record of a link says about probes, and how a prober is judged by it.
func TestTrueProbes(t *testing.T) {
	const ms = time.Millisecond
	pass := func(d wan.Direction, n uint32, entered, writing, written time.Duration) wan.Passage {
		p := wan.Passage{Direction: d, From: 9, To: 4501, Number: n, Entered: entered, Read: entered + ms, Writing: writing, Written: written}
		if d == wan.BtoA {
			p.From, p.To = 4501, 9
		}
		return p
	}
	passed := []wan.Passage{
		pass(wan.AtoB, 20, 100*ms, 150*ms, 150*ms), pass(wan.BtoA, 20, 0, 199*ms, 201*ms), // by XDP: 150 to 200
		pass(wan.AtoB, 21, 200*ms, 250*ms, 250*ms), pass(wan.BtoA, 21, 260*ms, 300*ms, 300*ms), // held for 10 ms
		pass(wan.AtoB, 22, 300*ms, 0, 0),
		pass(wan.AtoB, 23, 400*ms, 450*ms, 450*ms), pass(wan.BtoA, 23, 450*ms, 0, 0),
		pass(wan.AtoB, 3, 100*ms, 150*ms, 150*ms), pass(wan.BtoA, 3, 150*ms, 200*ms, 200*ms), // waited for an address
	}
	passed = append(passed, wan.Passage{Direction: wan.AtoB, From: 9, To: 4502, Number: 24, Entered: 1})
	truth := trueProbes(passed, 4501)
	if len(truth) != 5 {
		t.Fatalf("%d probes, want 5: %+v", len(truth), truth)
	}
	for n, want := range map[uint32]trueProbe{
		20: {rtt: 100 * ms, slack: ms, whole: true}, 21: {rtt: 90 * ms, whole: true}, 22: {lost: [2]bool{true, false}}, 23: {lost: [2]bool{false, true}},
	} {
		if truth[n] != want {
			t.Errorf("probe %d: %+v, want %+v", n, truth[n], want)
		}
	}
	f := ProbeFigures{Loss: [2]float64{0.2, 0.3}}
	f.judge(truth, map[uint32]time.Duration{3: 500 * ms, 20: 101 * ms, 21: 87 * ms, 22: 5 * ms})
	want := ProbeFigures{Probes: 2, ErrorP50: 1, ErrorP95: 3, ErrorMax: 3, TruthSlack: 1, Loss: [2]float64{0.2, 0.3}, TrueLoss: [2]float64{0.2, 0.25}}
	if f != want {
		t.Errorf("judged %+v, want %+v", f, want)
	}
	if off := f.LossError(); off < 0.199 || off > 0.201 {
		t.Errorf("the loss is off by %v, want 0.2", off)
	}
	if off := (&ProbeFigures{Loss: [2]float64{0, 0.1}}).LossError(); off != 1 {
		t.Errorf("loss where there is none is off by %v, want 1", off)
	}
}
