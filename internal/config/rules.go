package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/pathsel"
)

// Limits of rules: the classifier looks them all up in one table, of 10,000 rules and some.
const (
	MaxRules        = 1024  // rules of a tenant, or of the fleet's defaults
	MaxAllRules     = 16384 // rules of a node, with the defaults counted for each tenant
	MaxRulePrefixes = 64    // prefixes on one side of a rule
	MaxRulePorts    = 16    // port ranges of a rule
)

// Action is what a rule does with a flow.
type Action uint8

const (
	// ActionAllow carries the flow through the tunnel. It is what happens without any rule.
	ActionAllow Action = iota
	// ActionDeny drops it.
	ActionDeny
	// ActionDirect forwards it out of the carrier that is best for its class, without the tunnel.
	ActionDirect
)

var actionNames = []string{"allow", "deny", "direct"}

func (a Action) String() string { return actionNames[a] }

// Rule says what happens to the flows it matches. Of a tenant's rules and the fleet's behind them, the first that
// matches counts; a flow that none matches is allowed. Empty lists match everything.
type Rule struct {
	Name      string // for people, may be ""
	From, To  []netip.Prefix
	Protocols []uint8     // IP protocol numbers
	Ports     []PortRange // of the destination
	DSCP      []uint8
	Action    Action
	Class     pathsel.Class
	HasClass  bool // without it the class follows from what the flow does

	at, fromAt position
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// namedNumber pairs a name people know with its number.
type namedNumber struct {
	name   string
	number uint8
}

// protocols are those with a name here; others go by number (IANA's registry of IP protocols).
var protocols = []namedNumber{{"tcp", 6}, {"udp", 17}, {"icmp", 1}, {"icmpv6", 58}, {"sctp", 132}, {"gre", 47}, {"esp", 50}, {"ah", 51}}

// dscps are the code points with names (RFC 2474, 2597, 3246, 5865, 8622).
var dscps = []namedNumber{
	{"ef", 46}, {"va", 44}, {"le", 1},
	{"cs0", 0}, {"cs1", 8}, {"cs2", 16}, {"cs3", 24}, {"cs4", 32}, {"cs5", 40}, {"cs6", 48}, {"cs7", 56},
	{"af11", 10}, {"af12", 12}, {"af13", 14}, {"af21", 18}, {"af22", 20}, {"af23", 22},
	{"af31", 26}, {"af32", 28}, {"af33", 30}, {"af41", 34}, {"af42", 36}, {"af43", 38},
}

// withPorts are the protocols whose ports the classifier reads.
var withPorts = []uint8{6, 17, 132}

func (p *problems) rules(n ast.Node, what string) (out []*Rule) {
	p.sequence(n, what, MaxRules, func(n ast.Node) {
		if r := p.rule(n, fmt.Sprintf("%s: rule %d", strings.TrimSuffix(what, ": rules"), len(out)+1)); r != nil {
			out = append(out, r)
		}
	})
	return out
}

func (p *problems) rule(n ast.Node, what string) *Rule {
	r := &Rule{at: at(n)}
	before, says := len(p.list), false
	p.object(n, r.at, what, append(p.match(r, what),
		field{"dscp", false, func(n ast.Node) {
			p.oneOrMany(n, what+": dscp", 64, func(n ast.Node) { r.DSCP = p.addNumber(n, what+": dscp", r.DSCP, dscps, 63) })
		}},
		field{"action", false, func(n ast.Node) {
			says = true
			if i, ok := p.word(n, what+": action", actionNames); ok {
				r.Action = Action(i)
			}
		}},
		field{"class", false, func(n ast.Node) {
			says, r.HasClass = true, true
			if i, ok := p.word(n, what+": class", classNames()); ok {
				r.Class = pathsel.Class(i)
			}
		}},
	)...)
	switch {
	case len(p.list) > before:
		return nil
	case !says:
		p.add(r.at, "add action (allow, deny or direct) or class", "%s says neither what happens nor in which class", what)
	case r.Action == ActionDeny && r.HasClass:
		p.add(r.at, "", "%s denies, so it cannot give a class", what)
	default:
		return r
	}
	return nil
}

// match returns the keys that say which packets are meant: those of a rule and of the guard's list.
func (p *problems) match(r *Rule, what string) []field {
	return []field{
		{"name", false, func(n ast.Node) { r.Name, _ = p.name(n, what+": name") }},
		{"from", false, func(n ast.Node) { r.From, r.fromAt = p.rulePrefixes(n, what+": from"), at(n) }},
		{"to", false, func(n ast.Node) { r.To = p.rulePrefixes(n, what+": to") }},
		{"protocol", false, func(n ast.Node) {
			p.oneOrMany(n, what+": protocol", 16, func(n ast.Node) {
				r.Protocols = p.addNumber(n, what+": protocol", r.Protocols, protocols, 255)
			})
		}},
		{"ports", false, func(n ast.Node) {
			p.oneOrMany(n, what+": ports", MaxRulePorts, func(n ast.Node) {
				s, ok := p.text(n, what+": ports")
				if !ok {
					return
				}
				pr, err := parsePorts(s)
				if err != nil {
					p.add(at(n), "", "%s: ports %v", what, err)
					return
				}
				r.Ports = append(r.Ports, pr)
			})
		}},
	}
}

// oneOrMany reads a list, or a single value as a list of one. An empty list is a problem: it would match everything.
func (p *problems) oneOrMany(n ast.Node, what string, limit int, each func(n ast.Node)) {
	if seq, ok := n.(*ast.SequenceNode); ok && len(seq.Values) > 0 {
		p.sequence(n, what, limit, each)
		return
	}
	if _, ok := scalar(n); ok {
		each(n)
		return
	}
	p.add(at(n), "leave the key out to match everything", "%s: found %s, want a value or a list of them", what, emptyOr(kind(n), n))
}

func emptyOr(kind string, n ast.Node) string {
	if _, ok := n.(*ast.SequenceNode); ok {
		return "an empty list"
	}
	return kind
}

func (p *problems) rulePrefixes(n ast.Node, what string) (out []netip.Prefix) {
	p.oneOrMany(n, what, MaxRulePrefixes, func(n ast.Node) {
		s, ok := p.text(n, what)
		if !ok {
			return
		}
		pfx, hint, err := parsePrefix(s)
		if err != nil {
			p.add(at(n), hint, "%s: prefix %v", what, err)
			return
		}
		out = append(out, pfx)
	})
	return out
}

// word reads one of a few words and returns its index.
func (p *problems) word(n ast.Node, what string, words []string) (int, bool) {
	s, ok := p.text(n, what)
	if !ok {
		return 0, false
	}
	i := slices.Index(words, s)
	if i < 0 {
		p.add(at(n), didYouMean(s, words), "%s: %q, want %s", what, s, orList(words))
	}
	return i, i >= 0
}

func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// addNumber reads a name of the table or a number and adds it to the set.
func (p *problems) addNumber(n ast.Node, what string, to []uint8, table []namedNumber, most uint64) []uint8 {
	s, ok := p.text(n, what)
	if !ok {
		return to
	}
	v, err := strconv.ParseUint(s, 10, 8)
	names := make([]string, len(table))
	for i, t := range table {
		if names[i] = t.name; t.name == s {
			v, err = uint64(t.number), nil
		}
	}
	switch {
	case err != nil || v > most:
		advice := ""
		if strings.Trim(s, "0123456789") != "" {
			advice = didYouMean(s, names)
		}
		p.add(at(n), advice, "%s: %q, want 0 to %d or a name such as %s", what, s, most, table[0].name)
		return to
	case slices.Contains(to, uint8(v)):
		p.add(at(n), "", "%s: %s is listed twice", what, s)
		return to
	}
	return append(to, uint8(v))
}

func parsePorts(s string) (PortRange, error) {
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	first, err1 := strconv.ParseUint(lo, 10, 16)
	last, err2 := strconv.ParseUint(hi, 10, 16)
	switch {
	case err1 != nil || err2 != nil || first == 0:
		return PortRange{}, fmt.Errorf("%q: want a port or a range from 1 to 65535, such as 80 or 8000-8080", s)
	case first > last:
		return PortRange{}, fmt.Errorf("%q: the range ends before it begins", s)
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

func classNames() []string {
	names := make([]string, pathsel.NumClasses)
	for i := range names {
		names[i] = pathsel.Class(i).String()
	}
	return names
}

// checkRules finds rules that cannot mean what they say. Sites are those of the tenant, nil for the fleet's defaults.
func (p *problems) checkRules(rules []*Rule, what string, sites []*Site) {
	for i, r := range rules {
		label := fmt.Sprintf("%s: rule %d", what, i+1)
		p.checkMatch(r, label)
		for _, from := range r.From {
			if sites != nil && !slices.ContainsFunc(sites, func(s *Site) bool { return slices.ContainsFunc(s.Prefixes, from.Overlaps) }) {
				p.add(r.fromAt, "", "%s: no site of the tenant has addresses in %s", label, from)
			}
		}
		for j, earlier := range rules[:i] {
			if earlier.covers(r) {
				p.add(r.at, "", "%s is never reached: rule %d on line %d matches all of it", label, j+1, earlier.at.line)
				break
			}
		}
	}
}

// checkMatch checks what rules and the guard's list share.
func (p *problems) checkMatch(r *Rule, label string) {
	if len(r.Ports) > 0 && (len(r.Protocols) == 0 || slices.ContainsFunc(r.Protocols, func(n uint8) bool { return !slices.Contains(withPorts, n) })) {
		p.add(r.at, "add protocol: tcp, udp or sctp", "%s has ports and not only protocols with ports", label)
	}
	if len(r.From) > 0 && len(r.To) > 0 && !slices.ContainsFunc(r.From, func(a netip.Prefix) bool {
		return slices.ContainsFunc(r.To, func(b netip.Prefix) bool { return a.Addr().Is4() == b.Addr().Is4() })
	}) {
		p.add(r.at, "", "%s matches nothing: from and to are of different address families", label)
	}
}

// covers reports whether r matches all that s matches, as far as single elements tell.
func (r *Rule) covers(s *Rule) bool {
	return coversList(r.From, s.From, containsPrefix) && coversList(r.To, s.To, containsPrefix) &&
		coversList(r.Protocols, s.Protocols, func(a, b uint8) bool { return a == b }) &&
		coversList(r.Ports, s.Ports, func(a, b PortRange) bool { return a.First <= b.First && b.Last <= a.Last }) &&
		coversList(r.DSCP, s.DSCP, func(a, b uint8) bool { return a == b })
}

func containsPrefix(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// coversList reports whether every element of b lies in one of a, where an empty list is everything.
func coversList[T any](a, b []T, in func(a, b T) bool) bool {
	if len(a) == 0 {
		return true
	}
	return len(b) > 0 && !slices.ContainsFunc(b, func(y T) bool { return !slices.ContainsFunc(a, func(x T) bool { return in(x, y) }) })
}

// clone copies a rule for a derived view.
func (r *Rule) clone() Rule {
	return Rule{
		Name: r.Name, From: slices.Clone(r.From), To: slices.Clone(r.To), Protocols: slices.Clone(r.Protocols),
		Ports: slices.Clone(r.Ports), DSCP: slices.Clone(r.DSCP), Action: r.Action, Class: r.Class, HasClass: r.HasClass,
	}
}

// rulesOf lists a tenant's rules in the order they are tried.
func rulesOf(lists ...[]*Rule) (out []Rule) {
	for _, l := range lists {
		for _, r := range l {
			out = append(out, r.clone())
		}
	}
	return out
}

// String is the rule as the document has it, on one line.
func (r *Rule) String() string {
	var parts []string
	add := func(key, value string) {
		if value != "" {
			parts = append(parts, key+": "+value)
		}
	}
	if r.Name != "" {
		add("name", quoteYAML(r.Name))
	}
	add("from", list(r.From, netip.Prefix.String))
	add("to", list(r.To, netip.Prefix.String))
	add("protocol", list(r.Protocols, func(n uint8) string { return numberName(protocols, n) }))
	add("ports", list(r.Ports, PortRange.String))
	add("dscp", list(r.DSCP, func(n uint8) string { return numberName(dscps, n) }))
	if r.Action != ActionAllow || !r.HasClass {
		add("action", r.Action.String())
	}
	if r.HasClass {
		add("class", r.Class.String())
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func numberName(table []namedNumber, n uint8) string {
	if i := slices.IndexFunc(table, func(t namedNumber) bool { return t.number == n }); i >= 0 {
		return table[i].name
	}
	return strconv.Itoa(int(n))
}

func list[T any](vs []T, text func(T) string) string {
	if len(vs) == 0 {
		return ""
	}
	ss := make([]string, len(vs))
	for i, v := range vs {
		ss[i] = text(v)
	}
	return flow(ss)
}
