package pathsel

import (
	"math"
	"slices"
	"time"
)

// Times of the choice.
const (
	// suspectMove is for how long the path in use may have been silent, if it is suspect, before flows move for good. Until
	// then new flows take another one and the old ones wait.
	suspectMove = 650 * time.Millisecond
	// brownoutDwell is the least time between two moves out of a brownout; it doubles with flaps, as Dwell does.
	brownoutDwell = time.Second
	// warmUp is the time after the first choice in which little is known of any path, and moves from or to one that the
	// bond fills count as no flaps: lanes are cold, and it looks for one path's rate after the other's.
	warmUp = time.Minute
	// easyClaim is the part of the usual margin and doubt that keeps a choice in that time, until the class flaps, and of the
	// margin in a brownout. With all of it calls of the scenario typical stayed on the second best path.
	easyClaim = 0.5
	// maxFlaps bounds the doubling: 10 s become 10 minutes.
	maxFlaps = 6
)

// WhyKind says what a choice is due to.
type WhyKind uint8

const (
	WhyNone     WhyKind = iota // no path is usable
	WhyFirst                   // nothing was in use before
	WhyFailed                  // the one in use is down, suspect for long, or gone
	WhyBrownout                // the one in use browned out, and another is better
	WhyBetter                  // another one was better by more than the margin, after the dwell
)

var whyNames = [...]string{"none", "first", "failed", "brownout", "better"}

func (k WhyKind) String() string { return whyNames[min(int(k), len(whyNames)-1)] }

