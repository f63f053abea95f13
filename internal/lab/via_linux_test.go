package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

func TestEveryWayIsBuilt(t *testing.T) {
	for _, w := range ways {
		if vias[w.name] == nil {
			t.Errorf("%s has no implementation", w.name)
			continue
		}
		for _, noAgent := range []bool{false, true} {
			o := normalised(t, Options{Scenario: "clean", Via: w.name, NoAgent: noAgent})
			at := o.via().entry(o, workloadPort)
			if w.forwards == (at == originAt(workloadPort)) || int(at.Port()) != workloadPort {
				t.Errorf("%s: the client dials %v", w.name, at)
			}
		}
	}
	if len(vias) != len(ways) {
		t.Errorf("%d implementations of %d ways", len(vias), len(ways))
	}
}

func TestToolIsMissing(t *testing.T) {
	dir := t.TempDir()
	o := Options{Programs: dir}
	_, err := tool(o, "landbridge-no-such-tool")
	if !errors.Is(err, ErrMissing) || !strings.Contains(hint.Of(err), "make peers") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	path := filepath.Join(dir, "landbridge-no-such-tool")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := tool(o, "landbridge-no-such-tool"); err == nil {
		t.Errorf("found %s, which cannot be run", got)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := tool(o, "not-this-either", "landbridge-no-such-tool"); err != nil || got != path {
		t.Errorf("found %q, %v", got, err)
	}
}

// TestWays moves payload over each way across the border. The kernel's own ways need nothing but the kernel; others'
// programs are not required, and skipped where they are missing.
func TestWays(t *testing.T) {
	requireRoot(t)
	for i, tc := range []struct {
		via   string
		agent bool
	}{
		{ViaTCPCubic, false},
		{ViaTCPBBR, true},
		{ViaMPTCPBBR, false},
		{ViaMPTCPBBR, true},
		{ViaKCPTun, false},
		{ViaKCPTun, true},
		{ViaHysteria, false},
		{ViaHysteriaBBR, true},
		{ViaOpenVPN, false},
		{ViaWireGuard, true},
	} {
		w, err := wayNamed(tc.via)
		if err != nil {
			t.Fatal(err)
		}
		name := tc.via
		if tc.agent {
			name += " with an agent"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Name: fmt.Sprintf("%s%c", testName(), 'a'+i), Scenario: "clean", Via: tc.via, NoAgent: !tc.agent, Seed: testSeed(t)}
			if err := vias[tc.via].check(normalised(t, o)); err != nil {
				if errors.Is(err, ErrMissing) && w.routing == routeToGateway {
					t.Skip(err)
				}
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			bytes := int64(300_000)
			if w.multipath {
				bytes = 4_000_000 // the first carrier alone would carry little
			}
			res, _, err := Run(ctx, RunOptions{Options: o, Workload: WorkloadBulk, Window: 30 * time.Second, Bytes: bytes}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if why := res.Failed(); why != "" || res.PayloadBytes != bytes {
				t.Errorf("%d bytes of %d: %s", res.PayloadBytes, bytes, why)
			}
			if res.Via != tc.via || res.Congestion != w.congestion || w.all != (len(res.Paths) == 3) {
				t.Errorf("result says via %s, %s, %d paths", res.Via, res.Congestion, len(res.Paths))
			}
			for name, p := range res.Paths {
				if p.ToClient < uint64(bytes)/100 {
					t.Errorf("%s carried %d bytes to the client: it takes no part", name, p.ToClient)
				}
			}
			if left := leftovers(o.Name); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if left, _ := filepath.Glob(wireGuardSockets + "/" + o.Name + "*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestUpRefusesForwarders(t *testing.T) {
	for _, w := range ways {
		if !w.forwards {
			continue
		}
		err := Up(t.Context(), Options{Name: testName(), Scenario: "clean", Via: w.name}, nil)
		if !errors.Is(err, ErrOptions) || !strings.Contains(hint.Of(err), ViaMPTCPBBR) {
			t.Errorf("%s: %v, hint %q", w.name, err, hint.Of(err))
		}
	}
	if !slices.Contains(routedNames(), ViaLandbridge) {
		t.Error("Landbridge is not among the ways for people")
	}
}

// TestBesides lets a flow compete with another over a carrier whose rate changes.
func TestBesides(t *testing.T) {
	requireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	res, _, err := Run(ctx, RunOptions{
		Options:  Options{Name: testName() + "z", Scenario: "clean", Via: ViaTCPBBR, NoAgent: true, Carriers: []string{"cm"}, Seed: testSeed(t)},
		Workload: WorkloadBulk, Window: 5 * time.Second,
		Competitor: ViaTCPBBR, CompetitorCarrier: "cm",
		Steps: []RateStep{{"cm", 60_000_000, 3 * time.Second}, {"cm", 8_000_000, 2 * time.Second}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if why := res.Failed(); why != "" {
		t.Error(why)
	}
	c := res.Competitor
	t.Logf("%+v, %+v", c, res.Steps)
	if c == nil || c.GoodputMbit < 1 || c.Share < 0.1 || c.Share > 0.9 || c.Share+c.WorkloadShare != 1 {
		t.Errorf("competitor %+v, want a part of the carrier", c)
	}
	if len(res.Steps) != 2 || res.Steps[0].FromMbit != 50 || res.Steps[0].ToMbit != 8 || res.Steps[1].FromMbit != 8 || res.Steps[1].At < 3 {
		t.Fatalf("steps %+v", res.Steps)
	}
	// Two BBR flows that had 50 Mbit/s build a queue at 8, where a loaded machine does not come to both steps at once.
	queued := res.Steps[1].At-res.Steps[0].At >= 0.5
	if s := res.Steps[0]; queued && (s.QueueMSMax < 20 || s.QueueGone != nil && *s.QueueGone == 0) || s.Used != nil {
		t.Errorf("the fall: %v", s)
	}
	if s := res.Steps[1]; s.QueueGone != nil {
		t.Errorf("the rise: %v", s)
	}
}
