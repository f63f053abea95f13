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
	// flowEvery is between two new flows, and what a moment is known by.
	flowEvery = 5 * time.Millisecond
	// A carrier goes dark after darkLead of new flows, for darkSpan: not so long that its class leaves it for good.
	darkLead, darkSpan = 200 * time.Millisecond, 300 * time.Millisecond
	// darkRest is between two trials: suspicions are forgotten.
	darkRest = time.Second
	// stoppedFor is how long a daemon has stood still when the carrier goes dark: its own last probe is old.
	stoppedFor = time.Second
	// steadyFor is how long flows come while nothing is dark, and darkSettle is before it: estimates know the carriers.
	steadyFor  = 6 * time.Second
	darkSettle = 8 * time.Second
	// homeStep and homeLimit are how often and for how long a class is waited for on the carrier that is to go dark. What the
	// trials do to it counts as flapping, by which the lab's dwell of a second grows to 64 s.
	homeStep  = 200 * time.Millisecond
	homeLimit = 90 * time.Second

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

// sink takes the flows of these trials, and reads nothing: they are watched on the links.
func (lab *Lab) sink() (*net.UDPConn, error) {
	return wan.ListenUDPIn(lab.state.Options.namespace(machineOrigin), originAt(flowPort))
}

// brownouts lets carriers become worse under realtime flows, in one lab.
func (lab *Lab) brownouts(ctx context.Context) (brown []BrownoutTrial, err error) {
	sink, err := lab.sink()
	if err != nil {
		return brown, err
	}
	defer sink.Close()
	for _, l := range lab.links {
		l.Impairment.Loss = usualLoss
		if err := lab.em.Change(l.Name, l.Impairment); err != nil {
			return brown, err
		}
	}
	rest := usualFor
	for number, change := range []string{"loss", "delay", "loss"} {
		if err := sleep(ctx, rest); err != nil {
			return brown, err
		}
		b, err := lab.brownout(ctx, change, uint16(number))
		if err != nil {
			return brown, fmt.Errorf("brownout: %w", err)
		}
		brown = append(brown, b)
		rest = brownoutRest
	}
	return brown, lab.alive()
}

// darkPlan is how each carrier gets the flows of a class in a lab of opposed classes: cm is fastest; cu loses least, also after
// it was dark, when the others lose addedLoss more; and ct does while cu is out.
var darkPlan = []struct {
	link, class, out string
	worse            []string
}{{"cu", "realtime", "", []string{"ct", "cm"}}, {"cm", "interactive", "", nil}, {"ct", "realtime", "cu", []string{"cm"}}}

const addedLoss = 0.1

// dark lets each carrier of the lab's scenario go dark under new flows, after some of them came while none was.
func (lab *Lab) dark(ctx context.Context) (dark []DarkTrial, steady []SteadyTrial, err error) {
	sink, err := lab.sink()
	if err != nil {
		return dark, steady, err
	}
	defer sink.Close()
	scenario, number := lab.state.Options.Scenario, uint16(0)
	if err := sleep(ctx, darkSettle); err != nil {
		return dark, steady, err
	}
	for _, plan := range darkPlan {
		if err := lab.clear(plan.out, plan.worse, true); err != nil {
			return dark, steady, err
		}
		if err := lab.home(ctx, plan.class, plan.link); err != nil {
			return dark, steady, err
		}
		for _, stopped := range []bool{false, true} {
			s := SteadyTrial{Scenario: scenario, Link: plan.link, Stopped: stopped}
			if number, err = lab.steady(ctx, &s, plan.class, number); err != nil {
				return dark, steady, fmt.Errorf("flows while nothing is dark: %w", err)
			}
			steady = append(steady, s)
		}
		for _, stopped := range []bool{false, false, true, true} {
			if err := errors.Join(sleep(ctx, darkRest), lab.home(ctx, plan.class, plan.link)); err != nil {
				return dark, steady, err
			}
			d := DarkTrial{Scenario: scenario, Link: plan.link, Stopped: stopped}
			if number, err = lab.darken(ctx, &d, plan.class, number); err != nil {
				return dark, steady, fmt.Errorf("dark path: %w", err)
			}
			dark = append(dark, d)
		}
		if err := lab.clear(plan.out, plan.worse, false); err != nil {
			return dark, steady, err
		}
	}
	return dark, steady, lab.alive()
}

// clear takes one carrier out of the way and makes others worse, or undoes that.
func (lab *Lab) clear(out string, worse []string, on bool) (err error) {
	if out != "" {
		err = lab.em.Darken(out, on)
	}
	for _, l := range lab.links {
		if slices.Contains(worse, l.Name) {
			if on {
				l.Impairment.Loss += addedLoss
			}
			err = errors.Join(err, lab.em.Change(l.Name, l.Impairment))
		}
	}
	return err
}

