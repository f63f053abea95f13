package wan

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The emulator's stages, all in one loop on one thread of its own:
//
//	ppoll -> read the ready TAPs -> pipe.offer (the model) -> pipe.pop what is
//	due -> write to the far TAPs -> sleep passEvery -> ppoll (or until the next is due)
//
// One loop instead of a goroutine for each device: a wake-up and a system call
// each cost more than the work on a frame, so all frames of a pass share one
// wake-up, and where io_uring is to be had two system calls (batch_linux.go).
// Go's timers would round idle waits up to a millisecond, so the loop waits in
// the kernel.
const (
	// passEvery is the least time between two passes: frames that come
	// meanwhile share a wake-up. It bounds the delay error together with
	// deliverEarly, which centres it.
	passEvery    = 400 * time.Microsecond
	deliverEarly = passEvery / 2
	// maxFlyingTAP bounds the frames in flight in one direction, and with it
	// memory (50 MB): a second of full frames at 400 Mbit/s. Above it frames are
	// lost, counted Overflow.
	maxFlyingTAP = 1 << 15
	// loopNice is the loop thread's priority: a wire does not slow down because
	// the hosts at its ends are busy.
	loopNice = -15
)

// tapWay is one direction of a link.
type tapWay struct {
	pipe        pipe[*frame]
	from, to    *tap
	link        *tapLink
	direction   Direction
	writeErrors uint64
	expect      int // frames to ask for in the next read: what came last time, and some
}

type tapLink struct {
	name string
	taps [2]*tap
	ways [2]*tapWay
	// record is what follows its frames, if anything does.
	record *Recording
}

// Emulator carries frames between pairs of TAP devices with impairments. Its
// methods are safe for concurrent use. Use NewEmulator and Close. Its loop needs
// the Go scheduler after each sleep: in a process whose goroutines keep all
// GOMAXPROCS busy it would come late, so give it a process without other work.
type Emulator struct {
	start time.Time
	wake  int // eventfd
	tid   atomic.Int32

	mu     sync.Mutex // held by the loop for each pass
	links  []*tapLink
	ways   []*tapWay
	closed bool
	io     batch

	done chan struct{}
}

// NewEmulator creates the devices of all links, up and with their addresses,
// and starts to forward. Links draw their seeds from seed in order. It needs
// CAP_NET_ADMIN and CAP_SYS_ADMIN. On error nothing is left behind.
func NewEmulator(seed uint64, links []LinkConfig) (*Emulator, error) {
	e := &Emulator{start: time.Now(), wake: -1, done: make(chan struct{})}
	fail := func(err error) (*Emulator, error) {
		e.release()
		return nil, err
	}
	names := make(map[string]bool)
	for _, c := range links {
		if names[c.Name] {
			return nil, fmt.Errorf("link %q: %w: two of that name", c.Name, ErrLinked)
		}
		names[c.Name] = true
		for _, imp := range []Impairment{c.AtoB, c.BtoA} {
			if err := imp.Validate(); err != nil {
				return nil, fmt.Errorf("link %q: %w", c.Name, err)
			}
		}
	}
	for i, c := range links {
		l := &tapLink{name: c.Name}
		e.links = append(e.links, l)
		for k, end := range []End{c.A, c.B} {
			var err error
			if l.taps[k], err = openTAP(end); err != nil {
				return fail(fmt.Errorf("link %q: %w", c.Name, err))
			}
		}
		for k, imp := range []Impairment{c.AtoB, c.BtoA} {
			w := &tapWay{from: l.taps[k], to: l.taps[1-k], link: l, direction: Direction(k)}
			w.pipe.shaper = NewShaper(imp, linkSeed(seed, uint64(i), Direction(k)))
			w.pipe.maxFlying = maxFlyingTAP
			l.ways[k] = w
			e.ways = append(e.ways, w)
		}
	}
	var err error
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fail(fmt.Errorf("eventfd: %w", err))
	}
	e.io.open()
	e.start = time.Now() // outages count from here
	go e.loop()
	return e, nil
}

// Stats returns the counters of all links, in the order they were given.
func (e *Emulator) Stats() []LinkStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]LinkStats, len(e.links))
	for i, l := range e.links {
		out[i].Name = l.name
		for k, s := range []*WayStats{&out[i].AtoB, &out[i].BtoA} {
			w := l.ways[k]
			s.Counters = w.pipe.counters(time.Since(e.start))
			s.WriteErrors = w.writeErrors
			if !e.closed {
				s.DeviceDrops = w.from.dropped()
			}
		}
	}
	return out
}

