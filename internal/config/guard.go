package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const (
	// MaxGuardAllow bounds the guard's list: each entry is one more comparison for every packet that is not ours.
	MaxGuardAllow = 64
	// DefaultUnknownPPS is what a prefix of unknown sources may send to the bond's port a second: the first datagrams of a
	// few new peers behind one address, with their repetitions.
	DefaultUnknownPPS = 100
	// DefaultUnknownTotalPPS is what all unknown sources together may send a second, whatever addresses they forge: twenty
	// prefixes at their full rate.
	DefaultUnknownTotalPPS = 2000
	maxUnknownPPS          = 1_000_000
)

// GuardMode says what the guard on carrier NICs does.
type GuardMode uint8

const (
	// GuardOff leaves the NICs alone. The default: a machine may have other services there.
	GuardOff GuardMode = iota
	// GuardObserve counts what would be dropped.
	GuardObserve
	// GuardEnforce drops what is neither the bond's, a probe, an established direct flow nor on the list.
	GuardEnforce
)

var guardModes = []string{"off", "observe", "enforce"}

func (m GuardMode) String() string { return guardModes[m] }

// Guard says what may enter by the carrier NICs.
type Guard struct {
	Mode GuardMode
	// Allow lists what is let in beside Landbridge's own: sources, protocols and destination ports.
	Allow []GuardAllow
	// UnknownPPS is how many packets a second a prefix of unknown sources (/24, /48) may send to the bond's port.
	UnknownPPS int
	// UnknownTotalPPS is how many all of them may send together; at least UnknownPPS.
	UnknownTotalPPS int
}

// GuardAllow is an entry of the guard's list: a Rule's From, Protocols and Ports; the rest is unused.
type GuardAllow = Rule

func defaultGuard() Guard {
	return Guard{UnknownPPS: DefaultUnknownPPS, UnknownTotalPPS: DefaultUnknownTotalPPS}
}

// isDefault tells whether nothing has to be written for it.
func (g *Guard) isDefault() bool {
	return g.Mode == GuardOff && g.UnknownPPS == DefaultUnknownPPS && g.UnknownTotalPPS == DefaultUnknownTotalPPS && g.Allow == nil
}

func (g *Guard) clone() Guard {
	c := Guard{Mode: g.Mode, UnknownPPS: g.UnknownPPS, UnknownTotalPPS: g.UnknownTotalPPS}
	for i := range g.Allow {
		c.Allow = append(c.Allow, g.Allow[i].clone())
	}
	return c
}

// guard reads a mode alone or a mapping.
func (p *problems) guard(n ast.Node, what string) Guard {
	g := defaultGuard()
	mode := func(n ast.Node) {
		if i, ok := p.word(n, what, guardModes); ok {
			g.Mode = GuardMode(i)
		}
	}
	if _, ok := scalar(n); ok {
		mode(n)
		return g
	}
	given := map[string]bool{}
	rate := func(key string, to *int) field {
		return field{key, false, func(n ast.Node) {
			s, _ := p.text(n, what+": "+key)
			v, err := strconv.Atoi(s)
			if err != nil || v < 1 || v > maxUnknownPPS {
				p.add(at(n), "", "%s: %s %q, want 1 to %d", what, key, s, maxUnknownPPS)
				return
			}
			*to, given[key] = v, true
		}}
	}
	p.object(n, at(n), what,
		field{"mode", true, mode},
		rate("unknown_pps", &g.UnknownPPS),
		rate("unknown_total_pps", &g.UnknownTotalPPS),
		field{"allow", false, func(n ast.Node) {
			p.sequence(n, what+": allow", MaxGuardAllow, func(n ast.Node) {
				a, label, before := GuardAllow{at: at(n)}, fmt.Sprintf("%s: allow %d", what, len(g.Allow)+1), len(p.list)
				p.object(n, a.at, label, slices.DeleteFunc(p.match(&a, label), func(f field) bool { return f.name == "to" })...)
				if p.checkMatch(&a, label); len(p.list) == before {
					g.Allow = append(g.Allow, a)
				}
			})
		}},
	)
	if g.UnknownTotalPPS < g.UnknownPPS {
		if given["unknown_total_pps"] {
			p.add(at(n), "", "%s: unknown_total_pps %d is less than unknown_pps %d, which is for a single prefix", what, g.UnknownTotalPPS, g.UnknownPPS)
		}
		g.UnknownTotalPPS = g.UnknownPPS
	}
	return g
}

// marshalGuard writes the guard as guard reads it, "" for the default.
func marshalGuard(g *Guard, indent string) string {
	var parts []string
	if g.UnknownPPS != DefaultUnknownPPS {
		parts = append(parts, fmt.Sprintf("%s  unknown_pps: %d\n", indent, g.UnknownPPS))
	}
	if g.UnknownTotalPPS != max(DefaultUnknownTotalPPS, g.UnknownPPS) {
		parts = append(parts, fmt.Sprintf("%s  unknown_total_pps: %d\n", indent, g.UnknownTotalPPS))
	}
	if len(g.Allow) > 0 {
		parts = append(parts, indent+"  allow:\n")
	}
	for i := range g.Allow {
		// String says what happens to a rule, which this list has no key for.
		text := strings.TrimSuffix(g.Allow[i].String(), "action: allow}")
		parts = append(parts, fmt.Sprintf("%s    - %s}\n", indent, strings.TrimSuffix(text, ", ")))
	}
	return fmt.Sprintf("%sguard:\n%s  mode: %s\n%s", indent, indent, quoteYAML(g.Mode.String()), strings.Join(parts, ""))
}
