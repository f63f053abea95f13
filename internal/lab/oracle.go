package lab

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel"
)

// oracleFrames is how much of a link's model the oracle looks at: calls' packets, twenty minutes of them.
const oracleFrames = 60_000

// oracle is the carrier that is best for a class by what the links are told to do, as a choice that need not measure
// would have it.
func oracle(links []wan.Carrier, class pathsel.Class, seed uint64) (string, error) {
	states := make([]pathsel.PathState, len(links))
	for i, l := range links {
		d := modelled(l.Impairment, seed+uint64(i))
		states[i] = pathsel.PathState{
			ID: uint8(i), Name: l.Name, State: pathsel.StateUp, Out: d, Back: d, CapacityBitsPerSec: l.Impairment.Capacity(),
			RTT: pathsel.Delay{Min: 2 * d.Delay.Min, Median: 2 * d.Delay.Median, P95: 2 * d.Delay.P95, Recent: 2 * d.Delay.Recent},
		}
	}
	policy := pathsel.DefaultPolicy()
	first := pathsel.Select(0, states, &policy, nil).Classes[class].First()
	if first < 0 {
		return "", fmt.Errorf("no carrier is good for %v", class)
	}
	return links[first].Name, nil
}

// modelled is what probes without noise would find out about a direction of a link.
func modelled(imp wan.Impairment, seed uint64) pathsel.Direction {
	s := wan.NewShaper(imp, seed)
	var delays []time.Duration
	lost, bursts, losing := 0, 0, false
	for i := range oracleFrames {
		now := time.Duration(i) * callInterval
		f := s.Offer(now, callPacket+42)
		gone := f.Copies == 0
		if gone {
			lost++
			if !losing {
				bursts++
			}
		} else {
			delays = append(delays, f.At-now)
		}
		losing = gone
	}
	slices.SortFunc(delays, cmp.Compare[time.Duration])
	d := pathsel.Direction{Loss: float64(lost) / oracleFrames, Packets: oracleFrames, Burst: 1}
	d.Now = d.Loss
	if bursts > 0 {
		d.Burst = float64(lost) / float64(bursts)
	}
	if n := len(delays); n > 0 {
		d.Delay = pathsel.Delay{Min: delays[0], Median: delays[n/2], P95: delays[n*95/100], Recent: delays[n/2]}
	}
	return d
}

// OracleTrial is a workload on picked paths beside the same on the oracle's carrier alone.
type OracleTrial struct {
	Scenario string  `json:"scenario"`
	Workload string  `json:"workload"` // calls or objects
	Carrier  string  `json:"carrier"`  // the oracle's
	Picked   *Result `json:"picked,omitempty"`
	Oracle   *Result `json:"oracle,omitempty"`
}

// p99 of a result, of what its workload waits for.
func (r *Result) p99() float64 {
	switch {
	case r == nil:
		return 0
	case r.CallFigures != nil:
		return r.OWDP99
	case r.ObjectFigures != nil:
		return r.P99
	}
	return 0
}

// Ratio is the p99 on picked paths over that on the oracle's carrier; 0 where one is missing.
func (o *OracleTrial) Ratio() float64 {
	if o.Oracle.p99() == 0 {
		return 0
	}
	return o.Picked.p99() / o.Oracle.p99()
}

// JunkTrial is a bulk transfer without and with junk at a carrier's NIC.
type JunkTrial struct {
	Guard string  `json:"guard"`
	Alone *Result `json:"alone,omitempty"`
	Under *Result `json:"under_junk,omitempty"`
}

// Cost is the share of its goodput that the transfer lost.
func (j *JunkTrial) Cost() float64 {
	if j.Alone == nil || j.Under == nil || j.Alone.GoodputMbit == 0 {
		return 1
	}
	return 1 - j.Under.GoodputMbit/j.Alone.GoodputMbit
}
