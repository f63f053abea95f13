package pathsel

import (
	"fmt"
	"testing"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// feeder drives one path of a table by hand: a probe every 50 ms, answered after 100 ms unless the script says otherwise.
type feeder struct {
	table *Table
	now   time.Duration
}

// feed runs so many probes of a kind: '.' answered, 'x' lost on the way out and known at once, 's' 60 ms slower on the way out, '-' no
// reply and nothing known, ' ' not even sent.
func (f *feeder) feed(script string) {
	for _, c := range script {
		if c != ' ' {
			f.table.ProbeSent(f.now, 1)
		}
		rtt := 100 * ms
		if c == 's' {
			rtt = 160 * ms
		}
		sent := f.now
		f.now += 50 * ms
		switch c {
		case '.', 's':
			f.table.Probe(&stamp.Event{Kind: stamp.EventReply, Path: 1, At: f.now, Sent: sent, RTT: rtt, Out: rtt - 50*ms, Back: 50 * ms})
			f.table.Probe(&stamp.Event{Kind: stamp.EventFate, Path: 1, At: f.now, Answered: 1})
		case 'x':
			f.table.Probe(&stamp.Event{Kind: stamp.EventFate, Path: 1, At: f.now, OutLost: 1})
		}
		f.table.Advance(f.now)
	}
}

func repeat(s string, n int) string {
	out := ""
	for range n {
		out += s
	}
	return out
}

func TestStates(t *testing.T) {
	settled := repeat(".", 300)
	for _, tt := range []struct {
		name   string
		before string
		script string
		want   State
	}{
		{"new", "", "", StateDown},
		{"no reply", "", "----------", StateDown},
		{"first reply", "", "--.", StateUp},
		{"settled", settled, "", StateUp},
		{"one lost", settled, "x.", StateUp},
		{"silent for 150 ms", settled, "---", StateUp},  // the replies are due after 100 ms
		{"silent for 200 ms", settled, "----", StateUp}, // a burst of lost probes looks the same
		{"silent for 300 ms", settled, "------", StateSuspect},
		{"the sender stood still", settled, "          ", StateUp},
		{"heard again", settled, "------.", StateUp},
		{"silent for a while, heard once", settled, "----------------..", StateSuspect},
		{"and for half a second", settled, "----------------..........", StateUp},
		{"silent for a second", settled, "-----------------------", StateDown},
		{"back for half a second", settled, "-----------------------..........", StateDown},
		{"back for more than a second", settled, "-----------------------......................", StateUp},
		{"loss rises", settled, ".x.x.x.x.x.", StateBrownout},
		{"but not so soon", ".....", ".x.x.x.x.x.", StateUp},
		{"lossy all along", repeat("..........x", 100), "x....x.....x....", StateUp},
		{"delay rises", settled, "ssssss", StateBrownout},
		{"delay blips", settled, "sss.....", StateUp},
		{"browned out for 4 s", settled, ".x.x.x.x.x." + repeat(".", 80), StateBrownout},
		{"and well for 20 s", settled, ".x.x.x.x.x." + repeat(".", 400), StateUp},
		{"delay stays: the new normal", settled, repeat("s", 1300), StateUp},
		{"loss stays for 50 s", settled, repeat(".........x", 100), StateBrownout},
		{"loss stays: the new normal", settled, repeat(".........x", 140), StateUp},
		{"silent in a brownout, then heard", settled, ".x.x.x.x.x." + "-----.", StateBrownout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &feeder{table: NewTable(0)}
			f.table.Add(0, 1, "ct-ct")
			f.table.Use(1, true)
			f.feed(tt.before + tt.script)
			if got := f.table.States(f.now, nil)[0]; got.State != tt.want {
				t.Errorf("%v (%s), want %v", got.State, got.Why, tt.want)
			}
		})
	}
}

// TestUnusedStates: a path that nobody uses is no suspect as soon, but new flows stay away from it as early.
func TestUnusedStates(t *testing.T) {
	for _, tt := range []struct {
		script  string
		want    State
		overdue bool
	}{{"---", StateUp, false}, {"----", StateUp, true}, {"-------", StateUp, true}, {"----------", StateSuspect, true}, {repeat("-", 23), StateDown, true}} {
		f := &feeder{table: NewTable(0)}
		f.table.Add(0, 1, "ct-ct")
		f.feed(repeat(".", 300) + tt.script)
		if got := f.table.States(f.now, nil)[0]; got.State != tt.want || got.Overdue != tt.overdue {
			t.Errorf("silent for %d probes: %v, overdue %v, want %v, %v", len(tt.script), got.State, got.Overdue, tt.want, tt.overdue)
		}
	}
}

// TestReturnSlows: each failure doubles the time until a path is trusted again.
func TestReturnSlows(t *testing.T) {
	f := &feeder{table: NewTable(0)}
	f.table.Add(0, 1, "ct-ct")
	f.feed(repeat(".", 300))
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		f.feed(repeat("-", 30))
		start := f.now
		for f.table.States(f.now, nil)[0].State == StateDown && f.now < start+time.Minute {
			f.feed(".")
		}
		if took := f.now - start; took < want || took > want+500*ms {
			t.Errorf("failure %d: up after %v, want %v", i+1, took, want)
		}
	}
}

