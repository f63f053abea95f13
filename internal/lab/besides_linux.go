package lab

import (
	"context"
	"errors"

	"github.com/landbridge/landbridge/bench/wan"
)

// besides is what a run's options want to happen beside the workload: a competitor, rate steps and junk. One goroutine.
type besides struct {
	lab        *Lab
	o          RunOptions
	competitor *competitor
	stepper    *stepper
	junk       *junk
	stop       context.CancelFunc
	err        error
}

// begin is for the moment the workload begins.
func (b *besides) begin(ctx context.Context) {
	if b.o.Competitor != "" {
		b.competitor, b.err = b.lab.startCompetitor(ctx, b.o)
	}
	if b.o.Junk > 0 {
		j, err := b.lab.startJunk(ctx, b.o)
		b.junk, b.err = j, errors.Join(b.err, err)
	}
	if len(b.o.Steps) > 0 {
		ctx, b.stop = context.WithCancel(ctx)
		b.stepper = b.lab.startSteps(ctx, b.o.Steps, b.o.Upload)
	}
}

// end is for the moment the workload's measurement ends.
func (b *besides) end(before, after []wan.LinkStats) {
	if b.stop != nil {
		b.stop()
	}
	if b.competitor != nil {
		b.competitor.end(before, after, b.o.Upload)
	}
	if b.junk != nil {
		b.junk.end()
	}
}

// close ends what still runs and fills the result in.
func (b *besides) close(res *Result) error {
	if b.stop != nil {
		b.stop()
	}
	if c := b.competitor; c != nil {
		b.err = errors.Join(b.err, c.close())
		res.Competitor = &c.result
	}
	if b.junk != nil {
		b.err = errors.Join(b.err, b.junk.close())
		res.Junk = &b.junk.result
	}
	if b.stepper != nil {
		steps, err := b.stepper.results()
		b.err = errors.Join(b.err, err)
		res.Steps = steps
	}
	return b.err
}
