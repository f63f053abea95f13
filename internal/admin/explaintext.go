package admin

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteText prints the explanation for people.
func (x *Explanation) WriteText(w io.Writer) error {
	var b strings.Builder
	for i := range x.Flows {
		if i > 0 {
			b.WriteByte('\n')
		}
		x.flow(&b, &x.Flows[i])
	}
	if x.More > 0 {
		fmt.Fprintf(&b, "\nand %d more: name both ends\n", x.More)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *Explanation) flow(b *strings.Builder, f *ExplainedFlow) {
	fmt.Fprintf(b, "%s %s -> %s\n", clean(f.Protocol), clean(f.Src), clean(f.Dst))
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "  %s\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	switch f.Fate {
	case FlowTunnelled:
		row("goes", "through the tunnel to %s", f.Peer)
	case FlowDirect:
		row("goes", "straight out of a carrier's NIC, to %s", f.Peer)
	case FlowDenied:
		row("goes", "nowhere: denied")
	default:
		row("goes", "past: left to the host's own routing")
	}
	if f.Source == "rules" {
		row("seen", "no: this is where it would go now")
	} else {
		row("seen", "by the %s of %s%s", f.Source, x.Node, x.carried(f))
	}
	if f.Tenant != "" {
		row("tenant", "%s", strings.TrimSuffix(f.Tenant+", site "+f.Site, ", site "))
	}
	switch {
	case f.Rule != "" && f.RuleNumber > 0:
		row("rule", "%d: %s", f.RuleNumber, f.Rule)
	case f.Rule != "":
		row("rule", "%s", f.Rule)
	case f.Tenant != "":
		row("rule", "none of its own: the tenant's default")
	}
	if f.Class != "" {
		elephant := ""
		if f.Elephant {
			elephant = ", as it carried too much for interactive"
		}
		row("class", "%s%s", f.Class, elephant)
	}
	if f.Path != "" {
		row("path", "%s", x.path(f))
	}
	if c := f.Choice; c != nil {
		for i, o := range c.Candidates {
			name, mark := "", ""
			if o.Assumed {
				mark = ", " + rateUnknown
			}
			if i == 0 {
				name = "candidates"
			}
			if o.Path == c.Path {
				mark += ", where " + c.Class + " is since " + age(x.Taken.Sub(c.Since))
			}
			row(name, "%s  %s  %s%s", o.Path, scored(o.Score, c.Unit), o.State, mark)
		}
		row("why", "%s", c.Reason)
	}
	if f.Stale {
		row("note", "the rules have changed since its last packet; the next one is judged again")
	}
	if f.Note != "" {
		row("note", "%s", f.Note)
	}
	tw.Flush()
}

// path is the flow's path, since when, and after how many moves.
func (x *Explanation) path(f *ExplainedFlow) string {
	s := f.Path
	if f.Fate == FlowTunnelled {
		s += " first"
	}
	if f.Lane > 0 {
		s += fmt.Sprintf(", lane %d", f.Lane)
	}
	if !f.Since.IsZero() {
		s += " for " + age(x.Taken.Sub(f.Since))
	}
	switch f.Moves {
	case 0:
	case 1:
		s += ", after 1 move"
	default:
		s += fmt.Sprintf(", after %d moves", f.Moves)
	}
	return s
}

// carried is how long the flow is open and what it carried.
func (x *Explanation) carried(f *ExplainedFlow) string {
	s := ""
	if !f.Opened.IsZero() {
		s += ", open for " + age(x.Taken.Sub(f.Opened))
	}
	if f.Packets > 0 {
		s += fmt.Sprintf(", %d packets", f.Packets)
	}
	if f.BytesOut > 0 || f.BytesIn > 0 {
		s += fmt.Sprintf(", %s out", size(f.BytesOut))
	}
	if f.BytesIn > 0 { // what comes back of a direct flow is not counted here
		s += fmt.Sprintf(", %s back", size(f.BytesIn))
	}
	if !f.Last.IsZero() {
		s += ", last packet " + freshText(ms(x.Taken.Sub(f.Last))) + " ago"
	}
	return s
}

// WriteText prints an event as one line.
func (e *Event) WriteText(w io.Writer) error {
	parts := []string{e.At.Format("2006-01-02 15:04:05.000"), e.Kind}
	for _, s := range []string{e.Peer, e.Class} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Kind == EventMove {
		from, to := e.From, e.Path
		if from == "" {
			from = "none"
		}
		if to == "" {
			to = "none"
		}
		parts = append(parts, from+" -> "+to)
	}
	_, err := io.WriteString(w, clean(strings.Join(append(parts, e.Text), "  "))+"\n")
	return err
}
