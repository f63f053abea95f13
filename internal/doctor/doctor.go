// Package doctor looks at a machine before a node runs on it and says what is missing, what is lost by that, and what
// to do. [Run] makes all checks; it changes nothing that outlives it.
package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Level is the outcome of a check.
type Level uint8

// Outcomes: Fail means something the options ask for cannot work.
const (
	OK Level = iota
	Warn
	Fail
)

func (l Level) String() string { return [...]string{"ok", "warn", "fail"}[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Result is one finding.
type Result struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Lost   string `json:"lost,omitempty"` // what does not work, or not well
	Hint   string `json:"hint,omitempty"`
}

// Options say what the machine is to do.
type Options struct {
	// Capture: flows are to be captured transparently. Without it (an agent with proxies only) a node needs no
	// privileges, and their absence is no failure.
	Capture bool
	// NICs to look at closely: uplinks and LAN interfaces. A node starts without those of Spare, which it takes when they
	// are there.
	NICs, Spare []string
}

// Worst returns the highest level of the results.
func Worst(rs []Result) (worst Level) {
	for _, r := range rs {
		worst = max(worst, r.Level)
	}
	return worst
}

// WriteText prints results for a terminal: a line for each, and what to do below those that are not ok.
func WriteText(w io.Writer, rs []Result) error {
	var b strings.Builder
	width := 0
	for _, r := range rs {
		width = max(width, len(r.Check))
	}
	for _, r := range rs {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", r.Level, width, r.Check, r.Detail)
		indent := strings.Repeat(" ", width+8)
		if r.Lost != "" {
			fmt.Fprintf(&b, "%slost: %s\n", indent, r.Lost)
		}
		if r.Hint != "" {
			fmt.Fprintf(&b, "%shint: %s\n", indent, r.Hint)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
