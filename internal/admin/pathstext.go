package admin

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// PathsView turns one Paths after the other into a table that shows how they went. The zero value is ready. Not safe for
// concurrent use.
type PathsView struct {
	now     Paths
	history map[[2]string]*pathHistory // by peer and path
}

// keptSamples bounds a path's history: no terminal shows more.
const keptSamples = 60

// pathHistory holds the latest samples of a path; NaN where it did not answer.
type pathHistory struct {
	rtt, loss, rate []float64
	capacity        float64
}

func keep(s []float64, v float64) []float64 {
	if len(s) == keptSamples {
		s = slices.Delete(s, 0, 1)
	}
	return append(s, v)
}

// Add takes the next snapshot. Paths that are gone are forgotten.
func (v *PathsView) Add(p Paths) {
	v.now = p.finite()
	old := v.history
	v.history = make(map[[2]string]*pathHistory)
	for i := range p.Peers {
		for j := range p.Peers[i].Paths {
			q, key := &p.Peers[i].Paths[j], [2]string{p.Peers[i].Name, p.Peers[i].Paths[j].Name}
			h := old[key]
			if h == nil {
				h = new(pathHistory)
			}
			rtt, loss, rate := q.RTT.Recent, max(q.Out.LossNow, q.Back.LossNow), q.RateMbit
			if q.State == PathDown || q.RTT.Median == 0 {
				rtt, loss, rate = math.NaN(), math.NaN(), math.NaN()
			}
			h.rtt, h.loss, h.rate = keep(h.rtt, rtt), keep(h.loss, loss), keep(h.rate, rate)
			h.capacity = q.CapacityMbit
			v.history[key] = h
		}
	}
}

// Blocks and Plain are the marks of sparklines, least first, for terminals that show Unicode and for others.
var (
	Blocks = []rune("▁▂▃▄▅▆▇█")
	Plain  = []rune("_.-=+*%#")
)

const (
	// minSpark is the narrowest sparkline worth showing.
	minSpark = 8
	// defaultSpark is for output that is no terminal.
	defaultSpark = 20
	// sparkGap is what a sparkline's column is wider than the line.
	sparkGap = 4
	// The least spans of sparklines: noise is not to look like a drama.
	minSpanRTT  = 20   // ms
	minSpanLoss = 0.05 // 5 %
	minSpanRate = 1    // Mbit/s
)

// sparkline draws the last width samples between from and to; a space where there is none.
func sparkline(samples []float64, from, to float64, width int, marks []rune) string {
	if len(samples) > width {
		samples = samples[len(samples)-width:]
	}
	out := slices.Repeat([]rune{' '}, width-len(samples))
	for _, v := range samples {
		switch n := len(marks); {
		case math.IsNaN(v):
			out = append(out, ' ')
		case to <= from:
			out = append(out, marks[0])
		default:
			out = append(out, marks[min(max(int((v-from)/(to-from)*float64(n)), 0), n-1)])
		}
	}
	return string(out)
}

// span is the least and the most of the samples, at least so far apart.
func span(samples []float64, least float64) (from, to float64) {
	from, to = math.Inf(1), math.Inf(-1)
	for _, v := range samples {
		if !math.IsNaN(v) {
			from, to = min(from, v), max(to, v)
		}
	}
	return from, max(to, from+least)
}

func (h *pathHistory) sparks(width int, marks []rune) string {
	from, to := span(h.rtt, minSpanRTT)
	_, loss := span(h.loss, 0)
	_, rate := span(h.rate, 0)
	return "\t  " + sparkline(h.rtt, from, to, width, marks) +
		"\t  " + sparkline(h.loss, 0, max(loss, minSpanLoss), width, marks) +
		"\t  " + sparkline(h.rate, 0, max(rate, h.capacity, minSpanRate), width, marks)
}

