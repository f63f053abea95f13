package wan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Recording follows frames over a link. Stop it once. The emulator's loop fills
// it in, and a packet socket at each end says when frames came to the device: they
// may lie there until the emulator reads them, which is the link's delay too.
type Recording struct {
	e       *Emulator
	link    *tapLink
	cfg     RecordConfig
	taps    []int // packet sockets
	readers sync.WaitGroup
	ended   atomic.Bool

	// Under the emulator's mu.
	passages []Passage
	missed   int

	mu      sync.Mutex
	entered map[Passage]time.Duration // by a passage without times
}

// tapsWake is how often a packet socket's reader looks whether it is to end.
const tapsWake = 100 * time.Millisecond

// Record begins to follow frames over a link, which has one Recording at a time.
func (e *Emulator) Record(c RecordConfig) (*Recording, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &Recording{e: e, cfg: c, entered: make(map[Passage]time.Duration)}
	var failed error
	err := e.change(c.Link, func(l *tapLink, _ time.Duration) {
		if l.record != nil {
			failed = fmt.Errorf("link %q: recorded already", c.Link)
			return
		}
		for _, t := range l.taps {
			fd, err := t.listen(c.Low, c.High)
			if err != nil {
				failed = err
				return
			}
			r.taps = append(r.taps, fd)
		}
		r.link, l.record = l, r
	})
	if err = errors.Join(err, failed); err != nil {
		r.close()
		return nil, fmt.Errorf("record: %w", err)
	}
	for i, fd := range r.taps {
		r.readers.Go(func() { r.listen(Direction(i), fd) })
	}
	return r, nil
}

// Stop ends the recording and returns the passages in the order in which the
// emulator read the frames, and how many there were beyond the bound.
func (r *Recording) Stop() (passages []Passage, missed int) {
	r.e.mu.Lock()
	r.link.record = nil
	passages, missed = r.passages, r.missed
	r.passages = nil // what is still under way finds nothing to be noted in
	r.e.mu.Unlock()
	r.close()
	for i := range passages {
		p := &passages[i]
		if at, ok := r.entered[p.key()]; ok && at <= p.Read {
			p.Entered = at
		}
	}
	return passages, missed
}

func (r *Recording) close() {
	r.ended.Store(true)
	r.readers.Wait()
	for _, fd := range r.taps {
		unix.Close(fd)
	}
	r.taps = nil
}

func (p *Passage) key() Passage {
	return Passage{Direction: p.Direction, From: p.From, To: p.To, Number: p.Number}
}

// read notes a frame that the emulator took from a device. Called with the emulator's mu held.
func (r *Recording) read(d Direction, f *frame, at time.Duration) {
	p, ok := r.cfg.passage(d, f.buf[:f.n])
	if !ok {
		return
	}
	if len(r.passages) >= r.cfg.Max {
		r.missed++
		return
	}
	p.Read = at
	f.recording, f.passage = r, len(r.passages)
	r.passages = append(r.passages, p)
}

// written notes that the far device has a frame. Called with the emulator's mu held.
func (f *frame) written(from, to time.Duration) {
	if r := f.recording; r != nil && f.passage < len(r.passages) && r.passages[f.passage].Written == 0 {
		r.passages[f.passage].Writing, r.passages[f.passage].Written = from, to
	}
}

// listen notes when frames come to a device.
func (r *Recording) listen(d Direction, fd int) {
	b, oob := make([]byte, tapBuffer), make([]byte, 128)
	for !r.ended.Load() {
		n, oobn, _, from, err := unix.Recvmsg(fd, b, oob, 0)
		ll, ok := from.(*unix.SockaddrLinklayer)
		if err != nil || !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			continue // the wait is bounded by tapsWake
		}
		p, ok := r.cfg.passage(d, b[:n])
		at, stamped := arrivalTime(oob[:oobn])
		if !ok || !stamped {
			continue
		}
		r.mu.Lock()
		if _, again := r.entered[p]; !again && len(r.entered) < r.cfg.Max {
			r.entered[p] = at
		}
		r.mu.Unlock()
	}
}

// arrivalTime reads a message's SO_TIMESTAMPNS as a time of CLOCK_MONOTONIC.
func arrivalTime(oob []byte) (time.Duration, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return monotonic() - (clock(unix.CLOCK_REALTIME) - time.Duration(ts.Nano())), true
		}
	}
	return 0, false
}

func monotonic() time.Duration { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // cannot fail with these clocks
	return time.Duration(ts.Nano())
}

// listen opens a packet socket that hears UDP over IPv4 of those ports on the device, with the kernel's times.
func (t *tap) listen(low, high uint16) (fd int, err error) {
	program, err := bpf.Assemble(udpFilter(uint32(low), uint32(high)))
	if err != nil {
		return -1, err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	err = InNamespace(t.namespace, func() error {
		// Protocol 0 hears nothing until the filter is there and bind names one.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		wait := unix.NsecToTimeval(int64(tapsWake))
		err := errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: t.index}),
		)
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("packet socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// udpFilter passes unfragmented UDP over IPv4 from or to a port of the range.
func udpFilter(low, high uint32) []bpf.Instruction {
	const ip = ethernetHeader
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 9},
		bpf.LoadAbsolute{Off: ip + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 7},
		bpf.LoadMemShift{Off: ip},
		bpf.LoadIndirect{Off: ip, Size: 2}, // source port
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: low, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: high, SkipTrue: 4},
		bpf.LoadIndirect{Off: ip + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: low, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: high, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: tapBuffer},
	}
}
