package lab

import "context"

// viaLandbridge is the gateways and the agent.
type viaLandbridge struct {
	direct
	tidy
}

func (viaLandbridge) check(o Options) error { return findPrograms(o) }

func (viaLandbridge) start(_ context.Context, lab *Lab, detached bool) error {
	return lab.startTunnel(detached)
}