// WriteText prints the paths as of the last Add. With marks, each path has sparklines of its round trip, of the loss of its
// worse direction and of its rate, as wide as columns leaves room for; lines are not longer than columns, 0 for no limit.
func (v *PathsView) WriteText(w io.Writer, columns int, marks []rune) error {
	var b strings.Builder
	p := &v.now
	fmt.Fprintf(&b, "%s %s, %s\n", clean(p.Role), clean(p.Node), p.Taken.Format(time.DateTime))
	for i := range p.Peers {
		peer := &p.Peers[i]
		fmt.Fprintf(&b, "\n%s %s\n", clean(peer.Kind), clean(peer.Name))
		if len(peer.Paths) == 0 {
			b.WriteString("  no paths\n")
			continue
		}
		b.WriteString(v.fitted(peer, columns, marks))
		writeChoices(&b, peer, p.Taken, columns)
	}
	if len(p.Peers) == 0 {
		b.WriteString("\nno peers\n")
	}
	if text := verdictText(p.Verdicts); text != "" {
		b.WriteString("\n" + text)
	}
	for _, s := range p.Lost {
		fmt.Fprintf(&b, "missing: %s\n", clean(s))
	}
	for line := range strings.Lines(b.String()) {
		line = strings.TrimRight(line, " \n")
		if r := []rune(line); columns > 0 && len(r) > columns {
			line = string(r[:columns])
		}
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// fitted is the table with sparklines where there is room for them: rather than none at all, with fewer columns.
func (v *PathsView) fitted(peer *PeerPaths, columns int, marks []rune) string {
	text, wide := v.table(peer, 0, nil)
	if marks == nil {
		return text
	}
	if columns == 0 {
		full, _ := v.table(peer, defaultSpark, marks)
		return full
	}
	room := func(wide int) int { return min((columns-wide)/3-sparkGap, keptSamples) }
	if width := room(wide); width >= minSpark {
		text, _ = v.table(peer, width, marks)
		return text
	}
	_, wide = v.brief(peer, 0, marks)
	if width := room(wide); width >= minSpark {
		text, _ = v.brief(peer, width, marks)
	}
	return text
}

// brief is table with the columns that matter most. A width of 0 leaves the sparklines out, to measure.
func (v *PathsView) brief(peer *PeerPaths, width int, marks []rune) (string, int) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "path\tstate\trtt ms\tloss\tMbit/s%s\t\n", sparkHeader(width))
	for i := range peer.Paths {
		q := &peer.Paths[i]
		figures := "-\t-\t-"
		if q.RTT.Median != 0 {
			figures = fmt.Sprintf("%.1f\t%s\t%.1f", q.RTT.Median, percent(max(q.Out.LossNow, q.Back.LossNow)), q.RateMbit)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s%s\t\n", clean(q.Name), q.State, figures, v.sparks(peer, q, width, marks))
	}
	tw.Flush()
	return b.String(), headerWidth(b.String())
}

// sparkHeader is the headings of the sparklines' columns; sparks the columns.
func sparkHeader(width int) (names string) {
	if width == 0 {
		return ""
	}
	for _, name := range []string{"rtt", "loss", "rate"} {
		names += fmt.Sprintf("\t  %-*s", width, name)
	}
	return names
}

func (v *PathsView) sparks(peer *PeerPaths, q *PathEstimate, width int, marks []rune) string {
	h := v.history[[2]string{peer.Name, q.Name}]
	switch {
	case width == 0:
		return ""
	case h == nil:
		return strings.Repeat("\t", 3)
	}
	return h.sparks(width, marks)
}

func headerWidth(table string) int {
	header, _, _ := strings.Cut(table, "\n")
	return len(strings.TrimRight(header, " "))
}

// table prints a peer's paths, and says how wide it is without notes.
func (v *PathsView) table(peer *PeerPaths, width int, marks []rune) (string, int) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "path\tstate\trtt ms\tp95\tjitter\tloss out\tback\tburst\tMbit/s\tcapacity\theard%s\t\n", sparkHeader(width))
	for i := range peer.Paths {
		q := &peer.Paths[i]
		sparks := v.sparks(peer, q, width, marks)
		if q.RTT.Median == 0 {
			fmt.Fprintf(tw, "%s\t%s%s\t%s%s\t%s\n", clean(q.Name), q.State, strings.Repeat("\t-", 8), freshText(q.FreshMs), sparks, twoSpaces(q.Why))
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%.1f\t%.1f\t%.1f\t%s\t%s\t%.1f\t%.1f\t%s\t%s%s\t%s\n", clean(q.Name), q.State, q.RTT.Median, q.RTT.P95, q.RTT.Jitter,
			percent(q.Out.LossNow), percent(q.Back.LossNow), max(q.Out.Burst, q.Back.Burst), q.RateMbit, orDash(q.CapacityMbit), freshText(q.FreshMs), sparks, twoSpaces(q.Why))
	}
	tw.Flush()
	return b.String(), headerWidth(b.String())
}

