package pathsel

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Reason says in a sentence why the class is where it is, as of now.
func (c *Choice) Reason(now time.Duration) string {
	if !c.OK {
		return "no path answers"
	}
	var b strings.Builder
	switch c.Kind {
	case WhyFirst:
		fmt.Fprintf(&b, "%s was the best path when %s first needed one, %s", c.To.Name, c.Class, c.To.describe(c.Class))
	case WhyFailed:
		fmt.Fprintf(&b, "left %s, which %s; %s was the best of the others, %s", c.From.label(), c.From.failure(), c.To.Name, c.To.describe(c.Class))
	case WhyBrownout:
		fmt.Fprintf(&b, "left %s in a brownout (%s), %s; %s is better, %s", c.From.label(), c.From.Why, c.From.describe(c.Class), c.To.Name, c.To.describe(c.Class))
	case WhyBetter:
		fmt.Fprintf(&b, "%s is better than %s by more than %s: %s against %s", c.To.Name, c.From.label(), scoreText(c.Class, c.Margin, true),
			c.To.describe(c.Class), c.From.describe(c.Class))
	}
	fmt.Fprintf(&b, "; since %s", ago(now-c.Since))
	if c.Flaps > 0 {
		fmt.Fprintf(&b, ", after %d moves in short order", c.Flaps+1)
	}
	if len(c.Order) > 0 && c.Order[0].Path != c.Path {
		fmt.Fprintf(&b, "; new flows take %s while %s does not answer", c.Order[0].Name, c.To.Name)
	}
	return b.String()
}

func (f *Figures) label() string {
	if f.Name == "" {
		return fmt.Sprintf("path %d", f.Path)
	}
	return f.Name
}

func (f *Figures) failure() string {
	switch {
	case f.Name == "":
		return "is no longer configured"
	case f.State == StateSuspect:
		return fmt.Sprintf("did not answer for more than %v", suspectMove)
	}
	return "went down"
}

func (f *Figures) describe(class Class) string {
	rate := ""
	if f.Assumed > 0 {
		rate = fmt.Sprintf(", rate unknown and taken for %.0f Mbit/s", float64(f.Assumed)/1e6)
	}
	return fmt.Sprintf("%s (%.1f %% loss, %s round trip%s)", scoreText(class, f.Score, false), 100*f.Loss, msText(f.RTT), rate)
}

func scoreText(class Class, v float64, difference bool) string {
	switch {
	case class == Realtime && difference:
		return fmt.Sprintf("%.1f points of R", v)
	case class == Realtime:
		return fmt.Sprintf("R %.1f", v)
	}
	return msText(time.Duration(v * float64(time.Millisecond)))
}

func msText(d time.Duration) string {
	ms := millis(d)
	switch {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

func ago(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return "just now"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s ago", d.Seconds())
	}
	return d.Round(time.Second).String() + " ago"
}

// WriteText prints the decision for people: for each class the candidates in order and the reason.
func (d *Decision) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range d.Classes {
		c := &d.Classes[i]
		fmt.Fprintf(tw, "%s\t%s\n", c.Class, c.Reason(d.At))
		for _, o := range c.Order {
			note := ""
			if o.Assumed {
				note = ", rate unknown"
			}
			fmt.Fprintf(tw, "\t  %s\t%s\t%s%s\n", o.Name, o.State, scoreText(c.Class, o.Score, false), note)
		}
	}
	return tw.Flush()
}
