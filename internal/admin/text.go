package admin

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText prints the status as tables for a terminal.
func (s Status) WriteText(w io.Writer) error {
	s = s.finite()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, landbridge %s, pid %d, up %s\n", s.Role, clean(s.Node), clean(s.Version), s.PID, age(s.Taken.Sub(s.Started)))
	for _, p := range s.Peers {
		fmt.Fprintf(&b, "\n%s %s: %s", p.Kind, clean(p.Name), p.State)
		if !p.Since.IsZero() {
			fmt.Fprintf(&b, " for %s", age(s.Taken.Sub(p.Since)))
		}
		if p.State == PathUp {
			fmt.Fprintf(&b, ", rtt %.0f ms, %s available, overhead %s", p.RTTMs, mbit(p.CapacityMbit), percent(p.Overhead))
			if len(p.Lanes) > 0 {
				fmt.Fprintf(&b, "\n  lanes: %s", lanes(p.Lanes))
			}
		}
		b.WriteByte('\n')
		if len(p.Paths) == 0 {
			b.WriteString("  no paths\n")
			continue
		}
		var table strings.Builder
		tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "path\tstate\trtt ms\tqueue ms\tloss out\tfloor\tloss in\tMbit/s out\tMbit/s in\tcapacity\tshare\tcontroller\t")
		for _, q := range p.Paths {
			if q.RTTMs == 0 {
				// Never answered: there is nothing to show but its state.
				fmt.Fprintf(tw, "%s\t%s%s\t%s\n", clean(q.Name), q.State, strings.Repeat("\t-", 10), note(q.Note))
				continue
			}
			fmt.Fprintf(tw, "%s\t%s\t%.1f\t%.1f\t%s\t%s\t%s\t%.1f\t%.1f\t%.1f\t%s\t%s\t%s\n", clean(q.Name), q.State, q.RTTMs, q.QueueMs,
				percent(q.LossTx), percent(q.LossFloor), percent(q.LossRx), q.RateTxMbit, q.RateRxMbit, q.CapacityMbit, percent(q.Share),
				clean(q.Controller), note(q.Note))
		}
		tw.Flush()
		for line := range strings.Lines(table.String()) {
			b.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	if len(s.Peers) == 0 {
		b.WriteString("\nno peers\n")
	}
	f := s.Flows
	fmt.Fprintf(&b, "\nflows: %d open, %d in all, %d failed, %d refused; %s in, %s out; buffered %s of %s\n",
		f.Active, f.Total, f.Failed, f.Refused, size(f.BytesIn), size(f.BytesOut), size(uint64(max(f.Buffered, 0))), size(uint64(max(f.Budget, 0))))
	if drops := s.drops(); drops != "" {
		fmt.Fprintf(&b, "dropped: %s\n", drops)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s Status) drops() string {
	var reasons []string
	for r, n := range s.Drops {
		if n > 0 {
			reasons = append(reasons, r)
		}
	}
	slices.SortFunc(reasons, func(a, b string) int { return strings.Compare(a, b) })
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%s %d", clean(r), s.Drops[r])
	}
	return strings.Join(reasons, ", ")
}

// lanes counts by class and state, with the smallest and the largest window in packets: "2 bulk (window 9000),
// 1 bulk warming (window 100)".
func lanes(ls []Lane) string {
	count := make(map[string]int)
	least, most := make(map[string]int), make(map[string]int)
	var order []string
	for _, l := range ls {
		k := l.Class
		if l.State != "ready" && l.State != "" {
			k += " " + l.State
		}
		if count[k] == 0 {
			order = append(order, k)
			least[k] = l.WindowPackets
		}
		count[k]++
		least[k], most[k] = min(least[k], l.WindowPackets), max(most[k], l.WindowPackets)
	}
	slices.Sort(order)
	for i, k := range order {
		order[i] = fmt.Sprintf("%d %s (window %d", count[k], k, least[k])
		if most[k] > least[k] {
			order[i] += fmt.Sprintf(" to %d", most[k])
		}
		order[i] += ")"
	}
	return strings.Join(order, ", ")
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " " + clean(s)
}

// clean keeps a name from moving the terminal's cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func percent(f float64) string {
	if f > 0 && f < 0.001 {
		return "<0.1%"
	}
	return fmt.Sprintf("%.1f%%", 100*f)
}

func mbit(f float64) string { return fmt.Sprintf("%.1f Mbit/s", f) }

func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// size prints bytes in binary multiples with three digits.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), "KMGTPE"
	for i := range len(units) {
		if v /= 1024; v < 1024 || i == len(units)-1 {
			return fmt.Sprintf("%.*f %ciB", map[bool]int{true: 1, false: 0}[v < 100], v, units[i])
		}
	}
	return ""
}
