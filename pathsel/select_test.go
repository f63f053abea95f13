package pathsel

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// path makes a settled path: round trip, loss each way.
func path(id uint8, state State, rtt time.Duration, loss float64) PathState {
	delay := func(d time.Duration) Delay { return Delay{d, d + ms, d + 3*ms, d + ms, ms} }
	way := Direction{Loss: loss, Now: loss, Packets: 1200, Burst: 1, Delay: delay(rtt / 2)}
	return PathState{ID: id, Name: string(rune('a' + id)), State: state, RTT: delay(rtt), Out: way, Back: way}
}

func TestRFactor(t *testing.T) {
	for _, tt := range []struct {
		delay   time.Duration
		loss, b float64
		r, mos  float64
	}{
		{0, 0, 1, 93.2, 4.41},            // G.107: the default values
		{100 * ms, 0, 1, 90.8, 4.36},     // Cole and Rosenbluth, Id 2.4
		{200 * ms, 0, 1, 85.9, 4.25},     // and beyond 177.3 ms 0.11 a millisecond
		{0, 0.01, 1, 89.56, 4.33},        // 95 * 1 / (1 + 25.1)
		{0, 0.05, 1, 77.42, 3.95},        // 95 * 5 / (5 + 25.1)
		{0, 0.05, 3, 75.46, 3.87},        // bursts of three: 95 * 5 / (5/3 + 25.1)
		{150 * ms, 0.08, 1, 66.64, 3.44}, // 93.2 - 3.6 - 22.96
		{2000 * ms, 0.5, 1, 93.2 - 48 - 200.5 - 63.25, 1},
	} {
		r := RFactor(tt.delay, tt.loss, tt.b)
		if math.Abs(r-tt.r) > 0.1 || math.Abs(MOS(r)-tt.mos) > 0.03 {
			t.Errorf("%v %v %v: R %.2f MOS %.2f, want %.2f %.2f", tt.delay, tt.loss, tt.b, r, MOS(r), tt.r, tt.mos)
		}
	}
}

