//go:build !linux

package lab

import (
	"context"
	"fmt"
	"io"

	"github.com/landbridge/landbridge/bench/wan"
)

// Run needs Linux.
func Run(context.Context, RunOptions, io.Writer) (*Result, *Trace, error) {
	return nil, nil, fmt.Errorf("lab: %w", wan.ErrUnsupported)
}

// Compare needs Linux.
func Compare(context.Context, CompareOptions, io.Writer) (*Comparison, error) {
	return nil, fmt.Errorf("lab: %w", wan.ErrUnsupported)
}

// Prove needs Linux.
func Prove(context.Context, ProofOptions, io.Writer) (*Proof, error) {
	return nil, fmt.Errorf("lab: %w", wan.ErrUnsupported)
}

// Down needs Linux.
func Down(string) (bool, error) { return false, fmt.Errorf("lab: %w", wan.ErrUnsupported) }

// Up needs Linux.
func Up(context.Context, Options, io.Writer) error { return fmt.Errorf("lab: %w", wan.ErrUnsupported) }

// Status needs Linux.
func Status(string, io.Writer) error { return fmt.Errorf("lab: %w", wan.ErrUnsupported) }

// Dark needs Linux.
func Dark(string, string, bool) error { return fmt.Errorf("lab: %w", wan.ErrUnsupported) }

// Exec needs Linux.
func Exec(string, string, []string) error { return fmt.Errorf("lab: %w", wan.ErrUnsupported) }

// Serve needs Linux.
func Serve(context.Context, string) error { return fmt.Errorf("lab: %w", wan.ErrUnsupported) }

func lacksKernel() string { return "network namespaces need Linux" }

func openKernelStage(context.Context, Options) (stage, error) {
	return nil, fmt.Errorf("lab: %w", wan.ErrUnsupported)
}

func openMemoryTunnel(context.Context, Options) (stage, error) {
	return nil, fmt.Errorf("gateways: %w", wan.ErrUnsupported)
}
