package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const (
	// maxFile bounds a document's size: a fleet at the other limits fits many times over.
	maxFile = 1 << 20
	// maxLine and maxDepth bound the YAML parser's recursion (nested "- - -" and brackets), which costs stack.
	maxLine  = 16 << 10
	maxDepth = 32
)

// parseYAML returns the root node of a single document, or nil after reporting why there is none.
func (p *problems) parseYAML(data []byte) (root ast.Node) {
	if len(data) > maxFile {
		p.add(position{}, "", "%d bytes is too large, the limit is %d", len(data), maxFile)
		return nil
	}
	if !p.checkShape(data) {
		return nil
	}
	defer func() { // a parser's panic on odd input is a bad document, not the end of a running node
		if r := recover(); r != nil {
			root = nil
			p.add(position{}, "", "not readable as YAML: %v", r)
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) {
			at := position{}
			if t := ye.GetToken(); t != nil && t.Position != nil {
				at = position{t.Position.Line, t.Position.Column}
			}
			if lines := bytes.Split(data, []byte("\n")); at.line >= 1 && at.line <= len(lines) && bytes.HasPrefix(bytes.TrimLeft(lines[at.line-1], " "), []byte("\t")) {
				p.add(at, "indent with spaces", "a tab")
				return nil
			}
			p.add(at, "", "%s", oneLine(ye.GetMessage()))
			return nil
		}
		p.add(position{}, "", "%s", oneLine(err.Error()))
		return nil
	}
	var bodies []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil {
			bodies = append(bodies, d.Body)
		}
	}
	switch len(bodies) {
	case 0:
		p.add(position{}, "", "the document is empty")
		return nil
	case 1:
		return bodies[0]
	}
	p.add(at(bodies[1]), "remove the --- line", "a second document in one file")
	return nil
}

func (p *problems) checkShape(data []byte) bool {
	line, length, depth := 1, 0, 0
	for _, c := range data {
		length++
		switch c {
		case '\n':
			line, length = line+1, 0
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(depth-1, 0)
		}
		if length > maxLine {
			p.add(position{line, 1}, "", "line longer than %d bytes", maxLine)
			return false
		}
		if depth > maxDepth {
			p.add(position{line, length}, "", "brackets nested deeper than %d", maxDepth)
			return false
		}
	}
	return true
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// at is where a node begins, as an editor counts. A block mapping's own token is its first colon, so ask its key.
func at(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return at(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return at(m.Key)
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return position{}
	}
	return position{n.GetToken().Position.Line, n.GetToken().Position.Column}
}

// kind names a node's type for messages.
func kind(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AliasNode, *ast.AnchorNode:
		return "a YAML anchor or alias"
	case *ast.TagNode:
		return "a YAML tag"
	}
	return "a single value"
}

// entry is one key of a mapping.
type entry struct {
	key string
	at  position
	val ast.Node
}

// entries reads a mapping's keys in order. Nothing (a key without a value) reads as an empty mapping.
func (p *problems) entries(n ast.Node, what string) []entry {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	case *ast.NullNode:
		return nil
	default:
		p.add(at(n), "", "%s: found %s, want a mapping", what, kind(n))
		return nil
	}
	seen := make(map[string]position, len(pairs))
	out := make([]entry, 0, len(pairs))
	for _, pair := range pairs {
		key, ok := scalar(pair.Key)
		pos := at(pair.Key)
		if !ok || key == "" {
			p.add(pos, "", "%s: a key must be a plain word", what)
			continue
		}
		if first, dup := seen[key]; dup {
			p.add(pos, "", "%s: %q is already there on line %d", what, key, first.line)
			continue
		}
		seen[key] = pos
		out = append(out, entry{key, pos, pair.Value})
	}
	return out
}

// field is one known key of a mapping with fixed keys.
type field struct {
	name     string
	required bool
	read     func(val ast.Node)
}

// object reads a mapping with fixed keys: unknown and missing ones are problems.
func (p *problems) object(n ast.Node, where position, what string, fields ...field) {
	names := make([]string, len(fields))
	missing := make(map[string]bool)
	for i, f := range fields {
		names[i] = f.name
		if f.required {
			missing[f.name] = true
		}
	}
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.NullNode:
	default:
		p.entries(n, what) // reports the kind; missing keys would only be noise
		return
	}
	for _, e := range p.entries(n, what) {
		i := slices.Index(names, e.key)
		if i < 0 {
			hint := didYouMean(e.key, names)
			if hint == "" {
				hint = "known keys: " + strings.Join(names, ", ")
			}
			p.add(e.at, hint, "%s: unknown key %q", what, e.key)
			continue
		}
		delete(missing, e.key)
		if _, null := e.val.(*ast.NullNode); null && fields[i].required {
			p.add(e.at, "", "%s: %q has no value", what, e.key)
			continue
		}
		fields[i].read(e.val)
	}
	for _, name := range names {
		if missing[name] {
			p.add(where, "", "%s: %q is missing", what, name)
		}
	}
}

// scalar returns the text of a single value as written.
func scalar(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		if v.Value == nil {
			return "", false
		}
		return v.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if v.GetToken() == nil {
			return "", false
		}
		return v.GetToken().Value, true
	}
	return "", false
}

// text reads a single, not empty value.
func (p *problems) text(n ast.Node, what string) (string, bool) {
	s, ok := scalar(n)
	if !ok {
		p.add(at(n), "", "%s: found %s, want a single value", what, kind(n))
		return "", false
	}
	if s == "" {
		p.add(at(n), "", "%s: empty", what)
		return "", false
	}
	return s, true
}

func (p *problems) boolean(n ast.Node, what string) bool {
	if b, ok := n.(*ast.BoolNode); ok {
		return b.Value
	}
	s, _ := scalar(n)
	p.add(at(n), "", "%s: %q is neither true nor false", what, s)
	return false
}

// sequence calls each for the elements of a list of at most limit.
func (p *problems) sequence(n ast.Node, what string, limit int, each func(n ast.Node)) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, null := n.(*ast.NullNode); null {
			return
		}
		hint := ""
		if s, ok := scalar(n); ok && !strings.ContainsAny(s, "\n,[]") {
			hint = fmt.Sprintf("write [%s]", s)
		}
		p.add(at(n), hint, "%s: found %s, want a list", what, kind(n))
		return
	}
	if p.tooMany(at(n), what, len(seq.Values), limit) {
		return
	}
	for _, v := range seq.Values {
		each(v)
	}
}

func (p *problems) tooMany(where position, what string, n, limit int) bool {
	if n <= limit {
		return false
	}
	p.add(where, "", "%s: %d entries, the limit is %d", what, n, limit)
	return true
}

// quoteYAML writes s so that YAML reads it back as the same string.
func quoteYAML(s string) string {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || (c < '0' || c > '9') && !strings.ContainsRune("_.-/", rune(c))) {
			return strconv.Quote(s)
		}
	}
	switch strings.ToLower(s) {
	case "", "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return strconv.Quote(s)
	}
	return s
}
