package lab

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// chart is a plot over time, drawn as inline SVG. Colours come from the page's style sheet by class, so that one
// drawing serves light and dark.
type chart struct {
	label   string // for those who cannot see it
	series  []series
	stacked bool    // areas on top of each other instead of lines
	overlay *series // a line over the areas
	bands   []Mark
	limit   float64 // a dashed line across; 0: none
	xMax    float64 // seconds; 0: the longest series
}

type series struct {
	name, class string
	x, y        []float64
}

// chartSize is a drawing's size in CSS pixels: text is drawn at its real size, so that a phone gets a drawing of its own
// instead of a shrunken one.
type chartSize struct {
	class         string
	width, height float64
	xTicks        int
}

var chartSizes = []chartSize{
	{"wide", 880, 260, 10},
	{"narrow", 360, 230, 5},
}

const (
	marginLeft, marginRight = 44.0, 12.0
	marginTop, marginBottom = 14.0, 30.0
)

// draw returns the chart in all sizes; the style sheet shows one.
func (c *chart) draw() template.HTML {
	var b strings.Builder
	for _, s := range chartSizes {
		c.drawSize(&b, s)
	}
	return template.HTML(b.String())
}

func (c *chart) drawSize(b *strings.Builder, size chartSize) {
	xMax, yMax := c.xMax, c.limit
	for _, s := range c.series {
		if n := len(s.x); n > 0 && c.xMax == 0 {
			xMax = max(xMax, s.x[n-1])
		}
	}
	layers := c.layers()
	for _, l := range layers {
		for _, v := range l.top {
			yMax = max(yMax, v)
		}
	}
	if c.overlay != nil {
		for _, v := range c.overlay.y {
			yMax = max(yMax, v)
		}
	}
	xStep, yStep := niceStep(xMax, size.xTicks), niceStep(yMax, 5)
	if xMax <= 0 {
		xMax = xStep
	}
	yTop := max(yStep, math.Ceil(yMax/yStep-1e-9)*yStep)
	px := func(x float64) float64 {
		return marginLeft + min(max(x/xMax, 0), 1)*(size.width-marginLeft-marginRight)
	}
	py := func(y float64) float64 {
		return size.height - marginBottom - min(max(y/yTop, 0), 1)*(size.height-marginTop-marginBottom)
	}

	fmt.Fprintf(b, `<svg class="chart %s" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-label="%s">`,
		size.class, size.width, size.height, size.width, size.height, html.EscapeString(c.label))
	for _, m := range c.bands {
		x0, x1 := px(m.From), px(m.To)
		fmt.Fprintf(b, `<rect class="band" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x0, marginTop, max(x1-x0, 1), py(0)-marginTop)
	}
	for y := 0.0; y <= yTop+yStep/2; y += yStep {
		fmt.Fprintf(b, `<path class="grid" d="M%.1f %.1fH%.1f"/><text class="tick" x="%.1f" y="%.1f" text-anchor="end">%g</text>`,
			marginLeft, py(y), size.width-marginRight, marginLeft-8, py(y)+4, round(y, 3))
	}
	for x := 0.0; x <= xMax+1e-9; x += xStep {
		unit := ""
		if x == 0 {
			unit = " s"
		}
		fmt.Fprintf(b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="middle">%g%s</text>`, px(x), size.height-marginBottom+18, round(x, 3), unit)
	}
	for i, l := range layers {
		s := c.series[i]
		if len(l.top) == 0 {
			continue
		}
		if c.stacked {
			fmt.Fprintf(b, `<path class="area %s" d="%s"/>`, s.class, areaPath(s.x, l.bottom, l.top, px, py))
		} else {
			fmt.Fprintf(b, `<path class="line %s" d="%s"/>`, s.class, linePath(s.x, l.top, px, py))
		}
	}
	if o := c.overlay; o != nil && len(o.y) > 0 {
		fmt.Fprintf(b, `<path class="line %s" d="%s"/>`, o.class, linePath(o.x, o.y, px, py))
	}
	if c.limit > 0 {
		fmt.Fprintf(b, `<path class="limit" d="M%.1f %.1fH%.1f"/><text class="note" x="%.1f" y="%.1f" text-anchor="end">limit %.0f</text>`,
			marginLeft, py(c.limit), size.width-marginRight, size.width-marginRight-4, py(c.limit)-5, c.limit)
	}
	for _, m := range c.bands {
		// Inside the band when it is wide enough for the words, otherwise beside it.
		x, anchor := (px(m.From)+px(m.To))/2, "middle"
		if need := 6.5 * float64(len(m.Label)); px(m.To)-px(m.From) < need {
			x, anchor = px(m.From)-4, "end"
			if x-need < marginLeft {
				x, anchor = px(m.To)+4, "start"
			}
		}
		fmt.Fprintf(b, `<text class="note" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, marginTop+12, anchor, html.EscapeString(m.Label))
	}
	b.WriteString(`</svg>`)
}

// layer is a series as drawn: between bottom and top.
type layer struct{ bottom, top []float64 }

func (c *chart) layers() []layer {
	out := make([]layer, len(c.series))
	var base []float64
	for i, s := range c.series {
		n := min(len(s.x), len(s.y))
		l := layer{bottom: make([]float64, n), top: make([]float64, n)}
		for j := range n {
			if c.stacked && j < len(base) {
				l.bottom[j] = base[j]
			}
			l.top[j] = l.bottom[j] + s.y[j]
		}
		if c.stacked {
			base = l.top
		}
		out[i] = l
	}
	return out
}

func linePath(x, y []float64, px, py func(float64) float64) string {
	var b strings.Builder
	for i := range y {
		op := 'L'
		if i == 0 {
			op = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", op, px(x[i]), py(y[i]))
	}
	return b.String()
}

func areaPath(x, bottom, top []float64, px, py func(float64) float64) string {
	var b strings.Builder
	b.WriteString(linePath(x[:len(top)], top, px, py))
	for i := len(bottom) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "L%.1f %.1f", px(x[i]), py(bottom[i]))
	}
	b.WriteByte('Z')
	return b.String()
}

// niceStep is the distance of about n ticks up to limit: 1, 2 or 5 times a power of ten.
func niceStep(limit float64, n int) float64 {
	if limit <= 0 || n <= 0 {
		return 1
	}
	raw := limit / float64(n)
	p := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*p*(1+1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// smooth is the centred moving average over width samples; the plots use it where 100 ms is finer than the eye needs.
func smooth(y []float64, width int) []float64 {
	out := make([]float64, len(y))
	for i := range y {
		lo, hi := max(0, i-width/2), min(len(y), i+width/2+1)
		sum := 0.0
		for _, v := range y[lo:hi] {
			sum += v
		}
		out[i] = sum / float64(hi-lo)
	}
	return out
}
