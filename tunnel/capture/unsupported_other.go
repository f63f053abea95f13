//go:build !linux

package capture

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/landbridge/landbridge/bpf"
)

// Transparent capture is a thing of Linux; the explicit proxies work
// everywhere.

type (
	transparentState struct{}
	hook             struct{}
)

var errLinuxOnly = fmt.Errorf("transparent capture needs Linux: %w", errors.ErrUnsupported)

// Start returns an error that is errors.ErrUnsupported.
func (t *Transparent) Start(context.Context, Handler) error { return errLinuxOnly }

// SetPrefixes returns an error that is errors.ErrUnsupported.
func (t *Transparent) SetPrefixes(_, _ []netip.Prefix) error { return errLinuxOnly }

// SetPolicy returns an error that is errors.ErrUnsupported.
func (t *Transparent) SetPolicy(bpf.Policy) error { return errLinuxOnly }

// SetSettings returns an error that is errors.ErrUnsupported.
func (t *Transparent) SetSettings(bpf.Settings) error { return errLinuxOnly }

// Close does nothing.
func (t *Transparent) Close() error { return nil }

// Start returns an error that is errors.ErrUnsupported.
func (r *Return) Start() error { return errLinuxOnly }

// Close does nothing.
func (r *Return) Close() error { return nil }

// DialTransparent returns an error that is errors.ErrUnsupported.
func DialTransparent(context.Context, netip.AddrPort, netip.AddrPort) (Conn, error) {
	return nil, errLinuxOnly
}
