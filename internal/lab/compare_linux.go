package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// compareGrace is what a workload may take beyond its window: slow ways take many seconds for one object.
const compareGrace = 60 * time.Second

// Compare measures objects and bulk over every way in every scenario, each way in a lab of its own, and writes the
// table into the options' directory, again after each row: what was measured is there however it ends. A way that
// cannot be had or that fails is a row that says so.
func Compare(ctx context.Context, o CompareOptions, progress io.Writer) (*Comparison, error) {
	rows, err := o.plan()
	if err != nil {
		return nil, err
	}
	missing := readMissing(o.Dir)
	c := &Comparison{Made: time.Now(), Bulk: o.Bulk.Seconds(), Objects: o.Objects.Seconds(), Seed: o.Seed}
	c.Kernel, c.Go, c.CPUs = hostWords()
	for i, row := range rows {
		fmt.Fprintf(progress, "%d of %d: %s, %s over %v\n", i+1, len(rows), row.Scenario, row.Via, row.Carriers)
		err := o.measure(ctx, &row)
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		if err != nil {
			if errors.Is(err, ErrPrivilege) {
				return nil, err
			}
			row.fail(err, missing)
		}
		c.Rows = append(c.Rows, row)
		if err := c.WriteFiles(o.Dir); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// measure fills one row.
func (o *CompareOptions) measure(ctx context.Context, row *ComparisonRow) (err error) {
	run := RunOptions{
		Options: Options{
			Name: o.Name, Scenario: row.Scenario, Seed: o.Seed, NoAgent: true, Via: row.Via, Carriers: row.Carriers, Programs: o.Programs,
		},
	}
	lab, cold, err := ready(ctx, run.Options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.down()) }()
	nw := kernelNetwork{lab.state.Options}
	for _, w := range []struct {
		workload string
		window   time.Duration
		to       **Result
	}{{WorkloadObjects, o.Objects, &row.Objects}, {WorkloadBulk, o.Bulk, &row.Bulk}} {
		run.Workload, run.Window = w.workload, w.window
		wctx, cancel := context.WithTimeout(ctx, w.window+compareGrace)
		res, _, err := lab.measure(wctx, nw, run)
		cancel()
		if err != nil {
			// The other workload may go: that a way is too slow for one is what the table has to say.
			row.Errors = append(row.Errors, fmt.Sprintf("%s: %v", w.workload, err))
			continue
		}
		if cold != "" {
			res.Warnings = append(res.Warnings, coldWarning(cold))
		}
		*w.to = res
	}
	return nil
}
