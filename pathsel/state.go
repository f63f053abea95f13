package pathsel

import (
	"fmt"
	"time"
)

// State is what a path is good for.
type State uint8

const (
	// StateDown: nothing was heard for a second, or ever. Not used.
	StateDown State = iota
	// StateSuspect: replies that are due do not come, not even to the probes sent to make sure. No new flows, as long as
	// another path has none such doubts.
	StateSuspect
	// StateBrownout: answers, but clearly worse than it was. Scores count what it is now; flows need not wait to leave.
	StateBrownout
	// StateUp: as usual.
	StateUp
)

var stateNames = [...]string{"down", "suspect", "brownout", "up"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText writes the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *State) UnmarshalText(b []byte) error {
	for i, name := range stateNames {
		if name == string(b) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("path state %q, want down, suspect, brownout or up", b)
}

// Delay is a distribution of delays.
type Delay struct {
	Min    time.Duration `json:"min"`
	Median time.Duration `json:"median"`
	P95    time.Duration `json:"p95"`
	Recent time.Duration `json:"recent"` // median of the last 8 samples
	Jitter time.Duration `json:"jitter"` // mean difference of neighbours (RFC 3550, section 6.4.1)
}

// Direction is one direction of a path.
type Direction struct {
	Loss    float64 `json:"loss"` // of the last 60 s, 0 to 1
	Packets int     `json:"packets"`
	// Now is the loss that scores count: Loss or, in a brownout, what it is since it rose.
	Now float64 `json:"now"`
	// Burst is the mean number of packets lost in a row. BurstEnter and BurstLeave are the chances a packet of entering
	// and leaving the lossy state of the Gilbert model (a Gilbert-Elliott model that delivers nothing there).
	Burst      float64 `json:"burst"`
	BurstEnter float64 `json:"burst_enter"`
	BurstLeave float64 `json:"burst_leave"`
	Delay      Delay   `json:"delay"` // one way; Median - Min and the like are exact, see the package comment
	// Filling: the bond looks for the path's rate, or drains the queue that made. Queue is the queue it sees it has.
	Filling bool          `json:"filling,omitempty"`
	Queue   time.Duration `json:"queue,omitempty"`
}

// PathState is a snapshot of one path, all that Select knows of it.
type PathState struct {
	ID    uint8         `json:"id"`
	Name  string        `json:"name"`
	State State         `json:"state"`
	Since time.Duration `json:"since"` // of State
	Heard time.Duration `json:"heard"` // when it last answered or delivered
	// Overdue: replies do not come, and it is too early to tell a burst of lost probes from silence. No new flows for now.
	Overdue bool      `json:"overdue,omitempty"`
	Why     string    `json:"why,omitempty"` // what State is due to, for people
	RTT     Delay     `json:"rtt"`
	Out     Direction `json:"out"`
	Back    Direction `json:"back"`
	// RateBitsPerSec is what the bond delivered lately, CapacityBitsPerSec what its controller believes the path carries
	// (0: unknown, as traffic has not shown it lately).
	RateBitsPerSec     int64 `json:"rate"`
	CapacityBitsPerSec int64 `json:"capacity"`
}

// Fresh is how long ago the path last answered or delivered.
func (p *PathState) Fresh(now time.Duration) time.Duration { return now - p.Heard }
