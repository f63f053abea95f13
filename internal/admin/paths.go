package admin

import (
	"math"
	"time"

	"github.com/landbridge/landbridge/pathsel"
)

// Paths is what a node knows of its paths and which of them each class uses: GET /paths. The units are those of [Status].
type Paths struct {
	Node  string      `json:"node"`
	Role  string      `json:"role"`
	Taken time.Time   `json:"taken"`
	Peers []PeerPaths `json:"peers"`
	// Verdicts counts packets since the start by program ("classifier", "return", "guard", "reflector") and verdict.
	Verdicts map[string]map[string]uint64 `json:"verdicts,omitempty"`
	// Lost says what this machine cannot do and what is lost by that, one sentence each: no XDP on a NIC, no classifier.
	Lost []string `json:"lost,omitempty"`
}

// PeerPaths are the paths to one peer. [NewPeerPaths] makes them.
type PeerPaths struct {
	Name    string         `json:"name"`
	Kind    string         `json:"kind"` // gateway or agent
	Paths   []PathEstimate `json:"paths"`
	Classes []ClassChoice  `json:"classes"` // realtime, interactive, bulk
}

// PathEstimate is what is known of a path.
type PathEstimate struct {
	Name  string    `json:"name"`
	State string    `json:"state"`           // up, brownout, suspect or down
	Since time.Time `json:"since"`           // of State
	Why   string    `json:"why,omitempty"`   // what State is due to
	Probe string    `json:"probe,omitempty"` // who measures: xdp, user, or nothing where only traffic does
	// FreshMs is how long ago the path last answered or delivered; -1 for never.
	FreshMs float64 `json:"fresh_ms"`
	RTT     Delay   `json:"rtt"`
	Out     PathWay `json:"out"`  // to the peer
	Back    PathWay `json:"back"` // from the peer
	// RateMbit is what the bond delivered lately, CapacityMbit what its controller believes the path carries; 0 for
	// unknown.
	RateMbit     float64 `json:"rate_mbit"`
	CapacityMbit float64 `json:"capacity_mbit"`
}

// Who measures a path, in PathEstimate.Probe.
const (
	ProbeXDP  = "xdp"
	ProbeUser = "user"
)

// PathWay is one direction of a path. One-way delays hold the difference of two clocks; see package pathsel.
type PathWay struct {
	Loss       float64 `json:"loss"`     // of the last 60 s
	LossNow    float64 `json:"loss_now"` // what scores count: in a brownout, since it rose
	Packets    int     `json:"packets"`  // that Loss is taken from
	Burst      float64 `json:"burst"`    // mean number of packets lost in a row
	BurstEnter float64 `json:"burst_enter"`
	BurstLeave float64 `json:"burst_leave"`
	Delay      Delay   `json:"delay"`
}

// Delay is a distribution of delays in milliseconds.
type Delay struct {
	Min    float64 `json:"min_ms"`
	Median float64 `json:"median_ms"`
	P95    float64 `json:"p95_ms"`
	Recent float64 `json:"recent_ms"` // median of the last 8 samples
	Jitter float64 `json:"jitter_ms"`
}

// ClassChoice is where a class is now.
type ClassChoice struct {
	Class string `json:"class"`
	Path  string `json:"path,omitempty"` // where the class is at home; nothing: no path answers
	// Next is the path a new flow takes: Path, unless that is suspect just now.
	Next       string      `json:"next,omitempty"`
	Since      time.Time   `json:"since,omitzero"` // of Path
	Why        string      `json:"why"`            // none, first, failed, brownout or better
	Reason     string      `json:"reason"`         // the same as a sentence
	Flaps      int         `json:"flaps"`          // moves that followed soon after another
	Unit       string      `json:"unit"`           // of the scores: R (more is better) or ms (less is better)
	Candidates []Candidate `json:"candidates"`     // in the order they are used
}

// Candidate is a path that a class or a flow may use.
type Candidate struct {
	Path  string  `json:"path"`
	State string  `json:"state"`
	Score float64 `json:"score"`
	// Assumed: the path's capacity is not known, and the score counts that of the others.
	Assumed bool `json:"assumed,omitempty"`
}

// Clock ties package pathsel's time to the wall's: Wall and Now are the same moment.
type Clock struct {
	Wall time.Time
	Now  time.Duration
}

