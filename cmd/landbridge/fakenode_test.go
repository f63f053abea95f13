package main

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/pathsel"
)

// fakePaths is a border of three paths, of which ct-ct browns out when it is told to.
type fakePaths struct {
	trigger  string // a file: it is told by its being there
	mu       sync.Mutex
	start    time.Time
	brown    time.Duration // since when after the start; 0: not yet
	policy   pathsel.Policy
	states   []pathsel.PathState
	decision pathsel.Decision
	log      *pathsel.Log
	events   admin.EventLog
}

// epoch is pathsel's time at the start: the border had been there for a minute.
const epoch = time.Minute

// brownout is the trigger of the node that serves on a socket.
func brownout(socket string) string { return socket + ".brownout" }

func newFakePaths(trigger string) *fakePaths {
	f := &fakePaths{trigger: trigger, start: time.Now(), policy: pathsel.DefaultPolicy(), log: pathsel.NewLog(1 << 20)}
	f.policy.Classes[pathsel.Bulk].Dwell = pathsel.MaxDwell // it stays, however long the script takes
	f.states = f.at(0)
	f.decide(0)
	f.events.Add(admin.Event{Kind: admin.EventNode, Text: "sha has started"})
	return f
}

func (f *fakePaths) at(t time.Duration) []pathsel.PathState {
	wave := math.Sin(t.Seconds())
	path := func(id uint8, name string, rtt time.Duration, loss float64, rate int64) pathsel.PathState {
		delay := func(d time.Duration) pathsel.Delay {
			return pathsel.Delay{
				Min: d, Median: d + time.Millisecond, P95: d + 6*time.Millisecond, Jitter: 1500 * time.Microsecond,
				Recent: d + time.Duration((1+wave)*5*float64(time.Millisecond)),
			}
		}
		way := pathsel.Direction{Loss: loss, Now: loss, Packets: 1200, Burst: 1.5, Delay: delay(rtt / 2)}
		return pathsel.PathState{
			ID: id, Name: name, State: pathsel.StateUp, Since: time.Second, Heard: epoch + t - 12*time.Millisecond, RTT: delay(rtt), Out: way, Back: way,
			RateBitsPerSec: rate + int64(wave*float64(rate)/2), CapacityBitsPerSec: 47_000_000,
		}
	}
	s := []pathsel.PathState{
		path(1, "ct-ct", 160*time.Millisecond, 0.001, 30_000_000), path(2, "cu-cu", 220*time.Millisecond, 0.002, 12_000_000),
		{ID: 3, Name: "cm-cm", State: pathsel.StateDown, Why: "no reply yet"},
	}
	if f.brown > 0 {
		s[0].State, s[0].Since, s[0].Why, s[0].Out.Now = pathsel.StateBrownout, epoch+f.brown, "loss rose to 20 % on the way out", 0.2
	}
	return s
}

// decide moves the border on to t after the start; f.mu is held.
func (f *fakePaths) decide(t time.Duration) admin.Clock {
	if _, err := os.Stat(f.trigger); err == nil && f.brown == 0 {
		f.brown = t
	}
	clock := admin.Clock{Wall: f.start.Add(t), Now: epoch + t}
	states, before := f.at(t), *f.decision.Clone()
	if f.decision.Update(clock.Now, states, &f.policy) {
		if _, err := f.log.Append(clock.Wall, "fra", states, &f.policy, &before, &f.decision); err != nil {
			panic(err)
		}
		f.events.Decided(clock, "fra", &before, &f.decision)
	}
	f.events.Changed(clock, "fra", f.states, states)
	f.states = states
	return clock
}

func (f *fakePaths) paths() admin.Paths {
	f.mu.Lock()
	defer f.mu.Unlock()
	clock := f.decide(time.Since(f.start))
	return admin.Paths{
		Node: "sha", Role: "gateway", Taken: clock.Wall, Lost: []string{"cm0 has no XDP: its probes are answered in user space, with the scheduler's noise"},
		Peers:    []admin.PeerPaths{admin.NewPeerPaths("fra", "gateway", clock, f.states, &f.decision)},
		Verdicts: map[string]map[string]uint64{"classifier": {"sent-direct": 1200, "captured": 77, "denied": 3, "vlan": 0}},
	}
}

func (f *fakePaths) explain(q admin.FlowQuery) (admin.Explanation, error) {
	src, dst := netip.MustParseAddrPort("10.10.0.7:51234"), netip.MustParseAddrPort("10.20.0.9:16400")
	if !q.Matches(17, src, dst) {
		return admin.Explanation{}, fmt.Errorf("flow %s: %w", q, admin.ErrNoFlow)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clock := f.decide(time.Since(f.start))
	choice := admin.NewClassChoice(clock, &f.decision.Classes[pathsel.Realtime], func(id uint8) string { return f.states[id-1].Name })
	return admin.Explanation{Node: "sha", Taken: clock.Wall, Flows: []admin.ExplainedFlow{{
		Protocol: "udp", Src: src.String(), Dst: dst.String(), Fate: admin.FlowDirect, Source: "classifier", Tenant: "acme", Site: "hq",
		Class: "realtime", RuleNumber: 2, Rule: "direct realtime udp to 10.20.0.0/24:16384-32767", Peer: "fra", Path: choice.Path, Since: choice.Since,
		Opened: f.start.Add(-5 * time.Minute), Last: clock.Wall.Add(-20 * time.Millisecond), Packets: 15000, BytesOut: 15000 * 200, Choice: &choice,
	}}}, nil
}

// fakeNode serves on the socket named by its argument, until it is told to end.
func fakeNode() {
	start := time.Now().Add(-time.Minute)
	f := newFakePaths(brownout(os.Args[1]))
	s, err := admin.Start(os.Args[1], admin.Source{
		Status: func() admin.Status {
			return admin.Status{Node: "sha", Role: "gateway", Version: "test", Started: start, Taken: time.Now(), Peers: []admin.Peer{{
				Name: "fra", Kind: "gateway", State: admin.PathUp,
				Paths: []admin.Path{{Name: "ct-ct", State: admin.PathSuspect, RTTMs: 181.2, LossTx: 0.02, Share: 0.4}},
			}}}
		},
		Paths: f.paths, Explain: f.explain, Events: &f.events,
		Decisions: func(w io.Writer) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			_, err := f.log.WriteTo(w)
			return err
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	done := make(chan os.Signal, 1)
	signal.Notify(done, os.Interrupt, syscall.SIGTERM)
	for {
		select {
		case <-done:
			s.Close()
			return
		case <-time.After(20 * time.Millisecond):
			f.paths()
		}
	}
}
