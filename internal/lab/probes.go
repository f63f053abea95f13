package lab

import (
	"slices"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// The two probers that are measured side by side over the same links.
const (
	ProberNIC  = "nic"  // answered and timed in XDP, as gateways do where they can
	ProberUser = "user" // the same probes over sockets at both ends
)

// ProbeFigures say how near to the truth a prober came on one link. The truth is the emulator's own record of the same
// packets: from when each came to the sending device to when the far one had it.
type ProbeFigures struct {
	Link   string `json:"link"`
	Prober string `json:"prober"`
	Probes int    `json:"probes"` // whose round trips were compared
	// ErrorP50, P95 and Max are of the difference between measured round trip and truth, without its sign.
	ErrorP50 float64 `json:"error_p50_ms"`
	ErrorP95 float64 `json:"error_p95_ms"`
	ErrorMax float64 `json:"error_max_ms"`
	// TruthSlack is the p95 of what the emulator's record is unsure of.
	TruthSlack float64 `json:"truth_slack_p95_ms"`
	// Loss is each direction's, out and back: as estimated, and in truth.
	Loss      [2]float64 `json:"loss"`
	TrueLoss  [2]float64 `json:"true_loss"`
	ModelLoss float64    `json:"model_loss"` // that the link was told to have
}

// LossError is by which share of the truth the worse direction's estimate is off.
func (f *ProbeFigures) LossError() (worst float64) {
	for d, truth := range f.TrueLoss {
		if truth > 0 {
			worst = max(worst, max(f.Loss[d]-truth, truth-f.Loss[d])/truth)
		} else if f.Loss[d] > 0 {
			worst = max(worst, 1)
		}
	}
	return worst
}

// trueProbe is what a link did with a probe and its reply.
type trueProbe struct {
	rtt, slack time.Duration
	lost       [2]bool // out, back
	whole      bool    // it came back
}

// trueProbes reads the record of a link: the probes to a port, and the replies from it, by sequence number.
func trueProbes(passed []wan.Passage, port uint16) map[uint32]trueProbe {
	out, back := make(map[uint32]wan.Passage), make(map[uint32]wan.Passage)
	for _, p := range passed {
		switch {
		case p.Direction == wan.AtoB && p.To == port:
			out[p.Number] = p
		case p.Direction == wan.BtoA && p.From == port:
			back[p.Number] = p
		}
	}
	all := make(map[uint32]trueProbe, len(out))
	for n, o := range out {
		b, answered := back[n]
		t := trueProbe{lost: [2]bool{o.Written == 0, answered && b.Written == 0}}
		if answered && b.Written != 0 && o.Written != 0 && o.Entered != 0 {
			t.whole = true
			// What XDP sends back comes to the device while the emulator still writes the probe to it.
			entered := b.Entered
			if entered == 0 {
				entered = middle(&o)
				t.slack += (o.Written - o.Writing) / 2
			}
			t.rtt = middle(&o) - o.Entered + middle(&b) - entered
			t.slack += (b.Written - b.Writing) / 2
		}
		all[n] = t
	}
	return all
}

// resolving is how many of a path's first probes may have waited for the neighbour's address: a second of them.
const resolving = 20

func middle(p *wan.Passage) time.Duration { return p.Writing + (p.Written-p.Writing)/2 }

// judge compares what a prober measured, round trips by sequence number, with the truth.
func (f *ProbeFigures) judge(truth map[uint32]trueProbe, rtts map[uint32]time.Duration) {
	var errs, slack []time.Duration
	var sent, lost [2]int
	for n, t := range truth {
		sent[0]++
		if t.lost[0] {
			lost[0]++
		} else {
			sent[1]++
			if t.lost[1] {
				lost[1]++
			}
		}
		if rtt, ok := rtts[n]; ok && t.whole && n >= resolving {
			errs = append(errs, (rtt - t.rtt).Abs())
			slack = append(slack, t.slack)
		}
	}
	f.Probes = len(errs)
	ms := func(d time.Duration) float64 { return round(float64(d)/float64(time.Millisecond), 3) }
	f.ErrorP50, f.ErrorP95, f.ErrorMax = ms(Quantile(errs, 0.5)), ms(Quantile(errs, 0.95)), ms(Quantile(errs, 1))
	f.TruthSlack = ms(Quantile(slack, 0.95))
	for d := range lost {
		if sent[d] > 0 {
			f.TrueLoss[d] = round(float64(lost[d])/float64(sent[d]), 5)
		}
	}
}

// worstProbe is the one of the figures of a prober with the largest value.
func worstProbe(figures []ProbeFigures, prober string, value func(*ProbeFigures) float64) float64 {
	worst := 0.0
	for i := range figures {
		if figures[i].Prober == prober {
			worst = max(worst, value(&figures[i]))
		}
	}
	return worst
}

// probeLoss are the links' losses in the probes check, from 1 to 10 %.
var probeLoss = []float64{0.01, 0.03, 0.10}

// probeLinks are a border with the delays of clean and those losses, each direction.
func probeLinks(links []wan.Carrier) []wan.Carrier {
	links = slices.Clone(links)
	for i := range links {
		links[i].Impairment.Loss = probeLoss[i%len(probeLoss)]
	}
	return links
}
