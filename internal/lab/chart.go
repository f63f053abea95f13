package lab

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// chart is a plot over time, drawn as inline SVG. Colours come from the page's style sheet by class, so that one
// drawing serves light and dark. A value that is NaN or infinite is a gap.
type chart struct {
	label  string   // for those who cannot see it
	unit   string   // of y
	areas  []series // on top of each other
	lines  []series // over the areas
	bands  []Mark
	strips []strip // under the plot
	limit  float64 // a dashed line across; 0: none
	note   string  // beside it
	xMax   float64 // seconds; 0: the longest series
	yMost  float64 // the axis ends here and what is above is cut off; 0: it holds everything
	low    bool    // one of several above each other
}

type series struct {
	name, class string
	x, y        []float64
}

// strip is a row of coloured intervals.
type strip struct {
	name  string
	spans []span
}

type span struct {
	from, to    float64
	class, word string
}

// chartSize is a drawing's size in CSS pixels: text is drawn at its real size, so that a phone gets a drawing of its own
// instead of a shrunken one.
type chartSize struct {
	class              string
	width, height, low float64
	xTicks             int
}

var chartSizes = []chartSize{
	{"wide", 880, 270, 176, 10},
	{"narrow", 360, 240, 176, 5},
}

const (
	marginLeft, marginRight = 52.0, 10.0
	marginTop, marginBottom = 24.0, 26.0
	stripHeight, stripGap   = 8.0, 4.0
	// letterWidth is a letter's mean width at the size of the drawings' text.
	letterWidth = 6.4
)

// draw returns the chart in all sizes; the style sheet shows one.
func (c *chart) draw() template.HTML {
	var b strings.Builder
	for _, s := range chartSizes {
		c.drawSize(&b, s)
	}
	return template.HTML(b.String())
}

// plane maps values to pixels.
type plane struct {
	width, height float64 // of the drawing
	bottom        float64 // y of the time axis
	xMax, yTop    float64
}

func (p *plane) x(v float64) float64 {
	return marginLeft + min(max(v/p.xMax, 0), 1)*(p.width-marginLeft-marginRight)
}

func (p *plane) y(v float64) float64 {
	return p.bottom - min(max(v/p.yTop, 0), 1)*(p.bottom-marginTop)
}

// points is how many a line may have before the eye cannot tell them apart.
func (p *plane) points() int { return int(2 * (p.width - marginLeft - marginRight)) }

