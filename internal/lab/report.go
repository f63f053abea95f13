package lab

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Report is what the demo found: demo/report.json as it stands, and the source of the report page.
type Report struct {
	Made     time.Time `json:"made"`
	Kernel   string    `json:"kernel"`
	CPUs     int       `json:"cpus"`
	Go       string    `json:"go"`
	Network  string    `json:"network"` // "kernel" (network namespaces) or "memory"
	Lacks    string    `json:"lacks,omitempty"`
	Scenario string    `json:"scenario"`
	Seed     uint64    `json:"seed"`
	// LimitMbit is what loss-free TCP could carry over all carriers in what the loss leaves.
	LimitMbit float64       `json:"limit_mbit"`
	Links     []LinkSummary `json:"links"`
	Payloads  []Payload     `json:"payloads"`
	Legs      []Leg         `json:"legs"`
	Seconds   float64       `json:"seconds"` // the whole demo
}

// LinkSummary is one border link in words.
type LinkSummary struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Payload is one thing the demo moves.
type Payload struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Leg is one transfer of the demo.
type Leg struct {
	Title   string `json:"title"`
	Via     string `json:"via"`
	Payload string `json:"payload"`
	// Carriers that carried it; for a direct leg, one.
	Carriers []string `json:"carriers"`
	Total    int64    `json:"total_bytes"`
	Bytes    int64    `json:"bytes"` // moved; less than Total when the leg was cut off by time
	Seconds  float64  `json:"seconds"`
	Complete bool     `json:"complete"`
	SHA256OK bool     `json:"sha256_ok"` // over Bytes
	Goodput  float64  `json:"goodput_mbit"`
	// WouldTake is how long all of it would have taken at this rate, where it was cut off.
	WouldTake    float64            `json:"would_take_seconds,omitempty"`
	StallMSMax   float64            `json:"stall_ms_max"`
	WireOverhead float64            `json:"wire_overhead,omitempty"`
	Shares       map[string]float64 `json:"shares,omitempty"`
	Dark         string             `json:"dark,omitempty"` // the carrier that was switched off on the way
	Error        string             `json:"error,omitempty"`
	Trace        *Trace             `json:"trace"`
}

// Failed says why the demo counts as failed, or nothing.
func (r *Report) Failed() string {
	for _, l := range r.Legs {
		switch {
		case l.Error != "":
			return l.Title + ": " + l.Error
		case !l.SHA256OK:
			return l.Title + ": what arrived differs from what was sent"
		case !l.Complete && l.Via == ViaLandbridge:
			return l.Title + ": did not finish"
		}
	}
	return ""
}

// leg returns the first leg that want accepts.
func (r *Report) leg(want func(*Leg) bool) *Leg {
	for i := range r.Legs {
		if want(&r.Legs[i]) {
			return &r.Legs[i]
		}
	}
	return nil
}

// WriteFiles writes report.json and report.html into dir, creating it.
func (r *Report) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report directory: %w", err)
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return writePage(filepath.Join(dir, "report.html"), func(w io.Writer) error { return WritePage(w, r) })
}

//go:embed report.html.tmpl
var reportText string

var reportTemplate = newPage(reportText)

// page is what the template sees.
type page struct {
	*Report
	Headline, Sentence string
	Tiles              []tile
	Sections           []section
	Failure            string
}

// WritePage draws the report as a page.
func WritePage(w io.Writer, r *Report) error {
	p := page{Report: r, Failure: r.Failed()}
	p.words()
	p.charts()
	return reportTemplate.Execute(w, &p)
}

// ViaDirect is a leg's Via outside Landbridge: the kernel's TCP, or plain QUIC where the network is in memory.
const ViaDirect = "direct"

func isDirect(l *Leg) bool { return l.Via == ViaDirect }
func isClean(l *Leg) bool  { return l.Via == ViaLandbridge && l.Dark == "" }
func isDark(l *Leg) bool   { return l.Via == ViaLandbridge && l.Dark != "" }

