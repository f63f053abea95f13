package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CompareOptions say what Compare measures: every way in every scenario, without an agent.
type CompareOptions struct {
	Name      string
	Scenarios []string      // nil: all of the benchmarks' table
	Vias      []string      // nil: ViaNames
	Carrier   string        // of the ways that take one, and of Landbridge once more over it alone; "" is ct
	Bulk      time.Duration // how long the bulk flow runs: slow starts are part of it
	Objects   time.Duration // how long objects are asked for
	Seed      uint64
	Programs  string // as in Options
	Dir       string // of peers.json and peers.md; reasons for missing tools are read from missing.txt there
}

// The files of a comparison.
const (
	compareJSON     = "peers.json"
	compareMarkdown = "peers.md"
	// missingFile is what "make peers" could not install: lines of program, tab, reason.
	missingFile = "missing.txt"
)

// Comparison is the ways across the border side by side.
type Comparison struct {
	Made    time.Time       `json:"made"`
	Kernel  string          `json:"kernel"`
	Go      string          `json:"go"`
	CPUs    int             `json:"cpus"`
	Bulk    float64         `json:"bulk_seconds"`
	Objects float64         `json:"objects_seconds"`
	Seed    uint64          `json:"seed"`
	Rows    []ComparisonRow `json:"rows"`
}

// ComparisonRow is one way in one scenario: with results, or with the reason why there are none.
type ComparisonRow struct {
	Scenario string   `json:"scenario"`
	Via      string   `json:"via"`
	Title    string   `json:"title"`
	Carriers []string `json:"carriers"`
	Missing  string   `json:"missing,omitempty"` // what the machine lacks for it
	Errors   []string `json:"errors,omitempty"`
	Bulk     *Result  `json:"bulk,omitempty"`
	Objects  *Result  `json:"objects,omitempty"`
}

// plan is the rows to be filled.
func (o *CompareOptions) plan() ([]ComparisonRow, error) {
	if o.Carrier == "" {
		o.Carrier = carriers[0]
	}
	for _, d := range []time.Duration{o.Bulk, o.Objects} {
		if d <= 0 || d > maxWindow {
			return nil, fmt.Errorf("%w: %v, want more than 0 s and at most %v", ErrOptions, d, maxWindow)
		}
	}
	if !slices.Contains(carriers, o.Carrier) {
		return nil, fmt.Errorf("%w: carrier %q, want one of %s", ErrOptions, o.Carrier, strings.Join(carriers, ", "))
	}
	if len(o.Scenarios) == 0 {
		o.Scenarios = []string{"clean", "typical", "heavy", "skewed", "outage"}
	}
	if len(o.Vias) == 0 {
		o.Vias = ViaNames()
	}
	var rows []ComparisonRow
	for _, s := range o.Scenarios {
		if _, err := scenarioLinks(s); err != nil {
			return nil, err
		}
		for _, name := range o.Vias {
			w, err := wayNamed(name)
			if err != nil {
				return nil, err
			}
			row := ComparisonRow{Scenario: s, Via: name, Title: w.title, Carriers: []string{o.Carrier}}
			if w.all {
				all := row
				all.Carriers = slices.Clone(carriers)
				rows = append(rows, all)
			}
			if !w.all || name == ViaLandbridge {
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// fail notes why a row has no result.
func (r *ComparisonRow) fail(err error, missing map[string]string) {
	if !errors.Is(err, ErrMissing) {
		r.Errors = append(r.Errors, err.Error())
		return
	}
	r.Missing = err.Error()
	for name, reason := range missing {
		if strings.HasPrefix(r.Missing, name+":") {
			r.Missing += " (" + reason + ")"
		}
	}
}

// readMissing reads the reasons that the installation left, if any.
func readMissing(dir string) map[string]string {
	b, err := os.ReadFile(filepath.Join(dir, missingFile))
	if err != nil {
		return nil
	}
	out := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			out[name] = reason
		}
	}
	return out
}

// WriteMarkdown writes the table.
func (c *Comparison) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Ways across the border, side by side\n\n%s, %s, %d CPUs, %s; seed %d; no agent. One bulk flow of incompressible payload from its start, %.0f s;\n"+
		"objects of 32 KB on a warm connection, p50/p90/p99, %.0f s. \"of limit\" is of what the carriers in use could carry, \"second half\" the same without the run's first half.\n\n",
		c.Made.UTC().Format("2 January 2006"), c.Kernel, c.CPUs, c.Go, c.Seed, c.Bulk, c.Objects)
	b.WriteString("| scenario | way | over | Mbit/s | of limit | second half | wire/payload | longest stall ms | object ms | notes |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range c.Rows {
		bulk, object := "| | | | ", ""
		notes := slices.Clone(r.Errors)
		if r.Missing != "" {
			notes = append(notes, "missing: "+r.Missing)
		}
		if r.Bulk != nil {
			b := r.Bulk
			settled := 0.0
			if b.LimitMbit > 0 {
				settled = b.SecondHalfMbit / b.LimitMbit
			}
			bulk = fmt.Sprintf("%.1f | %.2f | %.2f | %.2f | %.0f", b.GoodputMbit, b.OfLimit, settled, b.WireOverhead, b.StallMSMax)
		}
		if r.Objects != nil && r.Objects.ObjectFigures != nil {
			object = fmt.Sprintf("%.0f/%.0f/%.0f", r.Objects.P50, r.Objects.P90, r.Objects.P99)
		}
		for _, res := range []*Result{r.Bulk, r.Objects} {
			if res != nil {
				notes = append(notes, res.Errors...)
				notes = append(notes, res.Warnings...)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Scenario, r.Title, strings.Join(r.Carriers, "+"), bulk, object, cell(notes))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is notes as one cell of a table: lines and bars would end it.
func cell(notes []string) string {
	return strings.NewReplacer("\n", " ", "|", "/").Replace(strings.Join(notes, "; "))
}

// WriteFiles writes peers.json and peers.md into dir.
func (c *Comparison) WriteFiles(dir string) error {
	if err := writeReport(dir, compareJSON, compareMarkdown, c, c.WriteMarkdown); err != nil {
		return fmt.Errorf("comparison: %w", err)
	}
	return nil
}

// writeReport writes v as JSON and what markdown writes into dir, under these names.
func writeReport(dir, jsonName, markdownName string, v any, markdown func(io.Writer) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	var md bytes.Buffer
	if err := markdown(&md); err != nil {
		return err
	}
	for name, b := range map[string][]byte{jsonName: append(text, '\n'), markdownName: md.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