// TestOwnFailures: what fails while the bond fills the path does not slow its return.
func TestOwnFailures(t *testing.T) {
	f := &feeder{table: NewTable(0)}
	f.table.Add(0, 1, "ct-ct")
	f.feed(repeat(".", 300))
	for i := range 3 {
		for range 20 {
			f.table.Self(f.now, 1, Out, Self{Filling: true})
			f.feed("--")
		}
		f.table.Self(f.now, 1, Out, Self{})
		if s := f.table.States(f.now, nil)[0].State; s != StateDown {
			t.Fatalf("failure %d: %v", i+1, s)
		}
		start := f.now
		for f.table.States(f.now, nil)[0].State == StateDown && f.now < start+time.Minute {
			f.feed(".")
		}
		if took := f.now - start; took < time.Second || took > 1500*ms {
			t.Errorf("failure %d: up after %v, want 1 s", i+1, took)
		}
	}
}

// TestStandstill: what was not answered when the whole process stopped accuses no path, and what is not answered
// afterwards does.
func TestStandstill(t *testing.T) {
	f := &feeder{table: NewTable(0)}
	f.table.Add(0, 1, "ct-ct")
	f.table.Use(1, true)
	f.feed(repeat(".", 300) + "--")
	f.now += time.Minute
	f.feed("--")
	if s := f.table.States(f.now, nil)[0]; s.State != StateUp || s.Overdue {
		t.Errorf("after the standstill: %+v", s)
	}
	f.feed("------")
	if s := f.table.States(f.now, nil)[0]; s.State != StateSuspect {
		t.Errorf("silent afterwards: %v", s.State)
	}
}

// TestCapacity: what a controller makes of too little traffic is not the path's capacity, and what it knew once is not so
// for ever.
func TestCapacity(t *testing.T) {
	table := NewTable(0)
	table.Add(0, 1, "ct-ct")
	for _, step := range []struct {
		at       time.Duration
		capacity int64
		proven   bool
		want     int64
	}{
		{0, 4_000_000, false, 0}, // where every controller starts
		{time.Second, 100_000, false, 0},
		{2 * time.Second, 48_000_000, true, 48_000_000},
		{3 * time.Second, 100_000, false, 48_000_000},
		{4 * time.Second, 100_000, true, 100_000}, // slow indeed
		{9 * time.Minute, 200_000, false, 100_000},
		{11 * time.Minute, 200_000, false, 0},
	} {
		table.Delivered(step.at, 1, 100_000, step.capacity, step.proven)
		if got := table.States(step.at, nil)[0].CapacityBitsPerSec; got != step.want {
			t.Errorf("at %v: %d, want %d", step.at, got, step.want)
		}
	}
}

func TestTableLimits(t *testing.T) {
	table := NewTable(0)
	for i := range MaxPaths {
		if err := table.Add(0, uint8(i), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if table.Add(0, 3, "again") == nil || table.Add(0, 200, "too many") == nil {
		t.Error("no error")
	}
	table.Remove(3)
	if len(table.States(0, nil)) != MaxPaths-1 {
		t.Error("not removed")
	}
	// Events of a path that is gone, or impossible counts, change nothing.
	table.Probe(&stamp.Event{Kind: stamp.EventReply, Path: 3})
	table.ProbeSent(0, 3)
	table.Traffic(0, 3, Out, Counts{Packets: 1})
	table.Traffic(0, 4, Out, Counts{Packets: 1, Lost: 2})
	table.Traffic(0, 4, 7, Counts{Packets: 1})
	table.Delivered(0, 3, 1, 1, true)
	table.Self(0, 3, Out, Self{Filling: true})
	table.Self(0, 4, 7, Self{Filling: true})
	table.Self(0, 4, Back, Self{Filling: true})
	if got := table.States(0, nil)[3]; got.ID != 4 || got.Out.Packets != 0 || got.Out.Filling || !got.Back.Filling {
		t.Errorf("%+v", got)
	}
}

func TestBoostOnlyInUse(t *testing.T) {
	for _, used := range []bool{false, true} {
		f := &feeder{table: NewTable(0)}
		f.table.Add(0, 1, "ct-ct")
		f.table.Use(1, used)
		f.feed(repeat(".", 300) + ".x.")
		if got := f.table.Boost(1) > f.now; got != used {
			t.Errorf("in use %v: boost %v", used, got)
		}
		f.feed(repeat(".", 40))
		f.table.Traffic(f.now, 1, Out, Counts{Packets: 200, Lost: 5, Bursts: 5})
		f.feed(".")
		if f.table.tracks[0].dir[Out].lossTest.sum < lossDoubt {
			t.Error("no doubt, so nothing is tested")
		}
		if f.table.Boost(1) > f.now {
			t.Error("boosted although traffic tells")
		}
	}
}
