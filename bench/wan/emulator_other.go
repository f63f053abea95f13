//go:build !linux

package wan

import "time"

// Emulator is only available on Linux.
type Emulator struct{}

// NewEmulator returns ErrUnsupported.
func NewEmulator(uint64, []LinkConfig) (*Emulator, error) { return nil, ErrUnsupported }

// Stats returns nothing.
func (*Emulator) Stats() []LinkStats { return nil }

// CPU returns 0.
func (*Emulator) CPU() time.Duration { return 0 }

// SetImpairment returns ErrUnsupported.
func (*Emulator) SetImpairment(string, Direction, Impairment) error { return ErrUnsupported }

// Darken returns ErrUnsupported.
func (*Emulator) Darken(string, bool) error { return ErrUnsupported }

// Flood is only available on Linux.
type Flood struct{}

// Flood returns ErrUnsupported.
func (*Emulator) Flood(FloodConfig) (*Flood, error) { return nil, ErrUnsupported }

// Recording is only available on Linux.
type Recording struct{}

// Record returns ErrUnsupported.
func (*Emulator) Record(RecordConfig) (*Recording, error) { return nil, ErrUnsupported }

// Stop returns nothing.
func (*Recording) Stop() ([]Passage, int) { return nil, 0 }

// Stop returns nothing.
func (*Flood) Stop() FloodStats { return FloodStats{} }

// Close does nothing.
func (*Emulator) Close() error { return nil }

// CreateNamespace returns ErrUnsupported.
func CreateNamespace(string) error { return ErrUnsupported }

// DeleteNamespace returns ErrUnsupported.
func DeleteNamespace(string) error { return ErrUnsupported }

// InNamespace returns ErrUnsupported.
func InNamespace(string, func() error) error { return ErrUnsupported }
