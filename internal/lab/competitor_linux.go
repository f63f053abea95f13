package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// competitorNetwork is the two gateways' own TCP across one carrier.
type competitorNetwork struct {
	opt        Options
	carrier    string
	congestion string
}

func (n competitorNetwork) at(port int) netip.AddrPort {
	return netip.AddrPortFrom(carrierAddr(slices.Index(carriers, n.carrier), 2).Addr(), uint16(port))
}

// Dial implements Network.
func (n competitorNetwork) Dial(ctx context.Context, port int) (c net.Conn, err error) {
	return dialTCP(ctx, n.opt.namespace(machineSha), n.at(port), n.congestion, false)
}

// Listen implements Network.
func (n competitorNetwork) Listen(port int) (net.Listener, error) {
	return listenTCP(n.opt.namespace(machineFra), n.at(port), n.congestion, false)
}

// competitor is a running competing flow.
type competitor struct {
	result   CompetitorResult
	stop     context.CancelFunc
	received func() int64
	began    time.Time
	done     chan error
}

// startCompetitor opens the competing flow, which runs until end is called.
func (lab *Lab) startCompetitor(ctx context.Context, o RunOptions) (*competitor, error) {
	w, err := wayNamed(o.Competitor)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &competitor{
		result: CompetitorResult{Via: o.Competitor, Carrier: o.CompetitorCarrier},
		stop:   cancel, began: time.Now(), done: make(chan error, 1),
	}
	started := make(chan struct{})
	go func() {
		res, err := RunBulk(ctx, competitorNetwork{lab.state.Options, o.CompetitorCarrier, w.congestion}, BulkOptions{
			Seed: lab.state.Options.Seed, Upload: o.Upload, Window: maxWindow, Watch: func(received func() int64) {
				c.received = received
				close(started)
			},
		})
		if err == nil { // the flow is over, and only a failure ends it before its time
			err = errors.New(strings.Join(res.Errors, "; "))
		}
		c.done <- err
	}()
	select {
	case <-started:
		return c, nil
	case err := <-c.done:
		cancel()
		return nil, fmt.Errorf("competitor: %w", err)
	}
}

// end takes the competitor's count now; the flow goes on until close.
func (c *competitor) end(before, after []wan.LinkStats, upload bool) {
	payload := c.received()
	c.result.GoodputMbit = mbit(payload, time.Since(c.began))
	c.result.setBytes(payload, before, after, upload)
}

// close ends the flow and says whether it had failed by itself.
func (c *competitor) close() error {
	c.stop()
	if err := <-c.done; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the competitor ended by itself: %w", err)
	}
	return nil
}
