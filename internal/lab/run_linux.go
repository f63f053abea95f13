package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// kernelNetwork is the lab's client and origin, over the kernel's TCP. Its sockets ask for their congestion control
// themselves: a namespace's default can only be one that the machine allows to everybody.
type kernelNetwork struct{ opt Options }

func (k kernelNetwork) Dial(ctx context.Context, port int) (net.Conn, error) {
	w := k.opt.way()
	return dialTCP(ctx, k.opt.namespace(machineClient), k.opt.via().entry(k.opt, port), w.congestion, w.multipath)
}

func (k kernelNetwork) Listen(port int) (net.Listener, error) {
	w := k.opt.way()
	return listenTCP(k.opt.namespace(machineOrigin), originAt(port), w.congestion, w.multipath)
}

func dialTCP(ctx context.Context, namespace string, at netip.AddrPort, control string, multipath bool) (c net.Conn, err error) {
	err = wan.InNamespace(namespace, func() (err error) {
		d := net.Dialer{Control: congestion(control)}
		d.SetMultipathTCP(multipath)
		c, err = d.DialContext(ctx, "tcp", at.String())
		return err
	})
	return c, err
}

// inheritedFor bounds how long a child that is being started may hold what this process has closed: until it runs its program.
const inheritedFor = 5 * time.Second

func listenTCP(namespace string, at netip.AddrPort, control string, multipath bool) (l net.Listener, err error) {
	err = wan.InNamespace(namespace, func() (err error) {
		lc := net.ListenConfig{Control: congestion(control)}
		lc.SetMultipathTCP(multipath)
		for end := time.Now().Add(inheritedFor); ; time.Sleep(pollEvery) {
			l, err = lc.Listen(context.Background(), "tcp", at.String())
			// A listener on the port may have been closed just now, while another goroutine forked.
			if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
				return err
			}
		}
	})
	return l, err
}

func originAt(port int) netip.AddrPort { return netip.AddrPortFrom(originAddr.Addr(), uint16(port)) }

// congestion sets a socket's congestion control; what a listener accepts inherits it.
func congestion(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		}); e != nil {
			return e
		}
		if err != nil {
			return fmt.Errorf("set congestion control %q: %w", name, err)
		}
		return nil
	}
}

// Run brings a lab up, runs one workload and takes the lab down. Progress goes to the writer, which may be nil. A run
// whose flows failed has a result with Errors; the error is for a run that did not come about.
func Run(ctx context.Context, o RunOptions, progress io.Writer) (res *Result, trace *Trace, err error) {
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	if progress == nil {
		progress = io.Discard
	}
	begin := time.Now()
	lab, cold, err := ready(ctx, o.Options)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if e := lab.down(); e != nil && err == nil {
			err = fmt.Errorf("take the lab down: %w", e)
		}
	}()
	fmt.Fprintf(progress, "lab ready after %.1f s; %s for %.0f s\n", time.Since(begin).Seconds(), o.Workload, o.Window.Seconds())
	res, trace, err = lab.measure(ctx, kernelNetwork{lab.state.Options}, o)
	if err == nil && cold != "" {
		res.Warnings = append(res.Warnings, coldWarning(cold))
	}
	return res, trace, err
}

func coldWarning(cold string) string { return fmt.Sprintf("not warm after %v: %s", warmTimeout, cold) }

// ready brings a lab up until payload comes through and the tunnel is warm, and says what was still cold. On error
// nothing is left behind.
func ready(ctx context.Context, o Options) (lab *Lab, cold string, err error) {
	if lab, err = start(ctx, o, false); err != nil {
		return nil, "", err
	}
	if err = lab.waitReady(ctx, kernelNetwork{lab.state.Options}); err == nil {
		cold, err = lab.waitWarm(ctx, warmTimeout)
	}
	if err != nil {
		return nil, "", errors.Join(err, lab.down())
	}
	return lab, cold, nil
}