// home waits until a class is on a carrier, and its new flows are put there.
func (lab *Lab) home(ctx context.Context, class, link string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, homeLimit, fmt.Errorf("flows of class %s are not to be had on %s", class, link))
	defer cancel()
	for {
		path, next, err := lab.classLink(ctx, class)
		if err == nil && path == link && next == link {
			return nil
		}
		if err := errors.Join(err, sleep(ctx, homeStep)); err != nil {
			return err
		}
	}
}

// classLink is the carrier that a class has at gateway sha, and the one that its next flow is put on.
func (lab *Lab) classLink(ctx context.Context, class string) (home, next string, err error) {
	c := admin.NewClient(lab.socket(machineSha))
	defer c.Close()
	p, err := c.Paths(ctx)
	if err != nil {
		return "", "", err
	}
	for _, peer := range p.Peers {
		for _, ch := range peer.Classes {
			if ch.Class != class {
				continue
			}
			for _, l := range lab.links {
				if ch.Path == l.Name+"-"+l.Name {
					home = l.Name
				}
				if ch.Next == l.Name+"-"+l.Name {
					next = l.Name
				}
			}
		}
	}
	if next == "" {
		err = fmt.Errorf("gateway sha has no path for %s: %+v", class, p.Peers)
	}
	return home, next, err
}

// recordFlows follows the trials' flows over all carriers.
func (lab *Lab) recordFlows() error {
	for _, l := range lab.links {
		if err := lab.em.Record(wan.RecordConfig{Link: l.Name, Low: flowPort, High: quickPort, Max: 1 << 14}); err != nil {
			return err
		}
	}
	return nil
}

// newFlows sends the first packets of new flows, one every flowEvery, numbered from one on, and returns the next number.
func (lab *Lab) newFlows(ctx context.Context, class string, first uint16, count int) (next uint16, err error) {
	err = wan.InNamespace(lab.state.Options.namespace(machineClient), func() error {
		tick := time.NewTicker(flowEvery)
		defer tick.Stop()
		for range count {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			c, err := flow(class, first)
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
func flow(class string, number uint16) (*net.UDPConn, error) {
	const firstSource = 40000
	port := flowPort
	if class == "interactive" {
		port = quickPort
	}
	return net.DialUDP("udp4", &net.UDPAddr{IP: clientAddr.Addr().AsSlice(), Port: firstSource + int(number)}, net.UDPAddrFromAddrPort(originAt(port)))
}

// stopSha lets the daemon of gateway sha stand still until resume is called.
func (lab *Lab) stopSha(ctx context.Context) (resume func(), err error) {
	i := slices.IndexFunc(lab.state.Processes, func(p *process) bool { return p.Name == machineSha })
	pid := lab.state.Processes[i].PID
	resume = func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return resume, err
	}
	return resume, sleep(ctx, stoppedFor)
}

// recorded sends new flows for a while, with gateway sha's daemon stopped or not, and returns where each went; at the time
// lead it calls then.
func (lab *Lab) recorded(ctx context.Context, stopped bool, class string, first uint16, span, lead time.Duration, then func() error) (flows map[uint32]departure, next uint16, err error) {
	if stopped {
		resume, err := lab.stopSha(ctx)
		defer resume()
		if err != nil {
			return nil, first, err
		}
	}
	if err := lab.recordFlows(); err != nil {
		return nil, first, err
	}
	type sent struct {
		next uint16
		err  error
	}
	done := make(chan sent, 1)
	go func() {
		next, err := lab.newFlows(ctx, class, first, int(span/flowEvery))
		done <- sent{next, err}
	}()
	err = sleep(ctx, lead)
	if err == nil {
		err = then()
	}
	s := <-done
	passed, e := lab.em.StopRecords()
	return departures(passed), s.next, errors.Join(err, s.err, e)
}

// steady counts where new flows go while nothing is dark.
func (lab *Lab) steady(ctx context.Context, s *SteadyTrial, class string, first uint16) (next uint16, err error) {
	flows, next, err := lab.recorded(ctx, s.Stopped, class, first, steadyFor, 0, func() error { return nil })
	if err == nil {
		s.judge(flows, int(next-first))
	}
	return next, err
}

// darken lets the carrier of a class go dark while new flows come.
func (lab *Lab) darken(ctx context.Context, d *DarkTrial, class string, first uint16) (next uint16, err error) {
	var at time.Duration
	flows, next, err := lab.recorded(ctx, d.Stopped, class, first, darkLead+darkSpan, darkLead, func() error {
		at = probe.Now()
		return lab.em.Darken(d.Link, true)
	})
	if err = errors.Join(err, lab.em.Darken(d.Link, false)); err == nil {
		d.judge(flows, at)
	}
	return next, err
}

// brownout makes the carrier of realtime worse under a flow, and mends it again.
func (lab *Lab) brownout(ctx context.Context, change string, number uint16) (b BrownoutTrial, err error) {
	if _, b.Link, err = lab.classLink(ctx, "realtime"); err != nil {
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
		c, err = flow("realtime", number)
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
