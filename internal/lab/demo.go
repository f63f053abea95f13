package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// DemoOptions say how to run the demo. The zero value runs "typical" in the lab DefaultName and writes to "demo".
type DemoOptions struct {
	Name     string
	Scenario string
	Seed     uint64
	Dir      string // of the report
	Memory   bool   // use the in-memory network even where the kernel's could be had
	Programs string // as in Options
}

// stage is a border that the demo moves things across: the kernel's in namespaces, or one in memory. Safe for
// concurrent use, Close excepted.
type stage interface {
	Network
	// Stats are the counters of the border links; A is the client's side.
	Stats() ([]wan.LinkStats, error)
	Darken(carrier string, off bool) error
	// Cold says what was not ready for load when the wait for it ended, or nothing.
	Cold() string
	Close() error
}

// The demo's timetable. All in all it stays under 90 s on two cores.
const (
	directTime  = 9 * time.Second  // each direct leg is cut off after so long: all of it would take many minutes
	legTimeout  = 40 * time.Second // a leg through Landbridge that takes longer has failed
	darkRun     = 12 * time.Second // what the leg with the dark carrier should take: the archive is sent often enough
	darkFor     = 3 * time.Second
	darkAfter   = 0.3 // of the leg's bytes
	maxRepeats  = 20
	progressGap = time.Second
)

// Demo moves the Go source tree and its gzip from the origin to the client, directly and through Landbridge, then once
// more with a carrier going dark, and writes report.json and report.html. Progress and a table go to out.
func Demo(ctx context.Context, o DemoOptions, out io.Writer) (*Report, error) {
	if o.Scenario == "" {
		o.Scenario = "typical"
	}
	if o.Dir == "" {
		o.Dir = "demo"
	}
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return nil, err
	}
	d := &demo{opt: o, out: out, links: links, begin: time.Now()}
	d.report = &Report{
		Made: time.Now(), Scenario: o.Scenario, Seed: o.Seed, Network: "kernel", LimitMbit: limitMbit(links),
	}
	d.report.Kernel, d.report.Go, d.report.CPUs = hostWords()
	for _, l := range links {
		d.report.Links = append(d.report.Links, LinkSummary{l.Name, l.Impairment.String()})
	}
	d.open = openKernelStage
	if lacks := lacksKernel(); lacks != "" || o.Memory {
		if lacks == "" {
			lacks = "it was asked for"
		}
		d.report.Network, d.report.Lacks, d.open = "memory", lacks, openMemoryStage
		fmt.Fprintf(out, "%s; the demo runs over an in-memory network instead\n", lacks)
	}
	if d.report.Network == "kernel" {
		// Before anything takes time.
		if err := findPrograms(Options{Programs: o.Programs}); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "landbridge-demo-")
	if err != nil {
		return nil, fmt.Errorf("demo payload: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := d.run(ctx, dir); err != nil {
		return nil, err
	}
	d.report.Seconds = round(time.Since(d.begin).Seconds(), 1)
	if err := d.table(); err != nil {
		return nil, err
	}
	if err := d.report.WriteFiles(o.Dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "\nreport: %s\n", filepath.Join(o.Dir, "report.html"))
	return d.report, nil
}

// demo is one run of it; one goroutine.
type demo struct {
	opt    DemoOptions
	out    io.Writer
	links  []wan.Carrier
	report *Report
	begin  time.Time
	open   func(ctx context.Context, o Options) (stage, error)
}