// CPU returns the processor time that forwarding has taken, the receiving
// stacks' work inside the far namespaces' devices included; 0 once closed.
func (e *Emulator) CPU() time.Duration {
	tid := e.tid.Load()
	if tid == 0 {
		return 0
	}
	// The kernel's clock id of a thread: CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED.
	var ts unix.Timespec
	if err := unix.ClockGettime(^tid<<3|4|2, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// SetImpairment changes one direction of a link from now on; what is queued
// drains at the new rate.
func (e *Emulator) SetImpairment(link string, d Direction, imp Impairment) error {
	if err := imp.Validate(); err != nil {
		return fmt.Errorf("link %q: %w", link, err)
	}
	return e.change(link, func(l *tapLink, now time.Duration) { l.ways[d].pipe.setImpairment(now, imp) })
}

// Darken switches both directions of a link off (true) or on. The devices stay
// up, as they do when a carrier fails far away.
func (e *Emulator) Darken(link string, off bool) error {
	return e.change(link, func(l *tapLink, now time.Duration) {
		for _, w := range l.ways {
			w.pipe.darken(now, off)
		}
	})
}

func (e *Emulator) change(link string, fn func(*tapLink, time.Duration)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("link %q: %w", link, net.ErrClosed)
	}
	for _, l := range e.links {
		if l.name == link {
			fn(l, time.Since(e.start))
			e.signal() // the next delivery may have moved forward
			return nil
		}
	}
	return fmt.Errorf("link %q: unknown", link)
}

func (e *Emulator) signal() { unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Close stops forwarding and removes the devices. Frames in flight are lost.
// A second call returns net.ErrClosed.
func (e *Emulator) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return net.ErrClosed
	}
	e.closed = true
	e.signal()
	e.mu.Unlock()
	<-e.done
	e.release()
	return nil
}

func (e *Emulator) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.io.close()
	for _, l := range e.links {
		for _, t := range l.taps {
			if t != nil {
				t.close()
			}
		}
	}
	if e.wake >= 0 {
		unix.Close(e.wake)
		e.wake = -1
	}
}

func (e *Emulator) loop() {
	defer close(e.done)
	defer e.tid.Store(0)
	// Never unlocked: priority and timer slack are the thread's, and it ends with us.
	runtime.LockOSThread()
	e.tid.Store(int32(unix.Gettid()))
	// Both only sharpen the timing; without the rights for them it still works.
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), loopNice)
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)

	polls := make([]unix.PollFd, 1+len(e.ways))
	polls[0] = unix.PollFd{Fd: int32(e.wake), Events: unix.POLLIN}
	for i, w := range e.ways {
		polls[1+i] = unix.PollFd{Fd: int32(w.from.fd), Events: unix.POLLIN}
	}
	busy := false
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return
		}
		for i, w := range e.ways {
			switch revents := polls[1+i].Revents; {
			case revents&unix.POLLIN != 0:
				e.io.read(w)
				busy = true
			case revents != 0: // the device was deleted: poll it no more
				polls[1+i].Fd = -1
			}
		}
		now := time.Since(e.start)
		e.io.finishReads(now)
		next, any := time.Duration(0), false
		for _, w := range e.ways {
			if e.io.deliver(w, now+deliverEarly) {
				busy = true
			}
			if at, ok := w.pipe.next(); ok && (!any || at < next) {
				next, any = at, true
			}
		}
		e.io.finishWrites()
		e.mu.Unlock()

		if busy {
			busy = false
			pause := unix.NsecToTimespec(int64(passEvery))
			unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &pause, nil)
		}
		var timeout *unix.Timespec
		if any {
			ts := unix.NsecToTimespec(int64(max(0, next-deliverEarly-time.Since(e.start))))
			timeout = &ts
		}
		if n, err := unix.Ppoll(polls, timeout, nil); n < 0 || err != nil {
			for i := range polls { // interrupted: nothing is known to be ready
				polls[i].Revents = 0
			}
		}
		if polls[0].Revents != 0 {
			var drain [8]byte
			unix.Read(e.wake, drain[:])
		}
	}
}
