package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
)

// Error is a failed operation on the kernel with, where there is one, a hint
// for the person who can do something about it.
type Error struct {
	Op     string
	Err    error
	Advice string // "" if there is none
}

// Error returns operation and cause, without the hint.
func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what to do about it, or "".
func (e *Error) Hint() string { return e.Advice }

// MinKernel is the oldest kernel that the programs are written for: the youngest
// things they use (bpf_check_mtu, memory arguments of global functions) came with
// 5.12, and 5.15 is the next one that is still looked after. See [Features].
const MinKernel = "5.15"

// explain wraps err as *Error. nil stays nil.
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Err: err}
	var ve *ebpf.VerifierError
	switch {
	case errors.Is(err, os.ErrPermission):
		e.Err = fmt.Errorf("missing capability: %w", err)
		e.Advice = "needs CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN before kernel 5.8): run as root or grant them in the service unit"
	case errors.As(err, &ve):
		e.Advice = "the kernel refused the program: Linux " + MinKernel + " or later is needed"
	case errors.Is(err, ebpf.ErrNotSupported):
		e.Advice = "the kernel lacks a feature: Linux " + MinKernel + " or later with CONFIG_BPF_SYSCALL, CONFIG_BPF_STREAM_PARSER and CONFIG_NET_CLS_BPF or tcx is needed"
	case strings.Contains(err.Error(), "sockmap") || strings.Contains(err.Error(), "listeners"):
		e.Advice = "the kernel needs CONFIG_BPF_STREAM_PARSER for sockmaps"
	}
	return e
}
