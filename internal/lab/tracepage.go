package lab

import (
	_ "embed"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed tracepage.html.tmpl
var traceText string

var traceTemplate = newPage(traceText)

// TraceReport draws the traces of some runs as one page, DIR/report.html, and returns its path.
func TraceReport(dir string, traces []*Trace) (string, error) {
	path := filepath.Join(dir, "report.html")
	return path, writePage(path, func(w io.Writer) error { return WriteTracePage(w, traces) })
}

// tracePage is what the template sees: a table of the runs, then each run.
type tracePage struct {
	When, Headline string
	Failures       []string
	Rows           []runRow
	WaitHead       string
	Runs           []traceRun
}

// runRow is one run in the table on top.
type runRow struct {
	ID, Name, Goodput, Limit, OfLimit, First, Overhead, Wait string
	SumOK                                                    bool
}

type traceRun struct {
	ID, Title, Sentence string
	Warnings            []string
	Tunnel              bool
	Ways                []wayRow
	Sections            []section
}

// wayRow is one direction of one carrier in a run's table.
type wayRow struct {
	Class, Carrier, Towards                                       string
	Rate, Use, Lost, Drops, Queue, Extra, Seen, FEC, Again, NotUp string
}

// WriteTracePage draws the traces as a page.
func WriteTracePage(w io.Writer, traces []*Trace) error {
	p := tracePage{Headline: "One run in the lab", WaitHead: "Longest stall"}
	if len(traces) != 1 {
		p.Headline = fmt.Sprintf("%d runs in the lab", len(traces))
	}
	var latest time.Time
	for i, t := range traces {
		if err := t.check(); err != nil {
			return fmt.Errorf("%w: %w", ErrTrace, err)
		}
		run := t.run(fmt.Sprintf("run%d", i+1))
		p.Runs = append(p.Runs, run)
		if t.Began.After(latest) {
			latest = t.Began
		}
		r := t.Result
		if r == nil {
			continue
		}
		if why := r.Failed(); why != "" {
			p.Failures = append(p.Failures, run.Title+": "+why)
		}
		row := runRow{
			ID: run.ID, Name: run.Title, Goodput: rateNumber(r.GoodputMbit), Limit: rateNumber(r.LimitMbit), OfLimit: percentText(r.OfLimit, 1),
			First: rateNumber(r.FirstSecondMbit), Overhead: fmt.Sprintf("%.3f", r.WireOverhead), Wait: fmt.Sprintf("%.0f ms", r.StallMSMax),
			SumOK: r.SHA256OK,
		}
		if o := r.ObjectFigures; o != nil {
			row.First, row.Wait = "", fmt.Sprintf("%.0f / %.0f ms", o.P50, o.P99)
			p.WaitHead = "Longest stall, or p50 / p99"
		}
		p.Rows = append(p.Rows, row)
	}
	if !latest.IsZero() {
		p.When = latest.UTC().Format("2 January 2006, 15:04 UTC")
	}
	return traceTemplate.Execute(w, &p)
}

func (t *Trace) run(id string) traceRun {
	run := traceRun{ID: id, Title: "A run", Tunnel: t.tunnel()}
	if r := t.Result; r != nil {
		run.Title = r.Scenario + ", " + r.Workload
		if r.Via != "" && r.Via != ViaLandbridge {
			run.Title += ", " + r.Via
		}
		run.Sentence = r.words()
		run.Warnings = r.Warnings
	}
	for i, name := range t.carrierNames() {
		c := t.Carriers[name]
		payload, back := c.ways(t.Upload)
		there, home := "client", "origin"
		if t.Upload {
			there, home = home, there
		}
		run.Ways = append(run.Ways, t.wayRow(name, i, there, c, payload), t.wayRow(name, i, home, c, back))
	}
	// The payload's direction first: the other one is mostly acknowledgements.
	slices.SortStableFunc(run.Ways, func(a, b wayRow) int { return strings.Compare(a.Towards, b.Towards) * t.order() })
	run.Sections = t.sections()
	return run
}

// order sorts "client" before "origin", or the other way round for an upload.
func (t *Trace) order() int {
	if t.Upload {
		return -1
	}
	return 1
}

func (t *Trace) tunnel() bool {
	for _, c := range t.Carriers {
		if c.ToClient.Path != nil || c.ToOrigin.Path != nil {
			return true
		}
	}
	return false
}

// words says what was run.
func (r *Result) words() string {
	what := fmt.Sprintf("%s workload", r.Workload)
	switch {
	case r.Workload == WorkloadBulk && r.Flows > 1:
		what = fmt.Sprintf("%d bulk flows", r.Flows)
	case r.Workload == WorkloadBulk:
		what = "one bulk flow"
	case r.Workload == WorkloadMixed && r.ObjectFigures != nil:
		what = fmt.Sprintf("%d objects on a warm connection, %d on fresh ones, beside %d bulk flow(s)", r.Objects, r.FreshObjects, r.Flows)
	case r.ObjectFigures != nil:
		what = fmt.Sprintf("%d objects on a warm connection, %d on fresh ones", r.Objects, r.FreshObjects)
	}
	towards := "to the client"
	if r.Upload {
		towards = "to the origin"
	}
	chain := "client, gateway, border, gateway, origin"
	if r.Agent {
		chain = "client, agent, gateway, border, gateway, origin"
	}
	return fmt.Sprintf("%s %s for %s, via %s over %s, seed %d; %s; best path %.0f ms round trip.",
		strings.ToUpper(what[:1])+what[1:], towards, spanText(seconds(r.Seconds)), r.Via, strings.Join(r.Carriers, ", "), r.Seed, chain, r.BestPathRTT)
}

func (t *Trace) wayRow(name string, i int, towards string, c *CarrierTrace, w *WayTrace) wayRow {
	l := &w.Link
	sent := sum(l.Offered) - sum(l.QueueDrops)
	r := wayRow{
		Class: carrierClass(name, i), Carrier: name, Towards: towards, Rate: rateNumber(mean(l.Mbit)),
		Use: "", Lost: shareText(sum(l.Lost), sent), Drops: shareText(sum(l.QueueDrops), sum(l.Offered)),
		Queue: delayText(l.QueueMS),
	}
	if c.RateMbit > 0 {
		// What was lost had used the link.
		use := mean(l.Mbit) / c.RateMbit
		if d := sum(l.Delivered); d > 0 {
			use *= sent / d
		}
		r.Use = percentText(use, 0)
	}
	if p := w.Path; p != nil {
		r.Extra = delayText(p.alive(p.ExtraDelayMS))
		r.Seen = percentText(mean(p.alive(p.Loss)), 1) + " / " + percentText(mean(p.alive(p.LossFloor)), 1)
		r.FEC, r.Again = shareText(sum(p.Repairs), sum(p.Packets)), shareText(sum(p.Resent), sum(p.Packets))
		r.NotUp = spanText(seconds(t.notUp(p)))
	}
	return r
}

// notUp is for how long the path was known not to be up, in seconds.
func (t *Trace) notUp(p *PathTrace) float64 {
	total, last := 0.0, 0.0
	for i, s := range p.State {
		if s != "up" && s != "" {
			total += t.Seconds[i] - last
		}
		last = t.Seconds[i]
	}
	return total
}

// alive is one of the path's columns without the time in which the path was not up: the gateway's figures then are
// those from before.
func (p *PathTrace) alive(c Column) Column {
	out := slices.Clone(c)
	for i, s := range p.State {
		if s != "up" {
			out[i] = math.NaN()
		}
	}
	return out
}

// known are the values of a column that are there, in order of size.
func known(c Column) []float64 {
	var out []float64
	for _, v := range c {
		if finite(v) {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

func sum(c Column) float64 {
	s := 0.0
	for _, v := range known(c) {
		s += v
	}
	return s
}

func mean(c Column) float64 {
	k := known(c)
	if len(k) == 0 {
		return 0
	}
	return sum(c) / float64(len(k))
}

// upper is the 95th percentile by the nearest-rank rule.
func upper(c Column) float64 {
	k := known(c)
	if len(k) == 0 {
		return 0
	}
	return k[int(math.Ceil(0.95*float64(len(k))))-1]
}

func delayText(c Column) string { return fmt.Sprintf("%.0f / %.0f", mean(c), upper(c)) }

func percentText(v float64, digits int) string { return fmt.Sprintf("%.*f %%", digits, 100*v) }

// shareText is part of all in percent.
func shareText(part, all float64) string {
	if all <= 0 {
		return "-"
	}
	return percentText(part/all, 1)
}
