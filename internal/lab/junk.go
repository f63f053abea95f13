package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// JunkResult says what a flood of junk beside the workload did.
type JunkResult struct {
	Carrier string `json:"carrier"`
	Guard   string `json:"guard"`
	Asked   int    `json:"asked_pps"`
	// PPS is what this machine could make of it: the time that the receiving gateway's kernel takes for a packet is part of
	// that.
	PPS     float64 `json:"junk_pps"`
	Packets uint64  `json:"packets"`
	// Verdicts are what the guard of the flooded gateway counted meanwhile.
	Verdicts map[string]uint64 `json:"guard_verdicts,omitempty"`
}

// String is the result for people.
func (j *JunkResult) String() string {
	s := fmt.Sprintf("%.0f packets a second of %d at %s, guard %s", j.PPS, j.Asked, j.Carrier, j.Guard)
	var said []string
	for _, v := range slices.Sorted(maps.Keys(j.Verdicts)) {
		if n := j.Verdicts[v]; n > 0 {
			said = append(said, fmt.Sprintf("%s %d", v, n))
		}
	}
	if len(said) > 0 {
		s += ": " + strings.Join(said, ", ")
	}
	return s
}

// setVerdicts takes the guard's counts before and after.
func (j *JunkResult) setVerdicts(before, after map[string]uint64) {
	for v, n := range after {
		if n > before[v] {
			if j.Verdicts == nil {
				j.Verdicts = make(map[string]uint64)
			}
			j.Verdicts[v] = n - before[v]
		}
	}
}
