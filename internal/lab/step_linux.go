package lab

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// stepper changes rates while a run goes on and samples the links concerned.
type stepper struct {
	lab    *Lab
	steps  []RateStep // in order
	upload bool
	begin  time.Time

	done    chan struct{}
	err     error                   // valid once done is closed, as is the rest
	applied []time.Duration         // when each step was
	samples map[string][]linkSample // by carrier
}

// startSteps begins to count the steps' times from now.
func (lab *Lab) startSteps(ctx context.Context, steps []RateStep, upload bool) *stepper {
	s := &stepper{
		lab: lab, steps: slices.Clone(steps), upload: upload, begin: time.Now(),
		done: make(chan struct{}), samples: make(map[string][]linkSample),
	}
	slices.SortStableFunc(s.steps, func(a, b RateStep) int { return int(a.At - b.At) })
	go s.run(ctx)
	return s
}

func (s *stepper) run(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(stepPoll)
	defer tick.Stop()
	for {
		for n := len(s.applied); n < len(s.steps) && time.Since(s.begin) >= s.steps[n].At; n++ {
			if s.err = s.apply(s.steps[n]); s.err != nil {
				return
			}
			s.applied = append(s.applied, time.Since(s.begin))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stats, err := s.lab.em.Stats()
		if err != nil {
			s.err = fmt.Errorf("rate steps: %w", err)
			return
		}
		s.sample(time.Since(s.begin), stats)
	}
}

func (s *stepper) apply(step RateStep) error {
	i := slices.IndexFunc(s.lab.links, func(c wan.Carrier) bool { return c.Name == step.Carrier })
	imp := s.lab.links[i].Impairment
	imp.Rate = step.Rate
	if err := s.lab.em.Change(step.Carrier, imp); err != nil {
		return fmt.Errorf("rate step of %s: %w", step.Carrier, err)
	}
	return nil
}

func (s *stepper) sample(at time.Duration, stats []wan.LinkStats) {
	for _, l := range stats {
		if len(stepsOf(s.steps, l.Name)) == 0 {
			continue
		}
		w := l.BtoA
		if s.upload {
			w = l.AtoB
		}
		s.samples[l.Name] = append(s.samples[l.Name], linkSample{at, w.Queue, w.SentBytes, w.QueueDrops})
	}
}

// results is for after the run's end.
func (s *stepper) results() ([]StepResult, error) {
	<-s.done
	if s.err != nil {
		return nil, s.err
	}
	if len(s.applied) < len(s.steps) {
		return nil, fmt.Errorf("%w: the run ended before the rate step at %v", ErrOptions, s.steps[len(s.applied)].At)
	}
	rates := make(map[string]int64)
	for _, l := range s.lab.links {
		rates[l.Name] = l.Impairment.Rate
	}
	var out []StepResult
	for i, step := range s.steps {
		at, until := s.applied[i], time.Duration(1<<62)
		for k := i + 1; k < len(s.steps); k++ {
			if s.steps[k].Carrier == step.Carrier {
				until = s.applied[k]
				break
			}
		}
		res := StepResult{
			Carrier: step.Carrier, At: round(at.Seconds(), 2),
			FromMbit: round(float64(rates[step.Carrier])/1e6, 2), ToMbit: round(float64(step.Rate)/1e6, 2),
		}
		var part []linkSample
		for _, x := range s.samples[step.Carrier] {
			if x.at >= at && x.at < until {
				part = append(part, x)
			}
		}
		judgeStep(&res, step.Rate, at, part)
		rates[step.Carrier] = step.Rate
		out = append(out, res)
	}
	return out, nil
}
