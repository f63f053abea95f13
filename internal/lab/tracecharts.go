package lab

import (
	"fmt"
	"slices"
	"strings"
)

// Most of a plot's axis, so that an outage does not press everything else to the ground.
const (
	mostLossPercent = 60
	mostDelayMS     = 250
)

// sections are a run's charts, all over the same time.
func (t *Trace) sections() []section {
	out := []section{t.goodput()}
	if rates := t.perCarrier("Rate of each path",
		"Strips: the path's state (up, suspect, down) and what its rate controller is doing. Bandwidth estimate and pacing count bytes sent; what the wire loses has used the link.",
		append([]legendEntry{
			{"delivered (emulator)", "ink pale", false}, {"bandwidth estimate", "ink", true}, {"pacing rate", "again thin", true}, {"link's rate", "soft dash", true},
		}, stripLegend...), t.ratePanel); len(rates.Panels) > 0 {
		out = append(out, rates)
	}
	if delays := t.perCarrier("One-way delay and queue",
		"The queue is the emulator's own, as it stands at each step; the delay over the base of the last 10 s, and the queue that the rate controller reads from it, are the sending gateway's.",
		[]legendEntry{{"queue (emulator)", "ink pale", false}, {"delay over base", "ink", true}, {"estimated queue", "again thin", true}}, t.delayPanel); len(delays.Panels) > 0 {
		out = append(out, delays)
	}
	if losses := t.perCarrier("FEC beside loss",
		fmt.Sprintf("Means over half a second, in percent of the packets sent. The axis ends at %d %%.", mostLossPercent),
		[]legendEntry{
			{"lost on the wire (emulator)", "ink pale", false}, {"loss the sender sees", "ink thin", true}, {"loss floor", "ink dot", true},
			{"FEC repairs", "fec", true}, {"sent again", "again", true},
		}, t.lossPanel); len(losses.Panels) > 0 {
		out = append(out, losses)
	}
	if w, ok := t.windows(); ok {
		out = append(out, w)
	}
	return append(out, t.back())
}

// end is when the trace ends, so that all its plots have one time axis.
func (t *Trace) end() float64 {
	if n := len(t.Seconds); n > 0 {
		return t.Seconds[n-1]
	}
	return 0
}

func (t *Trace) goodput() section {
	c := shareChart(t)
	c.xMax = t.end()
	if t.Result != nil && t.Result.LimitMbit > 0 {
		c.limit, c.note = t.Result.LimitMbit, fmt.Sprintf("limit %.0f", t.Result.LimitMbit)
	}
	where := "client"
	if t.Upload {
		where = "origin"
	}
	return single("Goodput, and each carrier's share",
		"Ethernet bytes each carrier delivered to the "+where+"'s side, repair included, and the payload that came out of them. The limit is what loss-free TCP could carry in what the loss leaves.", c)
}

// back is the other direction.
func (t *Trace) back() section {
	where := "origin"
	if t.Upload {
		where = "client"
	}
	c := &chart{label: "The other direction", unit: "Mbit/s", bands: t.Marks, xMax: t.end(), low: true}
	for i, name := range t.carrierNames() {
		_, w := t.Carriers[name].ways(t.Upload)
		c.areas = append(c.areas, series{name, carrierClass(name, i), t.Seconds, smooth(w.Link.Mbit, 3)})
	}
	return single("The other direction", "What each carrier delivered to the "+where+"'s side meanwhile: acknowledgements, reports and their repair.", c)
}

// perCarrier is a section with a panel for each carrier.
func (t *Trace) perCarrier(title, caption string, legend []legendEntry, draw func(name, class string) (*chart, string)) section {
	s := section{Title: title, Caption: caption, Legend: legend}
	for i, name := range t.carrierNames() {
		class := carrierClass(name, i)
		c, note := draw(name, class)
		c.label, c.xMax, c.low = title+", "+name, t.end(), true
		for _, m := range t.Marks {
			if m.Carrier == name || m.Carrier == "" {
				c.bands = append(c.bands, m)
			}
		}
		s.Panels = append(s.Panels, panel{Name: name, Class: class, Note: note, SVG: c.draw()})
	}
	return s
}

func (t *Trace) ratePanel(name, class string) (*chart, string) {
	w, c := t.payload(name), &chart{unit: "Mbit/s"}
	c.areas = []series{{"delivered", class + " pale", t.Seconds, smooth(w.Link.Mbit, 3)}}
	c.limit = t.Carriers[name].RateMbit
	note := fmt.Sprintf("mean %s delivered", rateText(mean(w.Link.Mbit)))
	if p := w.Path; p != nil {
		c.lines = []series{
			{"pacing rate", "again thin", t.Seconds, p.alive(p.PacingMbit)},
			{"bandwidth estimate", class, t.Seconds, p.alive(p.CapacityMbit)},
		}
		c.yMost = 1.5 * max(c.limit, upper(p.CapacityMbit), upper(w.Link.Mbit))
		c.strips = []strip{
			{"state", t.spans(p.State, stateClass)},
			{"control", t.spans(p.Controller, controllerClass)},
		}
		note += fmt.Sprintf(", estimate %s", rateText(mean(p.alive(p.CapacityMbit))))
	}
	return c, note
}

