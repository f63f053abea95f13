package wan

import (
	"errors"
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
//	ppoll -> read every ready TAP dry -> pipe.offer (the model) -> pipe.pop what
//	is due -> write to the far TAP -> sleep passEvery -> ppoll (or until the next is due)
//
// One loop instead of a goroutine for each device: a frame then costs its two
// system calls and no wake-up of its own. Go's timers would round idle waits up
// to a millisecond, so the loop waits in the kernel.
const (
	// passEvery is the least time between two passes: frames that come
	// meanwhile share a wake-up. It bounds the delay error together with
	// deliverEarly, which centres it.
	passEvery    = 400 * time.Microsecond
	deliverEarly = passEvery / 2
	// readBurst bounds the frames taken from one device in a pass, so that a
	// flood on one link does not delay the others' deliveries.
	readBurst = 64
	// maxFlyingTAP bounds the frames in flight in one direction, and with it
	// memory (50 MB): a second of full frames at 400 Mbit/s. Above it frames are
	// lost, counted Overflow.
	maxFlyingTAP = 1 << 15
	// loopNice is the loop thread's priority: a wire does not slow down because
	// the hosts at its ends are busy.
	loopNice = -15
)

// frame is a pooled Ethernet frame.
type frame struct {
	n   int
	buf [tapBuffer]byte
}

// tapWay is one direction of a link.
type tapWay struct {
	pipe        pipe[*frame]
	from, to    *tap
	writeErrors uint64
}

type tapLink struct {
	name string
	taps [2]*tap
	ways [2]*tapWay
}

// Emulator carries frames between pairs of TAP devices with impairments. Its
// methods are safe for concurrent use. Use NewEmulator and Close.
type Emulator struct {
	start time.Time
	wake  int // eventfd
	tid   atomic.Int32

	mu     sync.Mutex // held by the loop for each pass
	links  []*tapLink
	ways   []*tapWay
	closed bool
	free   []*frame // only the loop's

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
			w := &tapWay{from: l.taps[k], to: l.taps[1-k]}
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
			s.Counters = w.pipe.counters()
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
	f := new(frame)
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
				f = e.read(w, f)
				busy = true
			case revents != 0: // the device was deleted: poll it no more
				polls[1+i].Fd = -1
			}
		}
		due := time.Since(e.start) + deliverEarly
		next, any := time.Duration(0), false
		for _, w := range e.ways {
			if e.deliver(w, due) {
				busy = true
			}
			if at, ok := w.pipe.next(); ok && (!any || at < next) {
				next, any = at, true
			}
		}
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

// read takes what a device has, up to a bound, and returns a spare buffer.
func (e *Emulator) read(w *tapWay, f *frame) *frame {
	now := time.Since(e.start)
	for range readBurst {
		n, err := unix.Read(w.from.fd, f.buf[:])
		if err != nil || n <= 0 {
			break
		}
		if n < ethernetHeader || n == len(f.buf) {
			continue
		}
		f.n = n
		kept := false
		if outsideModel(f.buf[:n]) {
			kept = w.pipe.bypass(now, f)
		} else {
			kept = w.pipe.offer(now, n, f)
		}
		if kept {
			f = e.spare()
		}
	}
	return f
}

func (e *Emulator) spare() *frame {
	if n := len(e.free); n > 0 {
		f := e.free[n-1]
		e.free = e.free[:n-1]
		return f
	}
	return new(frame)
}

// deliver writes what is due and reports whether anything was.
func (e *Emulator) deliver(w *tapWay, due time.Duration) bool {
	any := false
	for {
		x, ok := w.pipe.pop(due)
		if !ok {
			return any
		}
		any = true
		b := x.frame.buf[:x.frame.n]
		if x.corrupt != 0 {
			// Beyond the Ethernet header: a wire's frame check would catch the
			// flip, equipment that corrupts does it to the packet. UDP and TCP
			// checksums then drop it in the receiving kernel, as in life.
			Flip(b[ethernetHeader:], x.corrupt)
		}
		for range x.copies {
			if _, err := unix.Write(w.to.fd, b); err != nil && !errors.Is(err, unix.EINTR) {
				w.writeErrors++
			}
		}
		e.free = append(e.free, x.frame)
	}
}
