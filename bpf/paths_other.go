//go:build !linux

package bpf

// Paths is the live path table, a thing of Linux.
type Paths struct{}