func (t *Trace) delayPanel(name, class string) (*chart, string) {
	w, c := t.payload(name), &chart{unit: "ms", yMost: mostDelayMS}
	c.areas = []series{{"queue", class + " pale", t.Seconds, w.Link.QueueMS}}
	note := fmt.Sprintf("base %.0f ms, queue mean %.0f ms, p95 %.0f ms", t.Carriers[name].DelayMS, mean(w.Link.QueueMS), upper(w.Link.QueueMS))
	if p := w.Path; p != nil {
		c.lines = []series{
			{"delay over base", class, t.Seconds, p.alive(p.ExtraDelayMS)},
			{"estimated queue", "again thin", t.Seconds, p.alive(p.QueueMS)},
		}
		note += fmt.Sprintf("; delay over base p95 %.0f ms", upper(p.alive(p.ExtraDelayMS)))
	}
	return c, note
}

func (t *Trace) lossPanel(name, class string) (*chart, string) {
	const window = 5 // steps
	w, c := t.payload(name), &chart{unit: "%", yMost: mostLossPercent}
	sent := make(Column, len(w.Link.Offered))
	for i := range sent {
		sent[i] = w.Link.Offered[i] - w.Link.QueueDrops[i]
	}
	c.areas = []series{{"lost on the wire", class + " pale", t.Seconds, percents(ratio(w.Link.Lost, sent, window))}}
	note := shareText(sum(w.Link.Lost), sum(sent)) + " lost on the wire"
	if p := w.Path; p != nil {
		c.lines = []series{
			{"loss the sender sees", class + " thin", t.Seconds, percents(p.alive(p.Loss))},
			{"loss floor", class + " dot", t.Seconds, percents(p.alive(p.LossFloor))},
			{"FEC repairs", "fec", t.Seconds, percents(ratio(p.Repairs, p.Packets, window))},
			{"sent again", "again", t.Seconds, percents(ratio(p.Resent, p.Packets, window))},
		}
		note += fmt.Sprintf(", FEC %s, sent again %s", shareText(sum(p.Repairs), sum(p.Packets)), shareText(sum(p.Resent), sum(p.Packets)))
	}
	return c, note
}

func percents(v []float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = 100 * v[i]
	}
	return out
}

// windows are the congestion windows of the payload's lanes at their sender.
func (t *Trace) windows() (section, bool) {
	sender := machineFra
	if t.Upload {
		sender = machineSha
	}
	c := &chart{label: "Congestion windows", unit: "packets", bands: t.Marks, xMax: t.end()}
	var lost []string
	classes := make(map[string]int)
	for _, l := range t.Lanes {
		if l.Node != sender {
			continue
		}
		class := fmt.Sprintf("k%d", len(c.lines)%paletteSize)
		if l.Class != "bulk" {
			class += " dash thin"
		}
		classes[l.Class]++
		c.lines = append(c.lines, series{fmt.Sprintf("%s %d", l.Class, l.ID), class, t.Seconds, l.WindowPackets})
		// Losses are by the second, steps a tenth of one.
		if n := sum(l.Lost) * TraceInterval.Seconds(); n >= 0.5 {
			lost = append(lost, fmt.Sprintf("%.0f on %s %d", n, l.Class, l.ID))
		}
	}
	if len(c.lines) == 0 {
		return section{}, false
	}
	caption := "At the sending gateway. Lanes that are replaced end, new ones begin."
	if len(lost) > 0 {
		caption += " Packets that QUIC saw as lost: " + strings.Join(lost, ", ") + "."
	} else {
		caption += " QUIC saw no packet as lost."
	}
	return single("QUIC congestion windows of the lanes", caption, c), true
}

var stripLegend = []legendEntry{
	{Name: "up, Cruise", Class: "steady"}, {Name: "suspect", Class: "suspect"}, {Name: "down", Class: "down"},
	{Name: "Startup", Class: "first"}, {Name: "Up, Refill", Class: "more"}, {Name: "Drain, Down, ProbeRTT", Class: "less"}, {Name: "compete", Class: "rival"},
}

func stateClass(s string) string {
	if slices.Contains([]string{"up", "suspect", "down", "opening"}, s) {
		return s
	}
	return ""
}

// controllerClass sorts the states of the rate controller by what they do to the rate.
func controllerClass(s string) string {
	s, compete := strings.CutSuffix(s, "/compete")
	switch {
	case compete:
		return "rival"
	case s == "Startup":
		return "first"
	case s == "Up" || s == "Refill":
		return "more"
	case s == "Drain" || s == "Down" || s == "ProbeRTT":
		return "less"
	case s == "Cruise":
		return "steady"
	}
	return ""
}

// spans joins equal neighbours; words without a class are gaps.
func (t *Trace) spans(words []string, class func(string) string) []span {
	var out []span
	last := 0.0
	for i, w := range words {
		at := t.Seconds[i]
		if n := len(out); n > 0 && out[n-1].word == w && out[n-1].to == last {
			out[n-1].to = at
		} else if c := class(w); c != "" {
			out = append(out, span{last, at, c, w})
		}
		last = at
	}
	return out
}
