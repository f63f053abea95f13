package lab

import (
	"context"
	"math"
	"testing"
	"time"
)

// TestCallsOverPlainRoutes: what calls measure in the kernel's network is what the emulator does to it.
func TestCallsOverPlainRoutes(t *testing.T) {
	requireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := testName()
	res, _, err := Run(ctx, RunOptions{
		Options:  Options{Name: name, Scenario: "heavy", Via: ViaTCPCubic, Carriers: []string{"cu"}, NoAgent: true, Seed: testSeed(t)},
		Workload: WorkloadCalls, Window: 3 * time.Second,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if why := res.Failed(); why != "" {
		t.Errorf("run failed: %s", why)
	}
	// 110 ms with 5 ms of jitter, and 3 % of 6,000 packets: six standard deviations are 1.3 %. A loaded machine's own delays are
	// part of what is measured; TestCalls knows them exactly.
	f := res.CallFigures
	if f.Calls != Calls || f.Packets != 2*Calls*150 || math.Abs(f.CallLoss-0.03) > 0.013 {
		t.Errorf("%d calls, %d packets, loss %v, want %d, %d, 0.03", f.Calls, f.Packets, f.CallLoss, Calls, 2*Calls*150)
	}
	if f.OWDP50 < 108 || f.OWDP50 > 220 || f.OWDP99 < f.OWDP50 || f.OWDP99 > 2000 || f.GapMax < 40 {
		t.Errorf("one way p50 %v, p99 %v ms, longest gap %v ms, want about 110, 125 and 40 at least", f.OWDP50, f.OWDP99, f.GapMax)
	}
	if f.MOS < 1 || f.MOS > 4.2 || f.MOSWorst < 1 || f.MOSWorst > f.MOS {
		t.Errorf("MOS %v, worst %v, want about 3.9", f.MOS, f.MOSWorst)
	}
	if left := leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestJunkBesideARun: a flood is made, counted and over when the run is.
func TestJunkBesideARun(t *testing.T) {
	requireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := testName()
	res, _, err := Run(ctx, RunOptions{
		Options:  Options{Name: name, Scenario: "clean", Via: ViaTCPCubic, Carriers: []string{"cm"}, NoAgent: true, Seed: testSeed(t)},
		Workload: WorkloadBulk, Window: 2 * time.Second, Junk: 2000,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if why := res.Failed(); why != "" {
		t.Errorf("run failed: %s", why)
	}
	if j := res.Junk; j == nil || j.Carrier != "cm" || j.Guard != "off" || j.Asked != 2000 || j.PPS < 200 || j.PPS > 2020 || j.Packets < 400 {
		t.Errorf("junk %+v, want up to 2000 a second for 2 s at least on cm", j)
	}
	if left := leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestJunkVerdicts(t *testing.T) {
	j := JunkResult{Carrier: "ct", Guard: "enforce", Asked: 10, PPS: 9}
	j.setVerdicts(map[string]uint64{"bond": 5, "unwanted": 1}, map[string]uint64{"bond": 5, "unwanted": 8, "rate-limited": 2})
	if got, want := j.String(), "9 packets a second of 10 at ct, guard enforce: rate-limited 2, unwanted 7"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
