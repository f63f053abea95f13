package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/pathsel/probe"
)

const (
	// flowPort is where the flows of these trials go: in the range that is sent direct.
	flowPort = callPort + 1000
	// flowEvery is between two new flows, and what a moment is known by.
	flowEvery = 5 * time.Millisecond
	// A carrier goes dark after darkLead of new flows, for darkSpan: not so long that it is taken for down.
	darkLead, darkSpan = 200 * time.Millisecond, 800 * time.Millisecond
	// darkRest is between two trials: suspicions are forgotten.
	darkRest = 3 * time.Second
	// stoppedFor is how long a daemon has stood still when the carrier goes dark: its own last probe is old.
	stoppedFor = time.Second

	// usualLoss is what carriers have before a brownout, usualFor how long, so that estimates know it.
	usualLoss = 0.01
	usualFor  = 35 * time.Second
	// brownoutLoss and brownoutDelay are the two that the targets name; brownoutWatch is how long a flow is watched.
	brownoutLoss  = 0.08
	brownoutDelay = 60 * time.Millisecond
	brownoutWatch = 6 * time.Second
	// brownoutRest is between two trials: moves that follow each other sooner are held back as flapping.
	brownoutRest = 22 * time.Second
)

// dark lets carriers become worse, and go dark, under realtime flows, in one lab.
func (lab *Lab) dark(ctx context.Context) (dark []DarkTrial, brown []BrownoutTrial, err error) {
	sink, err := wan.ListenUDPIn(lab.state.Options.namespace(machineOrigin), originAt(flowPort))
	if err != nil {
		return dark, brown, err
	}
	defer sink.Close() // it reads nothing: the flows are watched on the links
	for _, l := range lab.links {
		l.Impairment.Loss = usualLoss
		if err := lab.em.Change(l.Name, l.Impairment); err != nil {
			return dark, brown, err
		}
	}
	rest := usualFor
	number := uint16(0)
	for _, change := range []string{"loss", "delay", "loss"} {
		if err := sleep(ctx, rest); err != nil {
			return dark, brown, err
		}
		b, err := lab.brownout(ctx, change, number)
		if err != nil {
			return dark, brown, fmt.Errorf("brownout: %w", err)
		}
		brown = append(brown, b)
		number, rest = number+1, brownoutRest
	}
	for _, l := range lab.links {
		if err := lab.em.Change(l.Name, l.Impairment); err != nil {
			return dark, brown, err
		}
	}
	for _, stopped := range []bool{false, false, false, false, true, true} {
		if err := sleep(ctx, darkRest); err != nil {
			return dark, brown, err
		}
		d, next, err := lab.darken(ctx, stopped, number)
		if err != nil {
			return dark, brown, fmt.Errorf("dark path: %w", err)
		}
		dark = append(dark, d)
		number = next
	}
	return dark, brown, lab.alive()
}

// realtimeLink is the carrier that gateway sha puts new realtime flows on.
func (lab *Lab) realtimeLink(ctx context.Context) (string, error) {
	c := admin.NewClient(lab.socket(machineSha))
	defer c.Close()
	p, err := c.Paths(ctx)
	if err != nil {
		return "", err
	}
	for _, peer := range p.Peers {
		for _, ch := range peer.Classes {
			for _, l := range lab.links {
				if ch.Class == "realtime" && ch.Next == l.Name+"-"+l.Name {
					return l.Name, nil
				}
			}
		}
	}
	return "", fmt.Errorf("gateway sha has no path for realtime: %+v", p.Peers)
}

// recordFlows follows the trials' flows over all carriers.
func (lab *Lab) recordFlows() error {
	for _, l := range lab.links {
		if err := lab.em.Record(wan.RecordConfig{Link: l.Name, Low: flowPort, High: flowPort, Max: 1 << 14}); err != nil {
			return err
		}
	}
	return nil
}

// newFlows sends the first packets of new flows, one every flowEvery, numbered from one on, and returns the next number.
func (lab *Lab) newFlows(ctx context.Context, first uint16, count int) (next uint16, err error) {
	err = wan.InNamespace(lab.state.Options.namespace(machineClient), func() error {
		tick := time.NewTicker(flowEvery)
		defer tick.Stop()
		for range count {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			c, err := flow(first)
			if err != nil {
				return err
			}
			_, err = c.Write(binary.BigEndian.AppendUint32(nil, uint32(first)))
			c.Close()
			if err != nil && !transient(err) {
				return err
			}
			first++
		}
		return nil
	})
	return first, err
}