func TestSelect(t *testing.T) {
	const now = time.Hour
	on := func(p uint8, since time.Duration) *Decision {
		d := new(Decision)
		for i := range d.Classes {
			d.Classes[i] = Choice{Class: Class(i), OK: true, Path: p, Since: since, Kind: WhyBetter}
		}
		return d
	}
	long := now - 20*time.Second
	young := func(p uint8) *Decision { // the first choice, in its first minute
		d := on(p, long)
		for i := range d.Classes {
			d.Classes[i].Began, d.Classes[i].Since = now-warmUp+ms, now-warmUp+ms
		}
		return d
	}
	moved := func(flaps int) *Decision { // from the first choice, half a minute ago
		d := young(0)
		for i := range d.Classes {
			d.Classes[i].Since += 30 * time.Second
			d.Classes[i].Flaps = flaps
		}
		return d
	}
	rich := path(1, StateUp, 100*ms, 0.01)
	rich.CapacityBitsPerSec = 100_000_000
	poor := path(0, StateUp, 50*ms, 0)
	poor.CapacityBitsPerSec = 20_000_000
	overdue := func(p PathState) PathState { p.Overdue = true; return p }
	suspectSince := func(p PathState, d time.Duration) PathState { p.Since, p.Heard = now-d, now-d; return p }
	for _, tt := range []struct {
		name    string
		class   Class
		current *Decision
		states  []PathState
		order   string // names, first the one for new flows
		home    string
		kind    WhyKind
	}{
		{"nothing", Bulk, nil, nil, "", "", WhyNone},
		{"all down", Realtime, on(0, long), []PathState{path(0, StateDown, 90*ms, 0)}, "", "", WhyNone},
		{"first", Interactive, nil, []PathState{path(0, StateUp, 90*ms, 0), path(1, StateUp, 80*ms, 0), path(2, StateUp, 85*ms, 0)}, "bca", "b", WhyFirst},
		{"first, only a suspect", Realtime, nil, []PathState{path(0, StateSuspect, 90*ms, 0)}, "a", "a", WhyFirst},
		{"realtime minds loss more than delay", Realtime, nil, []PathState{path(0, StateUp, 160*ms, 0.03), path(1, StateUp, 220*ms, 0.005)}, "ba", "b", WhyFirst},
		{"interactive minds delay", Interactive, nil, []PathState{path(0, StateUp, 160*ms, 0.005), path(1, StateUp, 220*ms, 0.005)}, "ab", "a", WhyFirst},
		{"interactive minds loss too", Interactive, nil, []PathState{path(0, StateUp, 160*ms, 0.05), path(1, StateUp, 180*ms, 0)}, "ba", "b", WhyFirst},
		{"bulk minds the rate", Bulk, nil, []PathState{poor, rich}, "ba", "b", WhyFirst},
		{"bulk, a rate unknown", Bulk, nil, []PathState{path(0, StateUp, 50*ms, 0), rich}, "ab", "a", WhyFirst},
		{"bulk, a rate unknown and more delay", Bulk, nil, []PathState{rich, path(0, StateUp, 150*ms, 0)}, "ba", "b", WhyFirst},
		{"bulk, another's rate unknown", Bulk, on(1, long), []PathState{path(0, StateUp, 50*ms, 0), rich}, "ab", "a", WhyBetter},
		{"overdue", Realtime, on(0, long), []PathState{overdue(path(0, StateUp, 50*ms, 0)), path(1, StateUp, 200*ms, 0.1)}, "ba", "a", WhyBetter},
		{"another overdue", Realtime, on(0, long), []PathState{path(0, StateUp, 250*ms, 0.1), overdue(path(1, StateUp, 50*ms, 0))}, "ab", "a", WhyBetter},
		{"overdue before suspect", Realtime, nil, []PathState{path(0, StateSuspect, 50*ms, 0), overdue(path(1, StateUp, 200*ms, 0.1))}, "ba", "b", WhyFirst},
		{"better", Interactive, on(0, long), []PathState{path(0, StateUp, 100*ms, 0), path(1, StateUp, 70*ms, 0)}, "ba", "b", WhyBetter},
		{"better by less than 10 ms", Interactive, on(0, long), []PathState{path(0, StateUp, 60*ms, 0), path(1, StateUp, 51*ms, 0)}, "ab", "a", WhyBetter},
		{"better by less than 10 %", Interactive, on(0, long), []PathState{path(0, StateUp, 300*ms, 0), path(1, StateUp, 275*ms, 0)}, "ab", "a", WhyBetter},
		{"better by less than the noise", Realtime, on(0, long), []PathState{path(0, StateUp, 100*ms, 0.05), path(1, StateUp, 100*ms, 0.035)}, "ab", "a", WhyBetter},
		{"better by two thirds of the margin", Realtime, on(0, long), []PathState{path(0, StateUp, 100*ms, 0.02), path(1, StateUp, 100*ms, 0.007)}, "ab", "a", WhyBetter},
		{"better by two thirds of the margin, in the first minute", Realtime, young(0), []PathState{path(0, StateUp, 100*ms, 0.02), path(1, StateUp, 100*ms, 0.007)}, "ba", "b", WhyBetter},
		{"better by two thirds of the margin, in the first minute, after a move", Realtime, moved(0), []PathState{path(0, StateUp, 100*ms, 0.02), path(1, StateUp, 100*ms, 0.007)}, "ba", "b", WhyBetter},
		{"better by two thirds of the margin, in the first minute, after two moves", Realtime, moved(1), []PathState{path(0, StateUp, 100*ms, 0.02), path(1, StateUp, 100*ms, 0.007)}, "ab", "a", WhyBetter},
		{"better by less than the noise, in the first minute", Realtime, young(0), []PathState{path(0, StateUp, 100*ms, 0.02), path(1, StateUp, 100*ms, 0.016)}, "ab", "a", WhyBetter},
		{"better, in the dwell", Interactive, on(0, now-9*time.Second), []PathState{path(0, StateUp, 100*ms, 0), path(1, StateUp, 70*ms, 0)}, "ab", "a", WhyBetter},
		{"down, in the dwell", Interactive, on(0, now-ms), []PathState{path(0, StateDown, 100*ms, 0), path(1, StateUp, 200*ms, 0)}, "b", "b", WhyFailed},
		{"gone", Bulk, on(7, now-ms), []PathState{path(1, StateUp, 200*ms, 0)}, "b", "b", WhyFailed},
		{"suspect just now", Realtime, on(0, long), []PathState{suspectSince(path(0, StateSuspect, 50*ms, 0), 100*ms), path(1, StateUp, 200*ms, 0.1)}, "ba", "a", WhyBetter},
		{"suspect for long", Realtime, on(0, long), []PathState{suspectSince(path(0, StateSuspect, 50*ms, 0), 651*ms), path(1, StateUp, 200*ms, 0.1)}, "ba", "b", WhyFailed},
		{"all suspect", Realtime, on(0, long), []PathState{suspectSince(path(0, StateSuspect, 50*ms, 0), time.Second), path(1, StateSuspect, 20*ms, 0)}, "ab", "a", WhyBetter},
		{"brownout", Realtime, on(0, now-2*time.Second), []PathState{path(0, StateBrownout, 100*ms, 0.08), path(1, StateUp, 100*ms, 0.01)}, "ba", "b", WhyBrownout},
		{"brownout, just moved", Realtime, on(0, now-500*ms), []PathState{path(0, StateBrownout, 100*ms, 0.08), path(1, StateUp, 100*ms, 0.01)}, "ab", "a", WhyBetter},
		{"brownout of the still better one", Realtime, on(0, long), []PathState{path(0, StateBrownout, 100*ms, 0.03), path(1, StateUp, 300*ms, 0.05)}, "ab", "a", WhyBetter},
		{"brownout, bulk waits", Bulk, on(0, now-2*time.Second), []PathState{path(0, StateBrownout, 100*ms, 0.2), path(1, StateUp, 100*ms, 0)}, "ab", "a", WhyBetter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := DefaultPolicy()
			before := tt.current.cloneOrNil()
			d := Select(now, tt.states, &p, tt.current)
			c := d.Classes[tt.class]
			var order strings.Builder
			for _, o := range c.Order {
				order.WriteString(o.Name)
			}
			home := ""
			if c.OK {
				home = string(rune('a' + c.Path))
			}
			if order.String() != tt.order || home != tt.home || c.Kind != tt.kind {
				t.Errorf("order %q home %q kind %v, want %q %q %v: %s", order.String(), home, c.Kind, tt.order, tt.home, tt.kind, c.Reason(now))
			}
			if moved := tt.current != nil && c.OK && c.Path != tt.current.Classes[tt.class].Path; c.OK && moved != (c.Since == now) && tt.current != nil {
				t.Errorf("since %v", c.Since)
			}
			if diff := cmp.Diff(before, tt.current, cmp.AllowUnexported(Candidate{})); diff != "" {
				t.Errorf("Select changed its argument:\n%s", diff)
			}
		})
	}
}

