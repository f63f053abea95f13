package lab

import (
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// DarkTrial is one carrier that went dark while new realtime flows came every few milliseconds.
type DarkTrial struct {
	Link    string `json:"link"`
	Stopped bool   `json:"stopped"` // the gateway's daemon stood still (SIGSTOP)
	// LinkDelay is the carrier's: what had left before it went dark arrives for so long, and until then nobody can know.
	LinkDelay float64 `json:"link_delay_ms"`
	// On: the last new flow before it went dark was put on it. Where it was not, the trial says nothing.
	On bool `json:"on"`
	// LastPick is when the last new flow was put on the dark carrier, since it went dark; 0 for none.
	LastPick float64 `json:"last_pick_ms"`
	Picked   int     `json:"picked"` // new flows that were
	// Elsewhere is when the first one went elsewhere; -1 for never.
	Elsewhere float64 `json:"elsewhere_ms"`
}

// Known is how long new flows were put on the carrier after the last packet could arrive over it.
func (d *DarkTrial) Known() float64 { return max(d.LastPick-d.LinkDelay, 0) }

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
	var last time.Duration // of the flows before
	for _, f := range flows {
		after := millis(f.at - dark)
		switch {
		case f.at < dark:
			if f.at > last {
				last, d.On = f.at, f.link == d.Link
			}
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
