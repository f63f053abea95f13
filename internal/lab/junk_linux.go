package lab

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
)

// junk is a running flood.
type junk struct {
	lab    *Lab
	ctx    context.Context
	em     *emulatorClient // a connection of its own, with which the flood ends
	result JunkResult
	before map[string]uint64
	err    error
}

// startJunk begins a flood at gateway sha.
func (lab *Lab) startJunk(ctx context.Context, o RunOptions) (*junk, error) {
	opt := lab.state.Options
	j := &junk{lab: lab, ctx: ctx, result: JunkResult{
		Carrier: cmp.Or(o.JunkCarrier, opt.Carriers[0]), Guard: cmp.Or(opt.Guard, GuardModes[0]), Asked: o.Junk,
	}}
	j.before = j.verdicts()
	var err error
	if j.em, err = dialEmulator(lab.socket(emulatorProcess)); err != nil {
		return nil, fmt.Errorf("junk: %w", err)
	}
	to := bondAddr(carrierAddr(slices.Index(carriers, j.result.Carrier), 1))
	if err := j.em.Flood(wan.FloodConfig{Link: j.result.Carrier, To: to, PPS: o.Junk, Seed: opt.Seed}); err != nil {
		j.em.Close()
		return nil, fmt.Errorf("junk: %w", err)
	}
	return j, nil
}

// verdicts is what the flooded gateway's guard has counted; nothing where there is none.
func (j *junk) verdicts() map[string]uint64 {
	if j.lab.state.Options.Via != ViaLandbridge {
		return nil
	}
	c := admin.NewClient(j.lab.socket(machineSha))
	defer c.Close()
	ctx, cancel := context.WithTimeout(j.ctx, fetchTimeout)
	defer cancel()
	p, err := c.Paths(ctx)
	if err != nil {
		return nil // the flood is what is measured
	}
	return p.Verdicts["guard"]
}

// end is for the moment the workload's measurement ends.
func (j *junk) end() {
	stats, err := j.em.StopFlood()
	j.err = err
	j.result.PPS, j.result.Packets = round(stats.PPS(), 0), stats.Sent
	j.result.setVerdicts(j.before, j.verdicts())
}

func (j *junk) close() error {
	j.em.Close()
	return j.err
}