// measure runs the workload between two readings of all counters.
func (lab *Lab) measure(ctx context.Context, nw kernelNetwork, o RunOptions) (*Result, *Trace, error) {
	opt := lab.state.Options
	res := &Result{
		Scenario: opt.Scenario, Workload: o.Workload, Via: opt.Via, Seed: opt.Seed, Agent: !opt.NoAgent,
		Carriers: opt.Carriers, Congestion: opt.way().congestion, LimitMbit: steppedLimit(lab.links, o.Steps, o.Window),
		BestPathRTT: millis(bestPathRTT(lab.links, !opt.NoAgent)),
	}
	var before, after reading
	var beforeErr, afterErr error
	beside := besides{lab: lab, o: o}
	var trace *Trace
	stopTrace := func() *Trace { return nil }
	onEnd := func() {
		after, afterErr = lab.reading()
		beside.end(before.links, after.links)
		trace = stopTrace()
	}
	watch := func(received func() int64) {
		before, beforeErr = lab.reading()
		beside.begin(ctx)
		if o.Trace {
			stopTrace = lab.startTracer(ctx, o.Upload, received)
		}
	}
	var err error
	loud := "" // why the idle workload did not begin in quiet
	switch o.Workload {
	case WorkloadBulk:
		res.Flows, res.Upload = max(o.Flows, 1), o.Upload
		b, e := RunBulk(ctx, nw, BulkOptions{
			Seed: opt.Seed, Flows: o.Flows, Upload: o.Upload, Window: o.Window, Bytes: o.Bytes, Cycle: outageCycle(lab.links),
			OnEnd: onEnd, Watch: watch,
		})
		err = e
		res.setBulk(b)
	case WorkloadObjects:
		b, e := RunObjects(ctx, nw, ObjectsOptions{Seed: opt.Seed, Window: o.Window, OnEnd: onEnd, Watch: watch})
		err = e
		res.setObjects(b)
	case WorkloadMixed:
		res.Flows = max(o.Flows, 1)
		b, objects, e := RunMixed(ctx, nw, BulkOptions{
			Seed: opt.Seed, Flows: o.Flows, Window: o.Window, Cycle: outageCycle(lab.links), OnEnd: onEnd, Watch: watch,
		})
		err = e
		res.setMixed(b, objects)
	case WorkloadIdle:
		loud, err = lab.waitQuiet(ctx)
		if err != nil {
			break
		}
		watch(func() int64 { return 0 })
		err = sleep(ctx, o.Window)
		onEnd()
		res.Seconds, res.SHA256OK = round(o.Window.Seconds(), 3), true
	case WorkloadCalls:
		b, e := RunCalls(ctx, nw, CallsOptions{Seed: opt.Seed, Window: o.Window, OnEnd: onEnd, Watch: watch})
		err = e
		res.setCalls(b)
	}
	besideErr := beside.close(res)
	if trace == nil {
		trace = stopTrace() // the measurement never came to its end
	}
	if err == nil {
		err = errors.Join(beforeErr, afterErr, besideErr)
	}
	if err != nil {
		if dead := lab.alive(); dead != nil {
			err = fmt.Errorf("%w; %w", err, dead)
		}
		return nil, nil, err
	}
	lab.finish(ctx, res, before, after)
	if loud != "" {
		res.Warnings = append(res.Warnings, loud)
	}
	if trace != nil {
		trace.Result = res
	}
	return res, trace, nil
}

// busyShare of the processors' time is more than a run leaves to other work without suffering from it.
const busyShare = 0.3

// reading is every counter at one moment.
type reading struct {
	at      time.Time
	links   []wan.LinkStats
	cpu     map[string]time.Duration
	machine time.Duration
}

func (lab *Lab) reading() (reading, error) {
	r := reading{at: time.Now(), machine: machineCPU(), cpu: map[string]time.Duration{"lab": ownCPU()}}
	for _, p := range lab.state.Processes {
		r.cpu[p.Name] = p.cpu()
	}
	var err error
	r.links, err = lab.em.Stats()
	return r, err
}

func (lab *Lab) finish(ctx context.Context, res *Result, before, after reading) {
	paths := pathResults(before.links, after.links, lab.state.Options.Carriers)
	rtts := lab.pathRTTs(ctx)
	for _, l := range lab.links {
		p := paths[l.Name]
		p.RTTMillis = millis(2 * l.Impairment.Delay)
		if rtt, ok := rtts[l.Name]; ok {
			p.RTTMillis = millis(rtt)
		}
		paths[l.Name] = p
	}
	res.setWire(paths)
	res.CPUSeconds = make(map[string]float64)
	for name, t := range after.cpu {
		res.CPUSeconds[name] = round((t - before.cpu[name]).Seconds(), 2)
	}
	res.Warnings = overloads(before.links, after.links)
	others := after.machine - before.machine
	for name, t := range after.cpu {
		others -= t - before.cpu[name]
	}
	res.OtherCPU = round(max(0, others).Seconds(), 2)
	if all := after.at.Sub(before.at).Seconds() * float64(runtime.NumCPU()); res.OtherCPU > busyShare*all {
		res.Warnings = append(res.Warnings, fmt.Sprintf("other work on this machine took %.0f of %.0f CPU seconds: the run measures that too", res.OtherCPU, all))
	}
	if dead := lab.alive(); dead != nil {
		res.Errors = append(res.Errors, dead.Error())
	}
}