func orDash(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v)
}

// freshText is how long ago a path was heard.
func freshText(ms float64) string {
	switch {
	case ms < 0:
		return "never"
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return age(time.Duration(ms * float64(time.Millisecond)))
}

// writeChoices prints where each class is, since when and why, and what it could take instead.
func writeChoices(b *strings.Builder, peer *PeerPaths, taken time.Time, columns int) {
	b.WriteByte('\n')
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i := range peer.Classes {
		c := &peer.Classes[i]
		if c.Path == "" {
			fmt.Fprintf(tw, "  %s\tno path answers\n", c.Class)
			continue
		}
		fmt.Fprintf(tw, "  %s\t%s\tfor %s\t%s\n", c.Class, clean(c.Path), age(taken.Sub(c.Since)), clean(candidates(c)))
	}
	tw.Flush()
	for i := range peer.Classes {
		if c := &peer.Classes[i]; c.Path != "" && (c.Why != "first" || c.Next != c.Path) {
			b.WriteString(wrapped("  "+c.Class+": "+clean(c.Reason), "    ", columns))
		}
	}
}

// wrapped breaks a line between words so that none is longer than columns, 0 for no limit; what follows is indented.
func wrapped(line, indent string, columns int) string {
	var b strings.Builder
	for columns > 2*len(indent) {
		r := []rune(line)
		if len(r) <= columns {
			break
		}
		cut := columns
		for i := columns; i > 2*len(indent); i-- {
			if r[i] == ' ' {
				cut = i
				break
			}
		}
		b.WriteString(string(r[:cut]) + "\n")
		line = indent + strings.TrimLeft(string(r[cut:]), " ")
	}
	return b.String() + line + "\n"
}

// rateUnknown is said of a score that counts an assumed capacity.
const rateUnknown = "rate unknown"

// candidates are a class's paths with their scores, in the order they are used: "cu-cu R 90.0, ct-ct R 41.0 (brownout)".
func candidates(c *ClassChoice) string {
	parts := make([]string, len(c.Candidates))
	for i, x := range c.Candidates {
		parts[i] = x.Path + " " + scored(x.Score, c.Unit)
		var notes []string
		if x.State != PathUp {
			notes = append(notes, x.State)
		}
		if x.Assumed {
			notes = append(notes, rateUnknown)
		}
		if notes != nil {
			parts[i] += " (" + strings.Join(notes, ", ") + ")"
		}
	}
	return strings.Join(parts, ", ")
}

func scored(v float64, unit string) string {
	if unit == "R" {
		return fmt.Sprintf("R %.1f", v)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// verdictText is one line a program, with what it counted, most first.
func verdictText(all map[string]map[string]uint64) string {
	var b strings.Builder
	for _, program := range sortedKeys(all) {
		counts := all[program]
		names := slices.DeleteFunc(sortedKeys(counts), func(n string) bool { return counts[n] == 0 })
		slices.SortStableFunc(names, func(x, y string) int {
			switch {
			case counts[x] > counts[y]:
				return -1
			case counts[x] < counts[y]:
				return 1
			}
			return 0
		})
		for i, n := range names {
			names[i] = fmt.Sprintf("%s %d", clean(n), counts[n])
		}
		if len(names) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", clean(program), strings.Join(names, ", "))
		}
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func twoSpaces(why string) string {
	if why == "" {
		return ""
	}
	return "  " + clean(why)
}
