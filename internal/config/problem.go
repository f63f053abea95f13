package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxProblems bounds how many problems one document reports: beyond a screenful nobody reads on, and a file of the
// wrong kind would otherwise report every line.
const maxProblems = 50

// ErrInvalid marks every document that was refused; the single findings are *Problem values inside the error.
var ErrInvalid = errors.New("invalid configuration")

var (
	// ErrUnreadable marks a document that could not be read at all.
	ErrUnreadable = errors.New("cannot be read")
	// ErrUnknownNode marks a node's name that the fleet document does not have.
	ErrUnknownNode = errors.New("no gateway of the fleet")
)

// unreadable keeps the text of the system's error, which says it all.
type unreadable struct{ error }

func (u unreadable) Unwrap() []error { return []error{u.error, ErrUnreadable} }

// A Problem is one finding in a document, with its place. Its text is one line.
type Problem struct {
	File         string // as given to Load
	Line, Column int    // from 1; 0 where the problem is the whole file's
	Message      string
	Hint         string // what to do about it, may be ""
}

func (p *Problem) Error() string {
	s := fmt.Sprintf("%s: %s", p.File, p.Message)
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	}
	if p.Hint != "" {
		s += " (hint: " + p.Hint + ")"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // a file's content must not move the cursor of a terminal or split the line
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Is lets errors.Is(err, ErrInvalid) find a Problem.
func (p *Problem) Is(target error) bool { return target == ErrInvalid }

// Problems returns the findings inside an error of this package, in the document's order.
func Problems(err error) []*Problem {
	var one *Problem
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []*Problem
		for _, e := range many.Unwrap() {
			out = append(out, Problems(e)...)
		}
		return out
	}
	if errors.As(err, &one) {
		return []*Problem{one}
	}
	return nil
}

type position struct{ line, col int }

// problems collects findings, so that one run of check shows all of them.
type problems struct {
	file string
	list []*Problem
}

func (p *problems) add(at position, hint, format string, args ...any) {
	p.list = append(p.list, &Problem{File: p.file, Line: at.line, Column: at.col, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// err joins the findings in the order of the document, or returns nil.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, 0, len(p.list))
	for i, pr := range p.list {
		if i == maxProblems {
			errs = append(errs, &Problem{File: p.file, Message: fmt.Sprintf("%d more problems are not shown", len(p.list)-i)})
			break
		}
		errs = append(errs, pr)
	}
	return errors.Join(errs...)
}

// didYouMean returns "did you mean X?" for the candidate nearest to got, or "" when none is near.
func didYouMean(got string, candidates []string) string {
	best, bestDist := "", 3
	for _, c := range candidates {
		if d := editDistance(got, c); d < bestDist && d < max(len(got), len(c)) {
			best, bestDist = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// editDistance counts inserted, deleted and replaced bytes, and exchanged neighbours as one.
func editDistance(a, b string) int {
	const longest = 64 // names and keys are shorter; the table below is quadratic
	if len(a) > longest || len(b) > longest {
		return longest
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