func (p *page) words() {
	direct, through, dark := p.leg(isDirect), p.leg(isClean), p.leg(isDark)
	p.Headline = "The Go source tree across a bad border"
	if direct == nil || through == nil {
		return
	}
	times := 0.0
	if direct.Goodput > 0 {
		times = through.Goodput / direct.Goodput
	}
	p.Tiles = append(p.Tiles,
		tile{rateNumber(direct.Goodput), "Mbit/s", "directly over " + strings.Join(direct.Carriers, " + "), "direct"},
		tile{rateNumber(through.Goodput), "Mbit/s", "through Landbridge", "through"})
	if times > 0 {
		p.Tiles = append(p.Tiles, tile{rateNumber(times), "times", "as fast", ""})
	}
	switch {
	case !through.Complete:
		p.Sentence = fmt.Sprintf("Of an archive of %.0f MB, %.1f MB arrived through Landbridge in %s.",
			float64(through.Total)/1e6, float64(through.Bytes)/1e6, spanText(seconds(through.Seconds)))
	case direct.WouldTake > 0:
		p.Sentence = fmt.Sprintf("An archive of %.0f MB that would take %s directly took %s through Landbridge.",
			float64(through.Total)/1e6, spanText(seconds(direct.WouldTake)), spanText(seconds(through.Seconds)))
	default:
		p.Sentence = fmt.Sprintf("An archive of %.0f MB took %s directly and %s through Landbridge.",
			float64(through.Total)/1e6, spanText(seconds(direct.Seconds)), spanText(seconds(through.Seconds)))
	}
	if dark != nil {
		p.Tiles = append(p.Tiles, tile{fmt.Sprintf("%.0f", dark.StallMSMax), "ms", "longest stall with " + dark.Dark + " dark", ""})
	}
}

// extent says how far a transfer came.
func extent(l *Leg) string {
	switch {
	case l.Error != "":
		return fmt.Sprintf("failed after %s with %.1f of %.0f MB", spanText(seconds(l.Seconds)), float64(l.Bytes)/1e6, float64(l.Total)/1e6)
	case !l.Complete:
		return fmt.Sprintf("cut off after %s with %.1f of %.0f MB", spanText(seconds(l.Seconds)), float64(l.Bytes)/1e6, float64(l.Total)/1e6)
	case !l.SHA256OK:
		return "complete after " + spanText(seconds(l.Seconds)) + ", but not what was sent"
	}
	return "complete after " + spanText(seconds(l.Seconds)) + ", with the right SHA-256"
}

func (p *page) charts() {
	direct, through, dark := p.leg(isDirect), p.leg(isClean), p.leg(isDark)
	if direct != nil && through != nil && direct.Trace != nil && through.Trace != nil {
		p.Sections = append(p.Sections, single("Goodput",
			"Payload as it reaches the client, gzip archive. Directly: "+extent(direct)+"; through Landbridge: "+extent(through)+".",
			&chart{
				label: "Goodput over time, directly and through Landbridge", unit: "Mbit/s",
				limit: p.LimitMbit, note: fmt.Sprintf("limit %.0f", p.LimitMbit),
				lines: []series{
					{"through Landbridge", "through", through.Trace.Seconds, smooth(through.Trace.GoodputMbit, 3)},
					{"directly over " + strings.Join(direct.Carriers, " + "), "direct", direct.Trace.Seconds, smooth(direct.Trace.GoodputMbit, 3)},
				},
			}))
	}
	if through != nil && through.Trace != nil {
		p.Sections = append(p.Sections, single("Each carrier's share, on the wire",
			"The same run: Ethernet bytes each carrier delivered towards the client, repair included, and the payload that came out.",
			shareChart(through.Trace)))
	}
	if dark != nil && dark.Trace != nil {
		p.Sections = append(p.Sections, single("The same with "+dark.Dark+" going dark",
			fmt.Sprintf("Carrier %s delivers nothing in the shaded interval. The transfer: %s; the longest time without new payload was %.0f ms.",
				dark.Dark, extent(dark), dark.StallMSMax),
			shareChart(dark.Trace)))
	}
}
