package lab

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The demo's and the traces' pages share their style sheet, their frame and their charts: page.css, page.html.tmpl.
// A page is one file: no scripts, no external resources.

//go:embed page.css
var pageStyle string

//go:embed page.html.tmpl
var pageFrame string

// newPage parses a page's template beside the shared ones.
func newPage(text string) *template.Template {
	t := template.New("page").Funcs(template.FuncMap{
		"style":    func() template.CSS { return template.CSS(pageStyle) },
		"mb":       func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) },
		"span":     func(s float64) string { return spanText(seconds(s)) },
		"mbit":     rateText,
		"date":     func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
		"shares":   sharesText,
		"overhead": func(v float64) string { return fmt.Sprintf("%.3f", v) },
	})
	return template.Must(template.Must(t.Parse(pageFrame)).Parse(text))
}

// section is a card with charts over the same time, and their words.
type section struct {
	Title, Caption string
	Legend         []legendEntry
	Panels         []panel
}

// panel is one chart of a section; with a name where there are several.
type panel struct {
	Name, Class, Note string
	SVG               template.HTML
}

type legendEntry struct {
	Name, Class string
	Line        bool
}

type tile struct{ Value, Unit, Label, Class string }

// single is a section of one chart.
func single(title, caption string, c *chart) section {
	return section{Title: title, Caption: caption, Legend: c.legend(), Panels: []panel{{SVG: c.draw()}}}
}

func (c *chart) legend() []legendEntry {
	var out []legendEntry
	for _, s := range c.areas {
		out = append(out, legendEntry{Name: s.name, Class: s.class})
	}
	for _, s := range c.lines {
		out = append(out, legendEntry{s.name, s.class, true})
	}
	return out
}

// shareChart is what every carrier delivered towards the payload's receiver, and the payload that came out of it.
func shareChart(t *Trace) *chart {
	c := &chart{label: "Each carrier's share over time", unit: "Mbit/s", bands: t.Marks}
	for i, name := range t.carrierNames() {
		c.areas = append(c.areas, series{name, carrierClass(name, i), t.Seconds, smooth(t.payload(name).Link.Mbit, 3)})
	}
	c.lines = []series{{"payload", "payload", t.Seconds, smooth(t.GoodputMbit, 5)}}
	return c
}

// carrierClass is the class with a carrier's colour: the same on every chart and page.
func carrierClass(name string, i int) string {
	for _, c := range carriers {
		if c == name {
			return name
		}
	}
	return fmt.Sprintf("k%d", i%paletteSize)
}

// paletteSize is the number of colours k0, k1, ... in the style sheet.
const paletteSize = 6

// writePage writes a page to a file, creating its directory.
func writePage(path string, draw func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("report directory: %w", err)
	}
	var page strings.Builder
	if err := draw(&page); err != nil {
		return fmt.Errorf("draw the report page: %w", err)
	}
	if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil {
		return fmt.Errorf("write the report page: %w", err)
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// sharesText is "ct 33 %, cu 36 %, cm 31 %".
func sharesText(shares map[string]float64) string {
	var out []string
	for _, name := range carriers {
		if v, ok := shares[name]; ok {
			out = append(out, fmt.Sprintf("%s %.0f %%", name, 100*v))
		}
	}
	return strings.Join(out, ", ")
}

// spanText is a duration for people: "8.2 s", "3 min 20 s", "2 h 05 min".
func spanText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d min %02d s", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d h %02d min", d/time.Hour, d%time.Hour/time.Minute)
}

// rateNumber has two or three figures, which is what such measurements are good for.
func rateNumber(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

func rateText(v float64) string { return rateNumber(v) + " Mbit/s" }
