package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/landbridge/landbridge/pathsel"
)

const (
	// probesWindow lets all probes lie in the estimates' window of a minute.
	probesWindow = 58 * time.Second
	junkWindow   = 10 * time.Second
	// junkAsked is what the target names.
	junkAsked = 200_000
)

// Prove measures what the live paths promise, and writes the table into the options' directory, again after each check:
// what was measured is there however it ends. A check that fails is in the proof's Errors.
func Prove(ctx context.Context, o ProofOptions, progress io.Writer) (*Proof, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	begin := time.Now()
	p := &Proof{Made: begin, Seed: o.Seed}
	p.Kernel, p.Go, p.CPUs = hostWords()
	for _, check := range o.Checks {
		fmt.Fprintf(progress, "%4.0f s: %s\n", time.Since(begin).Seconds(), check)
		err := p.run(ctx, &o, check, progress)
		switch {
		case ctx.Err() != nil:
			return p, context.Cause(ctx)
		case errors.Is(err, ErrPrivilege) || errors.Is(err, ErrOptions):
			return nil, err
		case err != nil:
			p.Errors = append(p.Errors, check+": "+err.Error())
		}
		p.Seconds = round(time.Since(begin).Seconds(), 0)
		p.judge()
		if err := p.WriteFiles(o.Dir); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *Proof) run(ctx context.Context, o *ProofOptions, check string, progress io.Writer) (err error) {
	opt := Options{Name: o.Name, Scenario: "clean", Seed: o.Seed, NoAgent: true, Programs: o.Programs}
	switch check {
	case CheckProbes:
		p.Probes, err = probes(ctx, opt, probesWindow)
	case CheckDark:
		for _, opt.Scenario = range o.Scenarios {
			fmt.Fprintf(progress, "        %s\n", opt.Scenario)
			opposed := opt
			opposed.opposed = true
			e := inLab(ctx, opposed, func(lab *Lab) error {
				dark, steady, err := lab.dark(ctx)
				p.Dark, p.Steady = append(p.Dark, dark...), append(p.Steady, steady...)
				return err
			})
			err = errors.Join(err, e)
		}
	case CheckBrownout:
		err = inLab(ctx, opt, func(lab *Lab) (err error) {
			p.Brown, err = lab.brownouts(ctx)
			return err
		})
	case CheckOracle:
		for _, opt.Scenario = range o.Scenarios {
			fmt.Fprintf(progress, "        %s\n", opt.Scenario)
			trials, e := beside(ctx, opt, o.Window)
			p.Oracle, err = append(p.Oracle, trials...), errors.Join(err, e)
		}
	case CheckJunk:
		for _, opt.Guard = range []string{"off", "enforce"} {
			fmt.Fprintf(progress, "        guard %s\n", opt.Guard)
			j, e := junked(ctx, opt)
			p.Junk, err = append(p.Junk, j), errors.Join(err, e)
		}
	}
	return err
}

// inLab runs something in a lab that is up and warm.
func inLab(ctx context.Context, o Options, run func(*Lab) error) error {
	lab, cold, err := ready(ctx, o)
	if err != nil {
		return err
	}
	lab.cold = cold
	return errors.Join(run(lab), lab.down())
}

// measured runs a workload in a lab.
func (lab *Lab) measured(ctx context.Context, o RunOptions, to **Result) (err error) {
	o.Options = lab.state.Options
	ctx, cancel := context.WithTimeout(ctx, o.Window+compareGrace)
	defer cancel()
	if *to, _, err = lab.measure(ctx, kernelNetwork{o.Options}, o); err == nil && lab.cold != "" {
		(*to).Warnings = append((*to).Warnings, coldWarning(lab.cold))
	}
	return err
}

// beside measures calls and objects on picked paths, and on the best carrier alone.
func beside(ctx context.Context, o Options, window time.Duration) ([]OracleTrial, error) {
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return nil, err
	}
	trials := []OracleTrial{{Scenario: o.Scenario, Workload: WorkloadCalls}, {Scenario: o.Scenario, Workload: WorkloadObjects}}
	classes := []pathsel.Class{pathsel.Realtime, pathsel.Interactive}
	all := func(lab *Lab, to func(*OracleTrial) **Result, carrier string) (err error) {
		for i := range trials {
			if t := &trials[i]; carrier == "" || carrier == t.Carrier {
				err = errors.Join(err, lab.measured(ctx, RunOptions{Workload: t.Workload, Window: window}, to(t)))
			}
		}
		return err
	}
	for i := range trials {
		if trials[i].Carrier, err = oracle(links, classes[i], o.Seed); err != nil {
			return nil, err
		}
	}
	err = inLab(ctx, o, func(lab *Lab) error { return all(lab, func(t *OracleTrial) **Result { return &t.Picked }, "") })
	done := ""
	for i := range trials {
		if c := trials[i].Carrier; c != done {
			o.Carriers, done = []string{c}, c
			err = errors.Join(err, inLab(ctx, o, func(lab *Lab) error { return all(lab, func(t *OracleTrial) **Result { return &t.Oracle }, c) }))
		}
	}
	return trials, err
}

// junked measures a bulk transfer without and with junk, in one lab.
func junked(ctx context.Context, o Options) (JunkTrial, error) {
	j := JunkTrial{Guard: o.Guard}
	err := inLab(ctx, o, func(lab *Lab) error {
		err := lab.measured(ctx, RunOptions{Workload: WorkloadBulk, Window: junkWindow}, &j.Alone)
		return errors.Join(err, lab.measured(ctx, RunOptions{Workload: WorkloadBulk, Window: junkWindow, Junk: junkAsked}, &j.Under))
	})
	return j, err
}
