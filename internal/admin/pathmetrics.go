package admin

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	descEstimateState = desc("estimate_state", "1 for the state that probes and traffic say the path is in.", "peer", "path", "state")
	descEstimateRTT   = desc("estimate_rtt_seconds", "Round trip of the path, probes and traffic together.", "peer", "path", "stat")
	descEstimateLoss  = desc("estimate_loss_ratio", "Loss that scores count.", "peer", "path", "direction")
	descEstimateAge   = desc("estimate_age_seconds", "Since the path was last heard; -1 for never.", pathLabels...)
	descChoice        = desc("choice_path", "1 for the path the class is on.", "peer", "class", "path")
	descScore         = desc("choice_score", "The path's score for the class: R for realtime, milliseconds for the others.", "peer", "class", "path")
	descMoves         = desc("moves_total", "Moves of a class from one path to another.", "peer", "class")
	descVerdicts      = desc("verdicts_total", "Packets by what a BPF program decided.", "program", "verdict")
)

var pathDescs = []*prometheus.Desc{
	descEstimateState, descEstimateRTT, descEstimateLoss, descEstimateAge, descChoice, descScore, descMoves, descVerdicts,
}

// estimateStates are those of pathsel.
var estimateStates = []string{PathUp, "brownout", PathSuspect, PathDown}

// paths puts what Source.Paths and Source.Events know.
func (c collector) paths(put func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string)) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { put(d, prometheus.GaugeValue, v, labels...) }
	if c.Events != nil {
		for k, n := range c.Events.Moves() {
			put(descMoves, prometheus.CounterValue, float64(n), k[0], k[1])
		}
	}
	if c.Paths == nil {
		return
	}
	all := c.Paths().finite()
	for _, p := range all.Peers {
		for i := range p.Paths {
			q := &p.Paths[i]
			for _, state := range estimateStates {
				gauge(descEstimateState, truth(q.State == state), p.Name, q.Name, state)
			}
			gauge(descEstimateRTT, q.RTT.Min/1e3, p.Name, q.Name, "min")
			gauge(descEstimateRTT, q.RTT.Median/1e3, p.Name, q.Name, "median")
			gauge(descEstimateRTT, q.RTT.P95/1e3, p.Name, q.Name, "p95")
			gauge(descEstimateRTT, q.RTT.Jitter/1e3, p.Name, q.Name, "jitter")
			gauge(descEstimateLoss, q.Out.LossNow, p.Name, q.Name, "tx")
			gauge(descEstimateLoss, q.Back.LossNow, p.Name, q.Name, "rx")
			if q.FreshMs < 0 {
				gauge(descEstimateAge, -1, p.Name, q.Name)
			} else {
				gauge(descEstimateAge, q.FreshMs/1e3, p.Name, q.Name)
			}
		}
		for i := range p.Classes {
			choice := &p.Classes[i]
			for _, x := range choice.Candidates {
				gauge(descChoice, truth(x.Path == choice.Path), p.Name, choice.Class, x.Path)
				gauge(descScore, x.Score, p.Name, choice.Class, x.Path)
			}
		}
	}
	for program, counts := range all.Verdicts {
		for verdict, n := range counts {
			put(descVerdicts, prometheus.CounterValue, float64(n), program, verdict)
		}
	}
}
