package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
)

// sampleTrace is a trace of so many steps with everything a trace can hold, from a seed.
func sampleTrace(seed uint64, steps int) *Trace {
	rng := rand.New(rand.NewPCG(seed, 2))
	t := &Trace{
		Version: traceVersion, Began: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Carriers: make(map[string]*CarrierTrace),
		Result: &Result{
			Scenario: "outage", Workload: WorkloadBulk, Via: ViaLandbridge, Seed: seed, Carriers: carriers, Flows: 1, Seconds: float64(steps) / 10,
			GoodputMbit: 121.5, LimitMbit: 140.8, OfLimit: 0.863, PayloadBytes: 1e8, SHA256OK: true, WireOverhead: 1.151, StallMSMax: 212,
			FirstSecondMbit: 101, BestPathRTT: 160, Errors: []string{},
		},
	}
	fill := func(cols []*Column, most float64) {
		for _, c := range cols {
			*c = make(Column, steps)
			for i := range *c {
				(*c)[i] = round(most*rng.Float64(), 3)
				if rng.IntN(20) == 0 {
					(*c)[i] = math.NaN()
				}
			}
		}
	}
	for i := range steps {
		t.Seconds = append(t.Seconds, round(float64(i+1)/10, 3))
	}
	fill([]*Column{&t.GoodputMbit}, 140)
	for _, name := range carriers {
		c := &CarrierTrace{RateMbit: 50, DelayMS: 90}
		for _, w := range []*WayTrace{&c.ToClient, &c.ToOrigin} {
			fill(w.Link.columns(), 50)
			p := &PathTrace{State: []string{}, Controller: []string{}}
			fill(p.columns(), 50)
			for i := range steps {
				p.State = append(p.State, []string{"up", "up", "suspect", "down", ""}[i/5%5])
				p.Controller = append(p.Controller, []string{"Startup", "Drain", "Cruise", "Up/compete", ""}[rng.IntN(5)])
			}
			w.Path = p
		}
		t.Carriers[name] = c
	}
	for i, node := range []string{machineSha, machineFra, machineFra} {
		l := &LaneTrace{Node: node, ID: 128 + i, Class: "bulk"}
		fill(l.columns(), 9000)
		t.Lanes = append(t.Lanes, l)
	}
	if steps > 4 {
		t.Marks = []Mark{{From: 0.1, To: 0.3, Label: "ct dark", Carrier: "ct"}}
	}
	return t
}

var sameTrace = cmp.Options{cmpopts.EquateNaNs(), cmpopts.EquateEmpty()}

