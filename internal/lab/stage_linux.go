package lab

import (
	"context"
	"errors"
	"os"

	"github.com/landbridge/landbridge/bench/wan"
)

// lacksKernel says what is missing for a lab in network namespaces, or nothing.
func lacksKernel() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "there are no TAP devices (" + err.Error() + ")"
	}
	return ""
}

// kernelStage is a lab in namespaces as the demo's border.
type kernelStage struct {
	kernelNetwork
	lab  *Lab
	cold string
}

func openKernelStage(ctx context.Context, o Options) (stage, error) {
	lab, err := start(ctx, o, false)
	if err != nil {
		return nil, err
	}
	nw := kernelNetwork{lab.state.Options}
	cold := ""
	err = lab.waitReady(ctx, nw)
	if err == nil {
		cold, err = lab.waitWarm(ctx, demoWarmTimeout)
	}
	if err != nil {
		return nil, errors.Join(err, lab.down())
	}
	return &kernelStage{nw, lab, cold}, nil
}

func (s *kernelStage) Stats() ([]wan.LinkStats, error) {
	stats, err := s.lab.em.Stats()
	if err != nil {
		return nil, errors.Join(err, s.lab.alive())
	}
	return stats, nil
}

func (s *kernelStage) Darken(carrier string, off bool) error { return s.lab.em.Darken(carrier, off) }

func (s *kernelStage) Close() error { return errors.Join(s.lab.alive(), s.lab.down()) }

func (s *kernelStage) Cold() string { return s.cold }