func (c *chart) drawSize(b *strings.Builder, size chartSize) {
	p := plane{width: size.width, height: size.height}
	if c.low {
		p.height = size.low
	}
	strips := float64(len(c.strips)) * (stripHeight + stripGap)
	p.height += strips
	p.bottom = p.height - marginBottom - strips
	layers := stack(c.areas)
	xMax, yMax := c.extent(layers)
	xStep, yStep := niceStep(xMax, size.xTicks), niceStep(yMax, 5)
	if c.low {
		yStep = niceStep(yMax, 4)
	}
	if p.xMax = xMax; xMax <= 0 {
		p.xMax = xStep
	}
	p.yTop = max(yStep, math.Ceil(yMax/yStep-1e-9)*yStep)

	fmt.Fprintf(b, `<svg class="chart %s" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-label="%s">`,
		size.class, p.width, p.height, p.width, p.height, html.EscapeString(c.label))
	for _, m := range c.bands {
		if x0, x1 := p.x(m.From), p.x(m.To); m.From < p.xMax {
			fmt.Fprintf(b, `<rect class="band" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x0, marginTop, max(x1-x0, 1), p.bottom-marginTop)
		}
	}
	fmt.Fprintf(b, `<text class="tick" x="0" y="12">%s</text>`, html.EscapeString(c.unit))
	for i := range int(math.Round(p.yTop/yStep)) + 1 {
		y, class := float64(i)*yStep, "grid"
		if i == 0 {
			class = "axis"
		}
		fmt.Fprintf(b, `<path class="%s" d="M%.1f %.1fH%.1f"/><text class="tick" x="%.1f" y="%.1f" text-anchor="end">%g</text>`,
			class, marginLeft, p.y(y), p.width-marginRight, marginLeft-8, p.y(y)+4, round(y, 4))
	}
	for i := range int(p.xMax/xStep+1e-9) + 1 {
		x := float64(i) * xStep
		word, anchor := fmt.Sprintf("%g", round(x, 4)), "middle"
		if i == 0 {
			word += " s"
		}
		if p.x(x) > p.width-2*marginRight {
			anchor, x = "end", p.xMax
		}
		fmt.Fprintf(b, `<path class="axis" d="M%.1f %.1fv4"/><text class="tick" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`,
			p.x(float64(i)*xStep), p.bottom, p.x(x), p.height-8, anchor, word)
	}
	for i, l := range layers {
		s := c.areas[i]
		fmt.Fprintf(b, `<path class="area %s" d="%s"><title>%s</title></path>`, s.class, p.area(s.x, l.bottom, l.top), html.EscapeString(s.name))
	}
	for _, s := range c.lines {
		fmt.Fprintf(b, `<path class="line %s" d="%s"><title>%s</title></path>`, s.class, p.line(s.x, s.y), html.EscapeString(s.name))
	}
	if c.limit > 0 && c.limit <= p.yTop {
		y := p.y(c.limit) - 5
		if y < marginTop {
			y += 18
		}
		fmt.Fprintf(b, `<path class="limit" d="M%.1f %.1fH%.1f"/><text class="note" x="%.1f" y="%.1f" text-anchor="end">%s</text>`,
			marginLeft, p.y(c.limit), p.width-marginRight, p.width-marginRight-4, y, html.EscapeString(c.note))
	}
	c.drawBandNames(b, &p)
	for i, s := range c.strips {
		y := p.bottom + 6 + float64(i)*(stripHeight+stripGap)
		fmt.Fprintf(b, `<text class="tick small" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, marginLeft-8, y+stripHeight-0.5, html.EscapeString(s.name))
		for _, v := range s.spans {
			if v.from < p.xMax {
				fmt.Fprintf(b, `<rect class="strip %s" x="%.1f" y="%.1f" width="%.1f" height="%g"><title>%s, %.1f to %.1f s</title></rect>`,
					v.class, p.x(v.from), y, max(p.x(v.to)-p.x(v.from), 0.5), stripHeight, html.EscapeString(v.word), v.from, v.to)
			}
		}
	}
	b.WriteString(`</svg>`)
}

// drawBandNames writes each band's name above it when it is wide enough for the words, otherwise beside that, unless
// it would run into the name before.
func (c *chart) drawBandNames(b *strings.Builder, p *plane) {
	free := marginLeft
	for _, m := range c.bands {
		if m.From >= p.xMax {
			continue
		}
		x0, x1 := p.x(m.From), p.x(m.To)
		need := letterWidth * float64(len(m.Label))
		left := (x0 + x1 - need) / 2
		if x1-x0 < need {
			if left = x0 - 4 - need; left < free {
				left = x1 + 4
			}
		}
		if left < free || left+need > p.width {
			continue
		}
		free = left + need + letterWidth
		fmt.Fprintf(b, `<text class="note" x="%.1f" y="%.1f">%s</text>`, left, 12.0, html.EscapeString(m.Label))
	}
}

// extent is the end of both axes.
func (c *chart) extent(layers []layer) (xMax, yMax float64) {
	xMax, yMax = c.xMax, c.limit
	for _, s := range append(append([]series(nil), c.areas...), c.lines...) {
		if n := len(s.x); n > 0 && c.xMax == 0 && finite(s.x[n-1]) {
			xMax = max(xMax, s.x[n-1])
		}
	}
	grow := func(vs []float64) {
		for _, v := range vs {
			if finite(v) {
				yMax = max(yMax, v)
			}
		}
	}
	for _, l := range layers {
		grow(l.top)
	}
	for _, s := range c.lines {
		grow(s.y)
	}
	if c.yMost > 0 {
		yMax = min(yMax, c.yMost)
	}
	return xMax, yMax
}

// layer is an area as drawn: between bottom and top.
type layer struct{ bottom, top []float64 }

// stack puts areas on top of each other; in a gap they have no height.
func stack(areas []series) []layer {
	out := make([]layer, len(areas))
	var base []float64
	for i, s := range areas {
		n := min(len(s.x), len(s.y))
		l := layer{bottom: make([]float64, n), top: make([]float64, n)}
		for j := range n {
			if j < len(base) {
				l.bottom[j] = base[j]
			}
			l.top[j] = l.bottom[j]
			if finite(s.y[j]) {
				l.top[j] += s.y[j]
			}
		}
		base = l.top
		out[i] = l
	}
	return out
}

// line is the path through the points; one that stands alone becomes a dot.
func (p *plane) line(x, y []float64) string {
	n := min(len(x), len(y))
	x, y = envelope(x[:n], y[:n], p.points())
	var b strings.Builder
	pen := false
	for i := range y {
		if !finite(x[i]) || !finite(y[i]) {
			pen = false
			continue
		}
		op := byte('L')
		if !pen {
			op = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", op, p.x(x[i]), p.y(y[i]))
		if !pen && (i+1 == len(y) || !finite(y[i+1]) || !finite(x[i+1])) {
			b.WriteString("h0")
		}
		pen = true
	}
	return b.String()
}

func (p *plane) area(x, bottom, top []float64) string {
	if len(top) == 0 {
		return ""
	}
	x = x[:len(top)]
	if k := (len(top) + p.points() - 1) / p.points(); k > 1 {
		x, bottom, top = means(x, k), means(bottom, k), means(top, k)
	}
	var b strings.Builder
	for i := range top {
		if finite(x[i]) {
			fmt.Fprintf(&b, "L%.1f %.1f", p.x(x[i]), p.y(top[i]))
		}
	}
	for i := len(bottom) - 1; i >= 0; i-- {
		if finite(x[i]) {
			fmt.Fprintf(&b, "L%.1f %.1f", p.x(x[i]), p.y(bottom[i]))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "M" + b.String()[1:] + "Z"
}

// envelope thins a line to about n points: of every bucket the least and the most, in their order, so that no peak goes
// missing.
func envelope(x, y []float64, n int) (ex, ey []float64) {
	k := (2*len(y) + n - 1) / max(n, 1)
	if k <= 2 {
		return x, y
	}
	for i := 0; i < len(y); i += k {
		lo, hi := i, i
		for j := i; j < min(i+k, len(y)); j++ {
			if !finite(y[lo]) || y[j] < y[lo] {
				lo = j
			}
			if !finite(y[hi]) || y[j] > y[hi] {
				hi = j
			}
		}
		ex, ey = append(ex, x[min(lo, hi)]), append(ey, y[min(lo, hi)])
		if lo != hi {
			ex, ey = append(ex, x[max(lo, hi)]), append(ey, y[max(lo, hi)])
		}
	}
	return ex, ey
}

// means are the mean values of every k.
func means(v []float64, k int) []float64 {
	var out []float64
	for i := 0; i < len(v); i += k {
		part, sum := v[i:min(i+k, len(v))], 0.0
		for _, x := range part {
			sum += x
		}
		out = append(out, sum/float64(len(part)))
	}
	return out
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

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
// Gaps stay gaps.
func smooth(y []float64, width int) []float64 { return ratio(y, nil, width) }

// ratio is the centred moving sum of y over that of by, or over the number of samples when by is nil. It is unknown
// where y is, and where there is nothing to divide by.
func ratio(y, by []float64, width int) []float64 {
	out := make([]float64, len(y))
	for i := range y {
		sum, over := 0.0, 0.0
		for j := max(0, i-width/2); j < min(len(y), i+width/2+1); j++ {
			d := 1.0
			if by != nil {
				d = math.NaN()
				if j < len(by) {
					d = by[j]
				}
			}
			if finite(y[j]) && finite(d) {
				sum, over = sum+y[j], over+d
			}
		}
		out[i] = math.NaN()
		if finite(y[i]) && over > 0 {
			out[i] = sum / over
		}
	}
	return out
}