func (d *demo) run(ctx context.Context, dir string) error {
	d.say("packing the Go source tree")
	src, err := goSource(ctx)
	if err != nil {
		return err
	}
	plain, packed, err := packTree(ctx, src, dir)
	if err != nil {
		return err
	}
	d.report.Payloads = []Payload{packed.Payload, plain.Payload}
	for _, p := range d.report.Payloads {
		d.say("  %s: %.1f MB, SHA-256 %s", p.Name, float64(p.Bytes)/1e6, p.SHA256)
	}

	best, by := bestCarrier(d.links), "TCP CUBIC"
	if d.report.Network == "memory" {
		by = "plain QUIC" // no kernel, no kernel's TCP
	}
	err = d.onStage(ctx, ViaTCPCubic, []string{best}, func(st stage) error {
		for _, a := range []*archive{packed, plain} {
			l := leg{title: fmt.Sprintf("%s, directly over %s (%s)", a.Name, best, by), via: ViaDirect, archive: a, times: 1, carriers: []string{best}, cutOff: directTime}
			if _, err := d.move(ctx, st, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.onStage(ctx, ViaLandbridge, nil, func(st stage) error {
		var rate float64
		var busiest string
		for _, a := range []*archive{packed, plain} {
			res, err := d.move(ctx, st, leg{
				title: a.Name + ", through Landbridge", via: ViaLandbridge, archive: a, times: 1, carriers: carriers, cutOff: legTimeout,
			})
			if err != nil {
				return err
			}
			if d.report.Failed() != "" {
				return nil // the rest would show nothing more
			}
			if a == packed {
				rate, busiest = res.Goodput, largest(res.Shares)
			}
		}
		times := min(max(2, int(darkRun.Seconds()*rate*1e6/8/float64(packed.Bytes))), maxRepeats)
		_, err := d.move(ctx, st, leg{
			title: fmt.Sprintf("%s %d times over, %s dark for %.0f s", packed.Name, times, busiest, darkFor.Seconds()),
			via:   ViaLandbridge, archive: packed, times: times, carriers: carriers, cutOff: legTimeout, dark: busiest,
		})
		return err
	})
}

func (d *demo) onStage(ctx context.Context, via string, use []string, fn func(stage) error) error {
	begin := time.Now()
	d.say("setting the lab up: %s, %s", d.opt.Scenario, via)
	st, err := d.open(ctx, Options{
		Name: d.opt.Name, Scenario: d.opt.Scenario, Seed: d.opt.Seed, Via: via, Carriers: use, Programs: d.opt.Programs,
	})
	if err != nil {
		return err
	}
	d.say("  ready after %.1f s", time.Since(begin).Seconds())
	if cold := st.Cold(); cold != "" {
		d.say("  not warm: %s", cold)
	}
	return errors.Join(fn(st), st.Close())
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1f s  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

// leg is one transfer to make.
type leg struct {
	title, via string
	archive    *archive
	times      int
	carriers   []string
	cutOff     time.Duration
	dark       string // carrier to darken on the way; "" for none
}

// move makes one transfer and adds it to the report. A transfer that fails is in the report, with Error; the error is
// for a demo that cannot go on.
func (d *demo) move(ctx context.Context, st stage, l leg) (*Leg, error) {
	d.say("%s", l.title)
	total := l.archive.Bytes * int64(l.times)
	before, err := st.Stats()
	if err != nil {
		return nil, err
	}
	rec := newRecorder(l.cutOff)
	use := pick(d.links, l.carriers)
	tr := newTracer(time.Now(), use, false, rec.total, st.Stats, nil)
	tctx, stop := context.WithCancel(ctx)
	watching := make(chan error, 1)
	go func() { watching <- d.watch(tctx, st, tr, rec, total, l) }()
	got := fetch(ctx, st, l.archive, l.times, rec, l.cutOff)
	stop()
	if err := <-watching; err != nil {
		return nil, err
	}
	after, err := st.Stats()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	res := Leg{
		Title: l.title, Via: l.via, Payload: l.archive.Name, Carriers: slices.Clone(l.carriers), Total: total, Bytes: got.bytes,
		Seconds: round(got.took.Seconds(), 2), Complete: got.bytes == total, Goodput: mbit(got.bytes, got.took),
		StallMSMax: millis(got.stall), Dark: l.dark, Trace: tr.done(),
	}
	if got.err != nil {
		res.Error = got.err.Error()
	}
	want, err := l.archive.sum(l.times, got.bytes)
	if err != nil {
		return nil, err
	}
	res.SHA256OK = got.bytes > 0 && want == got.sum
	if !res.Complete && res.Error == "" && res.Goodput > 0 {
		res.WouldTake = round(float64(total)*8/1e6/res.Goodput, 0)
	}
	res.wire(pathResults(before, after, l.carriers))
	d.report.Legs = append(d.report.Legs, res)
	words := "SHA-256 correct"
	if !res.SHA256OK {
		words = "SHA-256 WRONG"
	}
	if res.WouldTake > 0 {
		words = "cut off, all of it would take " + spanText(seconds(res.WouldTake))
	}
	if res.Error != "" {
		words = "FAILED: " + res.Error
	}
	d.say("  %.1f MB in %.1f s, %s; longest stall %.0f ms; %s", float64(res.Bytes)/1e6, res.Seconds, rateText(res.Goodput), res.StallMSMax, words)
	return &d.report.Legs[len(d.report.Legs)-1], nil
}

// wire fills in what the border links carried.
func (l *Leg) wire(paths map[string]PathResult) {
	sum := uint64(0)
	for _, p := range paths {
		sum += p.SentBytes
	}
	if sum == 0 {
		return
	}
	l.Shares = make(map[string]float64)
	for name, p := range paths {
		l.Shares[name] = round(float64(p.SentBytes)/float64(sum), 3)
	}
	if l.Bytes > 0 {
		l.WireOverhead = round(float64(sum)/float64(l.Bytes), 3)
	}
}

// watch samples the trace, shows progress and darkens the leg's carrier on the way. However it ends, the carrier is
// lit again.
func (d *demo) watch(ctx context.Context, st stage, tr *tracer, rec *recorder, total int64, l leg) (err error) {
	var darkSince time.Time
	lit := l.dark == ""
	light := func() {
		if e := st.Darken(l.dark, false); e != nil && err == nil {
			err = e
		}
		lit = true
	}
	defer func() {
		if !darkSince.IsZero() && !lit {
			light()
		}
	}()
	tick := time.NewTicker(TraceInterval)
	defer tick.Stop()
	nextLine := time.Now().Add(progressGap)
	for {
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
		now := time.Now()
		tr.sample(now)
		switch {
		case l.dark != "" && darkSince.IsZero() && float64(rec.total()) >= darkAfter*float64(total):
			if err := st.Darken(l.dark, true); err != nil {
				return err
			}
			darkSince = now
			d.say("  %s goes dark", l.dark)
		case !lit && !darkSince.IsZero() && now.Sub(darkSince) >= darkFor:
			light()
			d.say("  %s is back", l.dark)
		}
		if !now.Before(nextLine) {
			nextLine = now.Add(progressGap)
			d.say("  %s", progressLine(&tr.trace, rec.total(), total))
		}
	}
}

// progressLine tells how far a transfer is, at which rate in the last second, and who carried it.
func progressLine(t *Trace, have, total int64) string {
	n := len(t.Seconds)
	last := max(0, n-int(progressGap/TraceInterval))
	mean := func(v []float64) float64 {
		if len(v) <= last {
			return 0
		}
		sum := 0.0
		for _, x := range v[last:] {
			sum += x
		}
		return sum / float64(len(v)-last)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%3.0f %%  %6.1f Mbit/s ", 100*float64(have)/float64(total), mean(t.GoodputMbit))
	for _, name := range carriers {
		if w := t.payload(name); w != nil {
			fmt.Fprintf(&b, "  %s %5.1f", name, mean(w.Link.Mbit))
		}
	}
	return b.String()
}

func largest(shares map[string]float64) string {
	best := carriers[0]
	for _, name := range carriers {
		if shares[name] > shares[best] {
			best = name
		}
	}
	return best
}

func (d *demo) table() error {
	fmt.Fprintln(d.out)
	t := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "transfer\tmoved\ttime\tgoodput\tlongest stall\twire/payload\tSHA-256\tall of it")
	for _, l := range d.report.Legs {
		sum, all := "correct", spanText(seconds(l.Seconds))
		if !l.SHA256OK {
			sum = "WRONG"
		}
		switch {
		case l.Error != "":
			all = "failed"
		case l.WouldTake > 0:
			all = "would take " + spanText(seconds(l.WouldTake))
		}
		fmt.Fprintf(t, "%s\t%.1f MB\t%.1f s\t%s\t%.0f ms\t%.3f\t%s\t%s\n",
			l.Title, float64(l.Bytes)/1e6, l.Seconds, rateText(l.Goodput), l.StallMSMax, l.WireOverhead, sum, all)
	}
	return t.Flush()
}