func (d *Decision) cloneOrNil() *Decision {
	if d == nil {
		return nil
	}
	return d.Clone()
}

// TestFlapsDouble: a path that looks better by turns is followed less and less.
func TestFlapsDouble(t *testing.T) {
	p := DefaultPolicy()
	d := new(Decision)
	good, bad := path(0, StateUp, 80*ms, 0), path(1, StateUp, 160*ms, 0)
	var moves []time.Duration
	last := uint8(255)
	for now := time.Duration(0); now < time.Hour; now += time.Second {
		if int(now/time.Second)%15 == 0 { // every 15 s the other one is better
			good.ID, bad.ID = bad.ID, good.ID
			good.Name, bad.Name = bad.Name, good.Name
		}
		d.Update(now, []PathState{good, bad}, &p)
		if c := d.Classes[Interactive]; c.Path != last {
			moves, last = append(moves, now), c.Path
		}
	}
	if len(moves) < 5 || len(moves) > 20 {
		t.Fatalf("moves at %v", moves)
	}
	if gap := moves[len(moves)-1] - moves[len(moves)-2]; gap < 5*time.Minute {
		t.Errorf("the last gap is %v: %v", gap, moves)
	}
}

// TestFlapsWarmUp: moves while the bond looks for the rates of its cold lanes double no dwell; others, and later ones, do.
func TestFlapsWarmUp(t *testing.T) {
	p := DefaultPolicy()
	for _, tt := range []struct {
		name    string
		fill    func(s *PathState)
		doubled bool
	}{
		{"nothing", func(*PathState) {}, true},
		{"filling out", func(s *PathState) { s.Out.Filling = true }, false},
		{"filling back", func(s *PathState) { s.Back.Filling = true }, false},
		{"own queue", func(s *PathState) { s.Out.Queue = ownQueue + ms }, false},
		{"a small queue", func(s *PathState) { s.Out.Queue = ownQueue }, true},
	} {
		// It may begin at any time of the process.
		const start = time.Hour
		good, bad := path(0, StateUp, 80*ms, 0), path(1, StateUp, 160*ms, 0)
		d, moves := new(Decision), 0
		for now := start; now < start+50*time.Second; now += time.Second {
			if now > start && int((now-start)/time.Second)%12 == 0 {
				good.ID, bad.ID = bad.ID, good.ID
			}
			states := []PathState{good, bad}
			tt.fill(&states[1])
			was := d.Classes[Interactive].Path
			if d.Update(now, states, &p); d.Classes[Interactive].Path != was {
				moves++
			}
		}
		if c := d.Classes[Interactive]; moves < 2 || c.Flaps > 0 != tt.doubled {
			t.Errorf("%s: %d moves, %d flaps", tt.name, moves, c.Flaps)
		}
	}
	// When the warm-up is over, filling is no excuse.
	from, to := path(0, StateDown, 80*ms, 0), path(1, StateUp, 160*ms, 0)
	to.Out.Filling = true
	for _, since := range []time.Duration{warmUp - ms, warmUp} {
		d := new(Decision)
		d.Classes[Bulk] = Choice{Class: Bulk, OK: true, Since: time.Hour - ms, Began: time.Hour - since, Kind: WhyBetter}
		d.Update(time.Hour, []PathState{from, to}, &p)
		if c := d.Classes[Bulk]; c.Path != 1 || c.Flaps > 0 != (since == warmUp) {
			t.Errorf("%v after the first choice: %+v", since, c)
		}
	}
}

