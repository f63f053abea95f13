// Package hint attaches a piece of advice to an error: what the person in front of the terminal can do about it.
//
// Libraries that know the cure call [With]; the programs print the error on one line and [Of] on the next. The advice
// is not part of the error's text, so wrapping an error never buries it in the middle of a line.
package hint

import (
	"errors"
	"fmt"
)

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }
func (h *hinted) Hint() string  { return h.hint }

// With returns err carrying advice made from format and args. A nil err stays nil.
func With(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// Of returns the outermost advice err carries, or "": what a Hint() string method in its chain says, those of With and
// those of other packages' error types.
func Of(err error) string {
	var h interface {
		error
		Hint() string
	}
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
