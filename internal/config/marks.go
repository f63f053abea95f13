package config

import (
	"fmt"
	"maps"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/pathsel"
)

// Marks says what customers' packets that are not tunnelled carry of what was decided about them. The zero value leaves them
// as they are.
type Marks struct {
	// DSCP by class, of direct packets and of those that pass on; a class that is not named keeps what its packets have.
	DSCP map[pathsel.Class]uint8
	// Verdicts writes tenant, path and class to the mark of packets that pass on to the host's stack (bpf.Mark).
	Verdicts bool
}

func (m *Marks) isDefault() bool { return len(m.DSCP) == 0 && !m.Verdicts }

func (m *Marks) clone() Marks { return Marks{DSCP: maps.Clone(m.DSCP), Verdicts: m.Verdicts} }

func (p *problems) marks(n ast.Node) (m Marks) {
	p.object(n, at(n), "marks",
		field{"dscp", false, func(n ast.Node) {
			var fields []field
			for i := range pathsel.NumClasses {
				class := pathsel.Class(i)
				fields = append(fields, field{class.String(), false, func(n ast.Node) {
					for _, d := range p.addNumber(n, "marks: dscp: "+class.String(), nil, dscps, 63) {
						if m.DSCP == nil {
							m.DSCP = map[pathsel.Class]uint8{}
						}
						m.DSCP[class] = d
					}
				}})
			}
			p.object(n, at(n), "marks: dscp", fields...)
		}},
		field{"verdicts", false, func(n ast.Node) { m.Verdicts = p.boolean(n, "marks: verdicts") }},
	)
	return m
}

// marshalMarks writes the marks as marks reads them, "" for the default.
func marshalMarks(m *Marks) string {
	if m.isDefault() {
		return ""
	}
	var parts, dscp []string
	for i := range pathsel.NumClasses {
		if d, ok := m.DSCP[pathsel.Class(i)]; ok {
			dscp = append(dscp, fmt.Sprintf("%v: %s", pathsel.Class(i), numberName(dscps, d)))
		}
	}
	if dscp != nil {
		parts = append(parts, "dscp: {"+strings.Join(dscp, ", ")+"}")
	}
	if m.Verdicts {
		parts = append(parts, "verdicts: true")
	}
	return "marks: {" + strings.Join(parts, ", ") + "}\n"
}
