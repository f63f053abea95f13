package lab

import (
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// The ports that the flows of these trials go to: in the range that is sent direct. Those to quickPort are interactive where a
// lab's classes are opposed, the others realtime.
const (
	flowPort  = callPort + 1000
	quickPort = flowPort + 1
)

// DarkTrial is one carrier that went dark, both ways, while new flows came every few milliseconds. Times count from
// the darkness itself.
type DarkTrial struct {
	Scenario string `json:"scenario"`
	Link     string `json:"link"`
	Stopped  bool   `json:"stopped"` // the gateway's daemon stood still (SIGSTOP)
	// LastPick is when the last new flow was put on the dark carrier; 0 for none.
	LastPick float64 `json:"last_pick_ms"`
	Picked   int     `json:"picked"` // new flows that were
	// Elsewhere is when the first one went elsewhere; -1 for never.
	Elsewhere float64 `json:"elsewhere_ms"`
}

// SteadyTrial is new flows while their carrier is not dark.
type SteadyTrial struct {
	Scenario string `json:"scenario"`
	Link     string `json:"link"` // where the class is to go
	Stopped  bool   `json:"stopped"`
	Flows    int    `json:"flows"`
	// Elsewhere were kept from there, as it was taken for dark, or for overdue. Lost found no carrier at all.
	Elsewhere int `json:"elsewhere"`
	Lost      int `json:"lost"`
}

// judge fills the trial in from the first packets of so many new flows.
func (s *SteadyTrial) judge(flows map[uint32]departure, count int) {
	s.Flows, s.Lost = count, count-len(flows)
	for _, f := range flows {
		if f.link != s.Link {
			s.Elsewhere++
		}
	}
}

// BrownoutTrial is one carrier that became worse under a realtime flow.
type BrownoutTrial struct {
	Link   string `json:"link"`
	Change string `json:"change"` // what it was given
	Moved  bool   `json:"moved"`  // away from it, and after it became worse
	// MovedMS is when the flow's last packet came to the carrier, since it became worse.
	MovedMS float64  `json:"moved_ms"`
	Why     []string `json:"why,omitempty"` // what the gateway said about its moves
}

// departures are when each number left, and over which link, of what went from sha to fra.
type departure struct {
	link string
	at   time.Duration
}

func departures(passed map[string][]wan.Passage) map[uint32]departure {
	out := make(map[uint32]departure)
	for link, all := range passed {
		for _, p := range all {
			if p.Direction != wan.AtoB {
				continue
			}
			at := p.Entered
			if at == 0 {
				at = p.Read
			}
			out[p.Number] = departure{link, at}
		}
	}
	return out
}

// judge fills the trial in from the new flows' first packets; the link went dark then.
func (d *DarkTrial) judge(flows map[uint32]departure, dark time.Duration) {
	d.Elsewhere = -1
	for _, f := range flows {
		after := millis(f.at - dark)
		switch {
		case f.at < dark:
		case f.link == d.Link:
			d.Picked++
			d.LastPick = max(d.LastPick, after)
		case d.Elsewhere < 0 || after < d.Elsewhere:
			d.Elsewhere = after
		}
	}
}

// judge fills the trial in from one flow's packets; the link became worse then.
func (b *BrownoutTrial) judge(packets map[uint32]departure, worse time.Duration) {
	var last, lastHere time.Duration
	for _, p := range packets {
		last = max(last, p.at)
		if p.link == b.Link {
			lastHere = max(lastHere, p.at)
		}
	}
	b.Moved = last > lastHere && lastHere >= worse
	b.MovedMS = millis(max(lastHere-worse, 0))
}
