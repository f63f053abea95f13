package lab

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// startTunnel starts both gateways and the agent. They need no order.
func (lab *Lab) startTunnel(detached bool) error {
	o := lab.state.Options
	if err := writeDocuments(lab.dir, o); err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(lab.dir, name) }
	for _, node := range []string{machineSha, machineFra} {
		if _, err := lab.start(node, node, detached, filepath.Join(o.Programs, gatewayProgram),
			"--fleet", in(fleetFile), "--node", node, "--key", in(node+keySuffix), "--socket", in(node+sockSuffix)); err != nil {
			return err
		}
	}
	if o.NoAgent {
		return nil
	}
	_, err := lab.start(machineAgent, machineAgent, detached, filepath.Join(o.Programs, agentProgram),
		"--config", in(agentFile), "--socket", in(machineAgent+sockSuffix))
	return err
}

const (
	readyTimeout = 20 * time.Second // for the first byte from the client to the origin
	readyRetry   = 200 * time.Millisecond
	probeTimeout = 3 * time.Second // one attempt
)

// waitReady waits until a small object comes through from the origin.
func (lab *Lab) waitReady(ctx context.Context, nw Network) error {
	l, err := nw.Listen(workloadPort)
	if err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	srv := newServer(l, nil)
	defer srv.Close()
	end := time.Now().Add(readyTimeout)
	for {
		err := askOrigin(ctx, nw)
		if err == nil {
			return nil
		}
		if dead := lab.alive(); dead != nil {
			return dead
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing came through from the origin within %v: %w", readyTimeout, err)
		}
		if err := sleep(ctx, readyRetry); err != nil {
			return err
		}
	}
}

func askOrigin(ctx context.Context, nw Network) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := nw.Dial(ctx, workloadPort)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(request{Op: opObject, Length: 1}.append(nil)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}