func TestTraceRoundTrip(t *testing.T) {
	seed := testSeed(t)
	for _, steps := range []int{0, 1, 250} {
		want, path := sampleTrace(seed, steps), filepath.Join(t.TempDir(), "trace.json")
		if err := want.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		got, err := ReadTraceFile(path)
		if err != nil {
			t.Fatalf("%d steps: %v", steps, err)
		}
		if diff := cmp.Diff(want, got, sameTrace); diff != "" {
			t.Errorf("%d steps: (-want +got)\n%s", steps, diff)
		}
	}
	if _, err := ReadTraceFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestParseTraceRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Trace){
		"version":          func(t *Trace) { t.Version = 2 },
		"a short column":   func(t *Trace) { t.GoodputMbit = t.GoodputMbit[1:] },
		"short link":       func(t *Trace) { t.Carriers["ct"].ToOrigin.Link.Lost = nil },
		"long path":        func(t *Trace) { p := t.Carriers["ct"].ToClient.Path; p.Loss = append(p.Loss, 0) },
		"short states":     func(t *Trace) { p := t.Carriers["ct"].ToClient.Path; p.State = p.State[1:] },
		"short lane":       func(t *Trace) { t.Lanes[1].WindowPackets = nil },
		"no lane":          func(t *Trace) { t.Lanes[1] = nil },
		"no carrier":       func(t *Trace) { t.Carriers["cx"] = nil },
		"carrier's name":   func(t *Trace) { t.Carriers["<b>"] = t.Carriers["ct"] },
		"carrier's rate":   func(t *Trace) { t.Carriers["ct"].RateMbit = -1 },
		"time stands back": func(t *Trace) { t.Seconds[3] = 0 },
		"unknown time":     func(t *Trace) { t.Seconds[3] = math.NaN() },
		"below zero":       func(t *Trace) { t.GoodputMbit[2] = -1 },
		"out of all size":  func(t *Trace) { t.GoodputMbit[2] = 1e300 },
		"mark's order":     func(t *Trace) { t.Marks[0].To = 0 },
		"mark's name":      func(t *Trace) { t.Marks[0].Label = strings.Repeat("x", 65) },
		"state's name":     func(t *Trace) { t.Carriers["ct"].ToClient.Path.State[0] = strings.Repeat("x", 65) },
		"too many lanes":   func(t *Trace) { t.Lanes = make([]*LaneTrace, maxTraceLanes+1) },
	} {
		tr := sampleTrace(1, 10)
		spoil(tr)
		b, err := json.Marshal(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseTrace(b); !errors.Is(err, ErrTrace) {
			t.Errorf("%s: %v", name, err)
		}
		if err := WriteTracePage(&bytes.Buffer{}, []*Trace{tr}); !errors.Is(err, ErrTrace) {
			t.Errorf("%s: drawn all the same: %v", name, err)
		}
	}
	for _, text := range []string{"", "{", "[]", "null x", `{"version":1}{}`, `{"version":1,"seconds":["a"]}`, `{"version":1,"seconds":[1e999]}`} {
		if _, err := ParseTrace([]byte(text)); !errors.Is(err, ErrTrace) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzParseTrace: what is accepted can be drawn and comes back as it was.
func FuzzParseTrace(f *testing.F) {
	for _, steps := range []int{0, 1, 6} {
		b, err := json.Marshal(sampleTrace(1, steps))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":1,"seconds":[0.1],"goodput_mbit":[null],"marks":[{"from":0,"to":1,"label":"</svg>"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := ParseTrace(b)
		if err != nil {
			if !errors.Is(err, ErrTrace) {
				t.Fatalf("no ErrTrace: %v", err)
			}
			return
		}
		again, err := json.Marshal(tr)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseTrace(again)
		if err != nil {
			t.Fatalf("not taken back: %v", err)
		}
		if diff := cmp.Diff(tr, back, sameTrace); diff != "" {
			t.Fatalf("came back different: %s", diff)
		}
		if err := WriteTracePage(&bytes.Buffer{}, []*Trace{tr}); err != nil {
			t.Fatal(err)
		}
		for _, s := range tr.sections() {
			for _, p := range s.Panels {
				if err := wellFormed("<page>" + string(p.SVG) + "</page>"); err != nil {
					t.Fatalf("%s: %v", s.Title, err)
				}
			}
		}
	})
}

// borderOf is a border whose counters a test moves, and the gateways beside it.
type borderOf struct {
	now   time.Time
	links map[string]*wan.LinkStats
	nodes map[string]*admin.Status
	mute  map[string]bool
}

func newBorderOf(now time.Time) *borderOf {
	b := &borderOf{now: now, links: map[string]*wan.LinkStats{"ct": {Name: "ct"}}, nodes: make(map[string]*admin.Status), mute: make(map[string]bool)}
	for node, peer := range map[string]string{machineSha: machineFra, machineFra: machineSha} {
		b.nodes[node] = &admin.Status{Peers: []admin.Peer{
			{Name: "other", Paths: []admin.Path{{Name: "ct-ct", RTTMs: 999}}},
			{Name: peer, Paths: []admin.Path{{Name: "ct-ct", State: admin.PathUp, RTTMs: 180}}, Lanes: []admin.Lane{{ID: 128, Class: "bulk"}}},
		}}
	}
	return b
}

func (b *borderOf) stats() ([]wan.LinkStats, error) {
	if b.mute["emulator"] {
		return nil, errors.New("dead")
	}
	var out []wan.LinkStats
	for _, l := range b.links {
		out = append(out, *l)
	}
	return out, nil
}

func (b *borderOf) statuses() map[string]admin.Status {
	out := make(map[string]admin.Status)
	for name, st := range b.nodes {
		if b.mute[name] {
			continue
		}
		c := *st
		c.Taken = b.now
		c.Peers = append([]admin.Peer(nil), st.Peers...)
		c.Peers[1].Paths = append([]admin.Path(nil), st.Peers[1].Paths...)
		c.Peers[1].Lanes = append([]admin.Lane(nil), st.Peers[1].Lanes...)
		out[name] = c
	}
	return out
}

func TestTracer(t *testing.T) {
	t0 := time.Now()
	b, recv := newBorderOf(t0), int64(0)
	use := []wan.Carrier{{Name: "ct", Impairment: wan.Impairment{Rate: 50e6, Delay: 90 * time.Millisecond}}}
	tr := newTracer(t0, use, false, func() int64 { return recv }, b.stats, b.statuses)
	link, sha, fra := b.links["ct"], &b.nodes[machineSha].Peers[1], &b.nodes[machineFra].Peers[1]
	for i := range 6 {
		recv += 125_000
		down := &link.BtoA
		down.Offered, down.Sent, down.Lost, down.QueueDrops = down.Offered+110, down.Sent+100, down.Lost+5, down.QueueDrops+10
		down.Delivered, down.DeliveredBytes = down.Delivered+95, down.DeliveredBytes+250_000
		down.Queue, down.Dark = time.Duration(i)*time.Millisecond, i == 2 || i == 3
		link.AtoB.DeliveredBytes += 12_500
		p := &fra.Paths[0]
		p.SentPackets, p.SentBytes, p.RepairSent, p.Retransmits = p.SentPackets+100, p.SentBytes+260_000, p.RepairSent+8, p.Retransmits+2
		p.LossTx, p.LossFloor, p.ExtraDelayMs, p.QueueMs, p.CapacityMbit, p.PacingMbit = 0.05, 0.04, 12, 9, 48, 49
		p.State, p.Controller = admin.PathUp, "Cruise"
		if i == 3 {
			p.State = admin.PathSuspect
		}
		sha.Paths[0].RecvBytes += 240_000
		fra.Lanes[0].WindowPackets, fra.Lanes[0].LostPackets = 1000+i, fra.Lanes[0].LostPackets+1
		if i == 4 {
			fra.Lanes = append(fra.Lanes, admin.Lane{ID: 129, Class: "bulk", WindowPackets: 32})
		}
		b.mute[machineSha], b.mute["emulator"] = i == 5, i == 5
		b.now = t0.Add(time.Duration(i+1) * TraceInterval)
		tr.sample(b.now)
	}
	tr.sample(b.now) // no time has passed: no step
	got := tr.done()
	if err := got.check(); err != nil {
		t.Fatal(err)
	}
	c, nan := got.Carriers["ct"], math.NaN()
	path := c.ToClient.Path
	for _, tc := range []struct {
		name string
		got  Column
		want Column
	}{
		{"seconds", got.Seconds, Column{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}},
		{"goodput", got.GoodputMbit, Column{10, 10, 10, 10, 10, 10}},
		{"delivered", c.ToClient.Link.Mbit, Column{20, 20, 20, 20, 20, nan}},
		{"other direction", c.ToOrigin.Link.Mbit, Column{1, 1, 1, 1, 1, nan}},
		{"queue", c.ToClient.Link.QueueMS, Column{0, 1, 2, 3, 4, nan}},
		{"offered", c.ToClient.Link.Offered, Column{1100, 1100, 1100, 1100, 1100, nan}},
		{"queue drops", c.ToClient.Link.QueueDrops, Column{100, 100, 100, 100, 100, nan}},
		{"lost", c.ToClient.Link.Lost, Column{50, 50, 50, 50, 50, nan}},
		{"path sent", path.SentMbit, Column{20.8, 20.8, 20.8, 20.8, 20.8, 20.8}},
		{"path delivered", path.DeliveredMbit, Column{19.2, 19.2, 19.2, 19.2, 19.2, nan}},
		{"rtt", path.RTTMS, Column{180, 180, 180, 180, 180, 180}},
		{"repairs", path.Repairs, Column{80, 80, 80, 80, 80, 80}},
		{"resent", path.Resent, Column{20, 20, 20, 20, 20, 20}},
		{"packets", path.Packets, Column{1000, 1000, 1000, 1000, 1000, 1000}},
		{"extra delay", path.ExtraDelayMS, Column{12, 12, 12, 12, 12, 12}},
		{"estimated queue", path.QueueMS, Column{9, 9, 9, 9, 9, 9}},
		{"bandwidth", path.CapacityMbit, Column{48, 48, 48, 48, 48, 48}},
		{"pacing", path.PacingMbit, Column{49, 49, 49, 49, 49, 49}},
		{"loss", path.Loss, Column{0.05, 0.05, 0.05, 0.05, 0.05, 0.05}},
		{"floor", path.LossFloor, Column{0.04, 0.04, 0.04, 0.04, 0.04, 0.04}},
		{"back's rtt", c.ToOrigin.Path.RTTMS, Column{180, 180, 180, 180, 180, nan}},
	} {
		if diff := cmp.Diff(tc.want, tc.got, sameTrace); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, diff)
		}
	}
	if c.RateMbit != 50 || c.DelayMS != 90 || path.State[2] != "up" || path.State[3] != "suspect" || path.Controller[0] != "Cruise" || c.ToOrigin.Path.State[5] != "" {
		t.Errorf("%+v, states %v, %v", c, path.State, c.ToOrigin.Path.State)
	}
	if diff := cmp.Diff([]Mark{{From: 0.2, To: 0.4, Label: "ct dark", Carrier: "ct"}}, got.Marks); diff != "" {
		t.Errorf("marks: (-want +got)\n%s", diff)
	}
	var late *LaneTrace
	for _, l := range got.Lanes {
		if l.ID == 129 {
			late = l
		} else if l.Node == machineFra {
			want := &LaneTrace{Node: machineFra, ID: 128, Class: "bulk", WindowPackets: Column{1000, 1001, 1002, 1003, 1004, 1005}, Lost: Column{10, 10, 10, 10, 10, 10}}
			if diff := cmp.Diff(want, l, sameTrace); diff != "" {
				t.Errorf("lane: (-want +got)\n%s", diff)
			}
		}
	}
	if len(got.Lanes) != 3 || late == nil || !math.IsNaN(late.WindowPackets[3]) || late.WindowPackets[4] != 32 {
		t.Errorf("%d lanes; the late one: %+v", len(got.Lanes), late)
	}
}

// TestTracerDarkAtTheEnd: an outage that outlasts the run is marked to its end.
func TestTracerDarkAtTheEnd(t *testing.T) {
	t0 := time.Now()
	b := newBorderOf(t0)
	tr := newTracer(t0, []wan.Carrier{{Name: "ct"}}, true, func() int64 { return 0 }, b.stats, nil)
	for i := range 5 {
		b.links["ct"].AtoB.Dark = i >= 1
		tr.sample(t0.Add(time.Duration(i+1) * TraceInterval))
	}
	got := tr.done()
	if diff := cmp.Diff([]Mark{{From: 0.1, To: 0.5, Label: "ct dark", Carrier: "ct"}}, got.Marks); diff != "" {
		t.Errorf("marks: (-want +got)\n%s", diff)
	}
	if c := got.Carriers["ct"]; c.ToClient.Path != nil || got.payload("ct") != &c.ToOrigin || got.payload("cu") != nil {
		t.Error("directions are mixed up, or there is a path without a tunnel")
	}
}