// At is the wall's time of a moment of pathsel's.
func (c Clock) At(t time.Duration) time.Time { return c.Wall.Add(t - c.Now) }

// NewPeerPaths makes the paths of a peer from what pathsel knows at the clock's moment. The result shares nothing with the
// arguments; its Probe fields are the caller's to fill.
func NewPeerPaths(name, kind string, clock Clock, states []pathsel.PathState, decision *pathsel.Decision) PeerPaths {
	p := PeerPaths{Name: name, Kind: kind, Paths: make([]PathEstimate, 0, len(states))}
	names := make(map[uint8]string, len(states))
	for i := range states {
		s := &states[i]
		names[s.ID] = s.Name
		p.Paths = append(p.Paths, PathEstimate{
			Name: s.Name, State: s.State.String(), Since: clock.At(s.Since), Why: s.Why, FreshMs: fresh(s, clock.Now),
			RTT: newDelay(&s.RTT), Out: newWay(&s.Out), Back: newWay(&s.Back),
			RateMbit: float64(s.RateBitsPerSec) / 1e6, CapacityMbit: float64(s.CapacityBitsPerSec) / 1e6,
		})
	}
	for i := range decision.Classes {
		p.Classes = append(p.Classes, NewClassChoice(clock, &decision.Classes[i], func(id uint8) string { return names[id] }))
	}
	return p
}

// NewClassChoice is one class's part of NewPeerPaths, also for [ExplainedFlow]. pathName may answer "" for a path that is
// gone.
func NewClassChoice(clock Clock, c *pathsel.Choice, pathName func(id uint8) string) ClassChoice {
	out := ClassChoice{
		Class: c.Class.String(), Why: c.Kind.String(), Reason: c.Reason(clock.Now), Flaps: c.Flaps, Unit: scoreUnit(c.Class),
		Candidates: make([]Candidate, 0, len(c.Order)),
	}
	if c.OK {
		out.Path, out.Since = pathName(c.Path), clock.At(c.Since)
		if out.Path == "" {
			out.Path = c.To.Name
		}
	}
	for _, o := range c.Order {
		out.Candidates = append(out.Candidates, Candidate{Path: o.Name, State: o.State.String(), Score: o.Score, Assumed: o.Assumed})
	}
	if len(out.Candidates) > 0 {
		out.Next = out.Candidates[0].Path
	}
	return out
}

func scoreUnit(c pathsel.Class) string {
	if c == pathsel.Realtime {
		return "R"
	}
	return "ms"
}

func fresh(s *pathsel.PathState, now time.Duration) float64 {
	if s.Heard == 0 && s.RTT == (pathsel.Delay{}) {
		return -1
	}
	return ms(s.Fresh(now))
}

func newDelay(d *pathsel.Delay) Delay {
	return Delay{Min: ms(d.Min), Median: ms(d.Median), P95: ms(d.P95), Recent: ms(d.Recent), Jitter: ms(d.Jitter)}
}

func newWay(d *pathsel.Direction) PathWay {
	return PathWay{
		Loss: d.Loss, LossNow: d.Now, Packets: d.Packets, Burst: d.Burst, BurstEnter: d.BurstEnter, BurstLeave: d.BurstLeave,
		Delay: newDelay(&d.Delay),
	}
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// finite replaces what JSON cannot carry, as Status.finite does, in place: a Paths is made for one reader.
func (p Paths) finite() Paths {
	fix := func(fs ...*float64) {
		for _, f := range fs {
			if math.IsNaN(*f) || math.IsInf(*f, 0) {
				*f = 0
			}
		}
	}
	way := func(w *PathWay) { fix(&w.Loss, &w.LossNow, &w.Burst, &w.BurstEnter, &w.BurstLeave) }
	for i := range p.Peers {
		for j := range p.Peers[i].Paths {
			q := &p.Peers[i].Paths[j]
			way(&q.Out)
			way(&q.Back)
			fix(&q.FreshMs, &q.RateMbit, &q.CapacityMbit)
		}
		for j := range p.Peers[i].Classes {
			for k := range p.Peers[i].Classes[j].Candidates {
				fix(&p.Peers[i].Classes[j].Candidates[k].Score)
			}
		}
	}
	return p
}
