package admin

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/landbridge/landbridge/pathsel"
)

// Kinds of events.
const (
	EventMove   = "move"   // a class went to another path
	EventPath   = "path"   // a path's state changed
	EventNode   = "node"   // the node itself: started, reloaded, lost an interface
	EventReject = "reject" // something from outside was turned away: the guard, a deny rule
)

// Event is something that happened and that a person may want to know of.
type Event struct {
	Seq   uint64    `json:"seq"` // from 1, without gaps
	At    time.Time `json:"at"`
	Kind  string    `json:"kind"`
	Peer  string    `json:"peer,omitempty"`
	Path  string    `json:"path,omitempty"`  // the new one of a move
	From  string    `json:"from,omitempty"`  // path or state before
	Class string    `json:"class,omitempty"` // of a move
	State string    `json:"state,omitempty"` // of a path
	Text  string    `json:"text"`            // a sentence
}

// Events answers GET /events?after=SEQ: the events with a larger number, oldest first.
type Events struct {
	Node string `json:"node"`
	// Missed is how many after SEQ were forgotten already.
	Missed uint64 `json:"missed,omitempty"`
	// Life tells the lives of a node apart, each of which counts its events anew; 0: there are none.
	Life   int64   `json:"life,omitempty"`
	Last   uint64  `json:"last"` // the number to ask after next time
	Events []Event `json:"events"`
}

// MaxEvents is how many events a log keeps: some hours of a border that flaps; the oldest go first.
const MaxEvents = 1000

// EventLog keeps the latest events. The zero value is empty and ready; safe for concurrent use.
type EventLog struct {
	mu     sync.Mutex
	last   uint64
	life   int64   // when the first one came
	events []Event // a ring once it is full: the event of number n is at (n-1) % MaxEvents
	moves  map[[2]string]uint64
}

// Add appends an event, whose number it sets. Without a time it is now.
func (l *EventLog) Add(e Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last++; l.last == 1 {
		l.life = time.Now().UnixNano()
	}
	e.Seq = l.last
	if e.Kind == EventMove && e.From != "" && e.Path != "" {
		if l.moves == nil {
			l.moves = make(map[[2]string]uint64)
		}
		l.moves[[2]string{e.Peer, e.Class}]++
	}
	if len(l.events) < MaxEvents {
		l.events = append(l.events, e)
		return
	}
	l.events[(e.Seq-1)%MaxEvents] = e
}

// After returns the events with a number larger than seq, oldest first. A number from another life of the node, larger
// than the last one, is taken for 0.
func (l *EventLog) After(seq uint64) Events {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq > l.last {
		seq = 0
	}
	out := Events{Last: l.last, Life: l.life, Events: []Event{}}
	first := l.last - uint64(len(l.events)) // the number before the oldest one kept
	if seq < first {
		out.Missed, seq = first-seq, first
	}
	for n := seq; n < l.last; n++ {
		out.Events = append(out.Events, l.events[n%MaxEvents])
	}
	return out
}

// Moves is how often a class went from one path to another, by peer and class, also of events that are forgotten.
func (l *EventLog) Moves() map[[2]string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.moves)
}

// Decided adds an event for each class that a decision moved, or that lost its last path.
func (l *EventLog) Decided(clock Clock, peer string, before, after *pathsel.Decision) {
	for i := range after.Classes {
		b, a := &before.Classes[i], &after.Classes[i]
		if a.OK == b.OK && a.Path == b.Path {
			continue
		}
		e := Event{At: clock.At(after.At), Kind: EventMove, Peer: peer, Class: a.Class.String(), Text: a.Reason(after.At)}
		if b.OK {
			e.From = b.To.Name
		}
		if a.OK {
			e.Path = a.To.Name
		}
		l.Add(e)
	}
}

// Changed adds an event for each path whose state changed between two snapshots. Paths in one of them only are new or gone
// by configuration, which is no event of theirs.
func (l *EventLog) Changed(clock Clock, peer string, before, after []pathsel.PathState) {
	was := make(map[uint8]*pathsel.PathState, len(before))
	for i := range before {
		was[before[i].ID] = &before[i]
	}
	for i := range after {
		a, b := &after[i], was[after[i].ID]
		if b == nil || a.State == b.State || a.Name != b.Name {
			continue
		}
		text := fmt.Sprintf("%s is %s, was %s", a.Name, a.State, b.State)
		if a.Why != "" {
			text += ": " + a.Why
		}
		l.Add(Event{At: clock.At(a.Since), Kind: EventPath, Peer: peer, Path: a.Name, From: b.State.String(), State: a.State.String(), Text: text})
	}
}
