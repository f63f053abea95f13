package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel"
)

// classes reads the knobs of path selection; what it does not name keeps its default.
func (p *problems) classes(n ast.Node, policy *pathsel.Policy) {
	var fields []field
	for i := range pathsel.NumClasses {
		fields = append(fields, field{pathsel.Class(i).String(), false, func(n ast.Node) { p.class(n, policy, pathsel.Class(i)) }})
	}
	p.object(n, at(n), "classes", fields...)
}

// LoadPolicy reads the classes of a fleet document, or of a file that has nothing else. Errors of its content satisfy
// errors.Is(err, ErrInvalid).
func LoadPolicy(path string) (pathsel.Policy, error) {
	data, err := readFile(path)
	if err != nil {
		return pathsel.Policy{}, fmt.Errorf("policy: %w", unreadable{err})
	}
	p := &problems{file: path}
	root := p.parseYAML(data)
	if root == nil {
		return pathsel.Policy{}, p.err()
	}
	if es := p.entries(root, "document"); len(es) == 1 && es[0].key == "classes" {
		policy := pathsel.DefaultPolicy()
		p.classes(es[0].val, &policy)
		return policy, p.err()
	}
	f, err := parse(path, data)
	if err != nil {
		return pathsel.Policy{}, err
	}
	return f.Policy, nil
}

// SetPolicy changes one knob of the classes: "realtime.dwell=5s".
func SetPolicy(policy *pathsel.Policy, setting string) error {
	class, rest, ok := strings.Cut(setting, ".")
	key, value, ok2 := strings.Cut(rest, "=")
	if !ok || !ok2 {
		return fmt.Errorf("setting %q: want class.key=value, such as realtime.dwell=5s", setting)
	}
	p := &problems{file: setting}
	root := p.parseYAML(fmt.Appendf(nil, "%s: {%s: %s}\n", strconv.Quote(class), strconv.Quote(key), plainYAML(value)))
	if root != nil {
		p.classes(root, policy)
	}
	if len(p.list) > 0 {
		return hint.With(fmt.Errorf("setting %s: %s", setting, p.list[0].Message), "%s", p.list[0].Hint)
	}
	return nil
}

// plainYAML leaves true and false alone, which quotes would make words.
func plainYAML(s string) string {
	if s == "true" || s == "false" {
		return s
	}
	return strconv.Quote(s)
}

func (p *problems) class(n ast.Node, policy *pathsel.Policy, class pathsel.Class) {
	c, what := &policy.Classes[class], "classes: "+class.String()
	fields := []field{
		{"dwell", false, func(n ast.Node) { p.duration(n, what+": dwell", &c.Dwell, pathsel.MaxDwell) }},
		{"hysteresis", false, func(n ast.Node) { p.share(n, what+": hysteresis", &c.Hysteresis, pathsel.MaxHysteresis) }},
		{"margin", false, func(n ast.Node) { p.duration(n, what+": margin", &c.Margin, pathsel.MaxMargin) }},
		{"delay_weight", false, func(n ast.Node) { p.float(n, what+": delay_weight", &c.DelayWeight, pathsel.MaxWeight) }},
		{"loss_weight", false, func(n ast.Node) { p.float(n, what+": loss_weight", &c.LossWeight, pathsel.MaxWeight) }},
		{"round_trip", false, func(n ast.Node) { c.RoundTrip = p.boolean(n, what+": round_trip") }},
		{"leave_brownout", false, func(n ast.Node) { c.LeaveBrownout = p.boolean(n, what+": leave_brownout") }},
	}
	switch class {
	case pathsel.Interactive:
		fields = append(fields, field{"elephant", false, func(n ast.Node) { p.bytes(n, what+": elephant", &policy.ElephantBytes) }})
	case pathsel.Bulk:
		fields = append(fields, field{"transfer", false, func(n ast.Node) { p.bytes(n, what+": transfer", &policy.BulkBytes) }})
	}
	p.object(n, at(n), what, fields...)
}

func (p *problems) duration(n ast.Node, what string, to *time.Duration, most time.Duration) {
	s, ok := p.text(n, what)
	if !ok {
		return
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > most {
		p.add(at(n), "", "%s: %q, want 0s to %v, such as 500ms", what, s, most)
		return
	}
	*to = d
}

func (p *problems) float(n ast.Node, what string, to *float64, most float64) {
	s, ok := p.text(n, what)
	if !ok {
		return
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= most) {
		p.add(at(n), "", "%s: %q, want a number from 0 to %v", what, s, most)
		return
	}
	*to = f
}

// share reads 10% or 0.1.
func (p *problems) share(n ast.Node, what string, to *float64, most float64) {
	s, ok := p.text(n, what)
	if !ok {
		return
	}
	digits, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(digits, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= most) {
		p.add(at(n), "", "%s: %q, want 0 to %v, such as 10%% or 0.1", what, s, most)
		return
	}
	*to = f
}

var byteUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// bytes reads 256KiB, 4MiB, 1GiB or plain bytes.
func (p *problems) bytes(n ast.Node, what string, to *int64) {
	s, ok := p.text(n, what)
	if !ok {
		return
	}
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		if v, err := strconv.ParseInt(digits, 10, 64); err == nil && v <= pathsel.MaxBytes/u.bytes && v*u.bytes >= pathsel.MinBytes {
			*to = v * u.bytes
			return
		}
		break
	}
	p.add(at(n), "", "%s: %q, want %s to %s, such as 256KiB", what, s, byteText(pathsel.MinBytes), byteText(pathsel.MaxBytes))
}

func byteText(n int64) string {
	for _, u := range byteUnits {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return ""
}

// marshalClasses writes what differs from the defaults, "" for nothing.
func marshalClasses(policy *pathsel.Policy) string {
	def := pathsel.DefaultPolicy()
	var b strings.Builder
	for i := range policy.Classes {
		var parts []string
		c, d := &policy.Classes[i], &def.Classes[i]
		add := func(differs bool, format string, v any) {
			if differs {
				parts = append(parts, fmt.Sprintf(format, v))
			}
		}
		add(c.Dwell != d.Dwell, "dwell: %v", c.Dwell)
		add(c.Hysteresis != d.Hysteresis, "hysteresis: %v", c.Hysteresis)
		add(c.Margin != d.Margin, "margin: %v", c.Margin)
		add(c.DelayWeight != d.DelayWeight, "delay_weight: %v", c.DelayWeight)
		add(c.LossWeight != d.LossWeight, "loss_weight: %v", c.LossWeight)
		add(c.RoundTrip != d.RoundTrip, "round_trip: %v", c.RoundTrip)
		add(c.LeaveBrownout != d.LeaveBrownout, "leave_brownout: %v", c.LeaveBrownout)
		if pathsel.Class(i) == pathsel.Interactive {
			add(policy.ElephantBytes != def.ElephantBytes, "elephant: %s", byteText(policy.ElephantBytes))
		}
		if pathsel.Class(i) == pathsel.Bulk {
			add(policy.BulkBytes != def.BulkBytes, "transfer: %s", byteText(policy.BulkBytes))
		}
		if parts != nil {
			if b.Len() == 0 {
				b.WriteString("classes:\n")
			}
			fmt.Fprintf(&b, "  %s: {%s}\n", pathsel.Class(i), strings.Join(parts, ", "))
		}
	}
	return b.String()
}