// flow opens the flow of that number: its source port is nobody else's.
func flow(number uint16) (*net.UDPConn, error) {
	const firstSource = 40000
	return net.DialUDP("udp4", &net.UDPAddr{IP: clientAddr.Addr().AsSlice(), Port: firstSource + int(number)}, net.UDPAddrFromAddrPort(originAt(flowPort)))
}

// darken lets the carrier of realtime go dark while new flows come.
func (lab *Lab) darken(ctx context.Context, stopped bool, first uint16) (d DarkTrial, next uint16, err error) {
	if d.Link, err = lab.realtimeLink(ctx); err != nil {
		return d, first, err
	}
	d.Stopped, d.LinkDelay = stopped, millis(pick(lab.links, []string{d.Link})[0].Impairment.Delay)
	if stopped {
		i := slices.IndexFunc(lab.state.Processes, func(p *process) bool { return p.Name == machineSha })
		pid := lab.state.Processes[i].PID
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return d, first, err
		}
		defer syscall.Kill(pid, syscall.SIGCONT)
		if err := sleep(ctx, stoppedFor); err != nil {
			return d, first, err
		}
	}
	if err := lab.recordFlows(); err != nil {
		return d, first, err
	}
	type sent struct {
		next uint16
		err  error
	}
	done := make(chan sent, 1)
	go func() {
		next, err := lab.newFlows(ctx, first, int((darkLead+darkSpan)/flowEvery))
		done <- sent{next, err}
	}()
	err = sleep(ctx, darkLead)
	at := probe.Now()
	err = errors.Join(err, lab.em.Darken(d.Link, true))
	s := <-done
	err = errors.Join(err, s.err, lab.em.Darken(d.Link, false))
	passed, e := lab.em.StopRecords()
	if err = errors.Join(err, e); err != nil {
		return d, s.next, err
	}
	d.judge(departures(passed), at)
	return d, s.next, nil
}

// brownout makes the carrier of realtime worse under a flow, and mends it again.
func (lab *Lab) brownout(ctx context.Context, change string, number uint16) (b BrownoutTrial, err error) {
	if b.Link, err = lab.realtimeLink(ctx); err != nil {
		return b, err
	}
	usual := pick(lab.links, []string{b.Link})[0].Impairment
	usual.Loss = usualLoss
	worse := usual
	switch change {
	case "loss":
		worse.Loss = brownoutLoss
		b.Change = fmt.Sprintf("loss %g %% to %g %%", 100*usual.Loss, 100*worse.Loss)
	case "delay":
		worse.Delay += brownoutDelay
		b.Change = fmt.Sprintf("delay + %v each way", brownoutDelay)
	}
	var c *net.UDPConn
	if err := wan.InNamespace(lab.state.Options.namespace(machineClient), func() (err error) {
		c, err = flow(number)
		return err
	}); err != nil {
		return b, err
	}
	defer c.Close()
	if err := lab.recordFlows(); err != nil {
		return b, err
	}
	client := admin.NewClient(lab.socket(machineSha))
	defer client.Close()
	before, err := client.Events(ctx, 0)
	if err != nil {
		return b, err
	}
	var at time.Duration
	tick := time.NewTicker(callInterval)
	defer tick.Stop()
	for i := range int(brownoutWatch / callInterval) {
		select {
		case <-ctx.Done():
			return b, context.Cause(ctx)
		case <-tick.C:
		}
		if i == int(time.Second/callInterval) {
			at = probe.Now()
			if err := lab.em.Change(b.Link, worse); err != nil {
				return b, err
			}
		}
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil && !transient(err) {
			return b, err
		}
	}
	passed, err := lab.em.StopRecords()
	if err = errors.Join(err, lab.em.Change(b.Link, usual)); err != nil {
		return b, err
	}
	b.judge(departures(passed), at)
	after, err := client.Events(ctx, before.Last)
	for _, e := range after.Events {
		b.Why = append(b.Why, e.Text)
	}
	return b, err
}