func TestReasons(t *testing.T) {
	p := DefaultPolicy()
	a, b := path(0, StateUp, 80*ms, 0.01), path(1, StateUp, 100*ms, 0.01)
	d := Select(0, nil, &p, nil)
	expect := func(now time.Duration, want string) {
		t.Helper()
		if got := d.Classes[Realtime].Reason(now); got != want {
			t.Errorf("reason\n%s, want\n%s", got, want)
		}
	}
	expect(0, "no path answers")
	d = Select(0, []PathState{a, b}, &p, d)
	expect(0, "a was the best path when realtime first needed one, R 88.0 (2.0 % loss, 81 ms round trip); since just now")
	a.State, a.Since, a.Heard = StateSuspect, 30*time.Second, 29900*ms
	d = Select(30*time.Second+ms, []PathState{a, b}, &p, d)
	expect(30*time.Second, "a was the best path when realtime first needed one, R 88.0 (2.0 % loss, 81 ms round trip); since 30s ago; new flows take b while a does not answer")
	a.State = StateDown
	d = Select(31*time.Second, []PathState{a, b}, &p, d)
	expect(32*time.Second, "left a, which went down; b was the best of the others, R 87.8 (2.0 % loss, 101 ms round trip); since 1.0 s ago")
	a.State = StateUp
	b.State, b.Why, b.Out.Now = StateBrownout, "more loss on the way out", 0.08
	d = Select(40*time.Second, []PathState{a, b}, &p, d)
	expect(40*time.Second, "left b in a brownout (more loss on the way out), R 68.5 (8.9 % loss, 101 ms round trip); a is better, R 88.0 (2.0 % loss, 81 ms round trip); since just now, after 2 moves in short order")
	var text strings.Builder
	if err := d.WriteText(&text); err != nil || !strings.Contains(text.String(), "interactive") || strings.Count(text.String(), "\n") != 9 {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestPolicyValidate(t *testing.T) {
	good := DefaultPolicy()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(p *Policy)
		want   string
	}{
		{func(p *Policy) { p.Classes[Bulk].Dwell = -1 }, "bulk: dwell -1ns outside 0s to 1h0m0s"},
		{func(p *Policy) { p.Classes[Realtime].Hysteresis = math.NaN() }, "realtime: hysteresis NaN outside 0 to 1"},
		{func(p *Policy) { p.Classes[Interactive].Margin = 2 * time.Second }, "interactive: margin 2s outside 0s to 1s"},
		{func(p *Policy) { p.Classes[Interactive].LossWeight = 101 }, "interactive: loss weight 101 outside 0 to 100"},
		{func(p *Policy) { p.Classes[Bulk].DelayWeight = -1 }, "bulk: delay weight -1 outside 0 to 100"},
		{func(p *Policy) { p.ElephantBytes = 0 }, "elephant 0 bytes outside 16384 to 1099511627776"},
		{func(p *Policy) { p.BulkBytes = 1 }, "bulk transfer of 1 bytes outside 16384 to 1099511627776"},
	} {
		p := good
		tt.change(&p)
		if err := p.Validate(); err == nil || err.Error() != "invalid policy: "+tt.want {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}