// MarshalText writes the name.
func (k WhyKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name.
func (k *WhyKind) UnmarshalText(b []byte) error {
	*k = WhyKind(max(slices.Index(whyNames[:], string(b)), 0))
	return nil
}

// Figures are what was known of a path when it was chosen or left. A path that is gone has no Name.
type Figures struct {
	Path  uint8         `json:"path"`
	Name  string        `json:"name"`
	State State         `json:"state"`
	Why   string        `json:"why,omitempty"` // of State
	Score float64       `json:"score"`
	Loss  float64       `json:"loss"` // both ways
	RTT   time.Duration `json:"rtt"`  // median
	// Assumed is the capacity in bits a second that Score counts because the path's own is not known; 0: Score needs none.
	Assumed int64 `json:"assumed,omitempty"`
}

// Candidate is one path a class may use.
type Candidate struct {
	Path  uint8   `json:"path"`
	Name  string  `json:"name"`
	State State   `json:"state"`
	Score float64 `json:"score"` // R for realtime (more is better), else milliseconds
	// Assumed: the path's capacity is not known, and the score counts that of the others.
	Assumed bool `json:"assumed,omitempty"`
	cost    float64
	index   int // into the states
	rank    int
}

// Choice is the decision for one class. New flows take the first of Order; Path is where the class is at home, which
// Order leads with unless it is suspect just now. Flows stay where they are while Path stands.
type Choice struct {
	Class  Class         `json:"class"`
	OK     bool          `json:"ok"` // Path and Order say something
	Path   uint8         `json:"path"`
	Since  time.Duration `json:"since"`           // when Path was chosen
	Began  time.Duration `json:"began,omitempty"` // when a path was chosen after there had been none
	Flaps  int           `json:"flaps"`           // moves that followed soon after another
	Kind   WhyKind       `json:"kind"`
	From   Figures       `json:"from"`   // what was left, as of Since
	To     Figures       `json:"to"`     // what was chosen
	Margin float64       `json:"margin"` // by which To had to be better; 0: it had not
	Order  []Candidate   `json:"order"`  // best first; paths that are down are not in it
}

// Decision is what Select decides for all classes, as of At. The zero value is "nothing decided yet".
type Decision struct {
	At      time.Duration      `json:"at"`
	Classes [NumClasses]Choice `json:"classes"` // by Class
}

// Select decides which paths each class uses, from a snapshot of the paths and what is in use; nil for nothing. It is a
// pure function of its arguments and keeps none of them.
func Select(now time.Duration, states []PathState, policy *Policy, current *Decision) *Decision {
	next := new(Decision)
	if current != nil {
		next = current.Clone()
	}
	next.Update(now, states, policy)
	return next
}

// Clone returns a copy that shares nothing with d.
func (d *Decision) Clone() *Decision {
	c := *d
	for i := range c.Classes {
		c.Classes[i].Order = slices.Clone(c.Classes[i].Order)
	}
	return &c
}

// Update is Select with d as what is in use, in place. It allocates only while Order grows. It reports whether a class's
// path or the first of its order changed.
func (d *Decision) Update(now time.Duration, states []PathState, policy *Policy) (changed bool) {
	d.At = now
	v := view{policy, assumed(states)}
	for i := range d.Classes {
		c := &d.Classes[i]
		ok, path, first := c.OK, c.Path, c.First()
		c.Class = Class(i)
		c.decide(now, states, &v)
		changed = changed || c.OK != ok || c.Path != path || c.First() != first
	}
	return changed
}

// First returns the path a new flow takes, -1 for none.
func (c *Choice) First() int {
	if len(c.Order) == 0 {
		return -1
	}
	return int(c.Order[0].Path)
}

func (c *Choice) decide(now time.Duration, states []PathState, v *view) {
	p := &v.policy.Classes[c.Class]
	c.Order = c.Order[:0]
	var own *PathState
	best, bestCost := -1, math.Inf(1)
	for i := range states {
		s := &states[i]
		if c.OK && s.ID == c.Path {
			own = s
		}
		if s.State == StateDown {
			continue
		}
		x := v.cost(c.Class, s, fairly)
		c.Order = append(c.Order, Candidate{s.ID, s.Name, s.State, score(c.Class, x), c.Class == Bulk && s.CapacityBitsPerSec <= 0, x, i, s.rank()})
		if best < 0 || s.rank() < states[best].rank() || s.rank() == states[best].rank() && x < bestCost {
			best, bestCost = i, x
		}
	}
	if kind, to, margin := c.move(now, states, own, best, v, p); kind != WhyNone {
		c.take(now, kind, own, &states[to], margin, v, p)
	} else if best < 0 {
		*c = Choice{Class: c.Class, Flaps: c.Flaps, Since: c.Since, Order: c.Order}
	}
	c.sort()
}

// rank puts paths without doubts before those whose replies are overdue, and those before suspects.
func (p *PathState) rank() int {
	switch {
	case p.State == StateSuspect:
		return 2
	case p.Overdue:
		return 1
	}
	return 0
}

// filled tells that the bond itself makes a queue on the path.
func (p *PathState) filled() bool { return p.Out.Filling || p.Back.Filling || p.Out.Queue > ownQueue }

// move says whether the class moves, why, to which state's index, and by how much that had to be better.
func (c *Choice) move(now time.Duration, states []PathState, own *PathState, best int, v *view, p *ClassPolicy) (_ WhyKind, to int, margin float64) {
	switch {
	case best < 0:
		return WhyNone, 0, 0
	case !c.OK:
		return WhyFirst, best, 0
	case own == nil || own.State == StateDown:
		return WhyFailed, best, 0
	case states[best].ID == own.ID || states[best].rank() > 0:
		return WhyNone, 0, 0 // nothing better, or all are silent: probably it is us
	case own.State == StateSuspect:
		if own.Fresh(now) > suspectMove {
			return WhyFailed, best, 0
		}
		return WhyNone, 0, 0
	}
	// What is in use gets the benefit of the doubt, and the others bear the burden of proof; in a brownout the change is
	// what was proved, and half the margin will do. In the first minute half of both will: what is in use was the first to
	// answer, or the best of a few seconds. A class that flaps has used that up.
	brownout := own.State == StateBrownout && p.LeaveBrownout
	mine, theirs, part := kindly, severely, 1.0
	switch {
	case brownout:
		mine, theirs, part = fairly, fairly, easyClaim
	case now-c.Began < warmUp && c.Flaps == 0:
		mine, theirs, part = easyClaim*kindly, easyClaim*severely, easyClaim
	}
	stay := v.cost(c.Class, own, mine)
	to = best
	least := math.Inf(1)
	for i := range states {
		s := &states[i]
		if s.ID == own.ID || s.State == StateDown || s.rank() > 0 {
			continue
		}
		if x := v.cost(c.Class, s, theirs); x < least {
			least, to = x, i
		}
	}
	if margin = part * p.margin(c.Class, stay); least+margin >= stay {
		return WhyNone, 0, 0
	}
	switch age := now - c.Since; {
	case brownout && age >= brownoutDwell<<c.Flaps:
		return WhyBrownout, to, margin
	case age >= p.Dwell<<c.Flaps:
		return WhyBetter, to, margin
	}
	return WhyNone, 0, 0
}

// take makes the move.
func (c *Choice) take(now time.Duration, kind WhyKind, own, to *PathState, margin float64, v *view, p *ClassPolicy) {
	from := Figures{Path: c.Path}
	if own != nil {
		from = v.figures(c.Class, own)
	}
	switch age := now - c.Since; {
	case kind == WhyFirst:
		c.Began = now
	case c.Kind == WhyFirst: // the first choice was made on little knowledge
	case now-c.Began < warmUp && (to.filled() || own != nil && own.filled()):
	case age < 2*max(p.Dwell, brownoutDwell)<<c.Flaps:
		c.Flaps = min(c.Flaps+1, maxFlaps)
	case age > 8*max(p.Dwell, brownoutDwell)<<c.Flaps:
		c.Flaps = 0
	}
	c.OK, c.Path, c.Since, c.Kind, c.From, c.Margin = true, to.ID, now, kind, from, margin
	c.To = v.figures(c.Class, to)
}

func (v *view) figures(class Class, s *PathState) Figures {
	f := Figures{
		Path: s.ID, Name: s.Name, State: s.State, Why: s.Why, Score: score(class, v.cost(class, s, fairly)),
		Loss: 1 - (1-s.Out.Now)*(1-s.Back.Now), RTT: s.RTT.median(s.State),
	}
	if class == Bulk && s.CapacityBitsPerSec <= 0 {
		f.Assumed = int64(v.assumed)
	}
	return f
}

// sort orders the candidates: by rank, the class's own path first among its equals, then by
// score. Equal scores keep the order of the states.
func (c *Choice) sort() {
	slices.SortStableFunc(c.Order, func(a, b Candidate) int {
		own := func(x Candidate) int {
			if c.OK && x.Path == c.Path {
				return 0
			}
			return 1
		}
		if r := a.rank - b.rank; r != 0 {
			return r
		}
		if r := own(a) - own(b); r != 0 {
			return r
		}
		switch {
		case a.cost < b.cost:
			return -1
		case a.cost > b.cost:
			return 1
		}
		return a.index - b.index
	})
}
