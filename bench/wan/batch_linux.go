package wan

import (
	"time"

	"golang.org/x/sys/unix"
)

// readBurst bounds the frames taken from one device in a pass, so that a flood
// on one link does not delay the others' deliveries.
const readBurst = 64

// frame is a pooled Ethernet frame.
type frame struct {
	n   int
	buf [tapBuffer]byte
	// recording and passage are where what becomes of it is noted, if anywhere.
	recording *Recording
	passage   int
}

// batch collects the reads and writes of a pass and runs them in one io_uring
// call each, or one by one where there is no usable io_uring. It owns the pool
// of frames. Only for the emulator's loop.
type batch struct {
	ring *uring
	ops  []batchOp // prepared in ring, or for reads waiting for it
	free []*frame
}

type batchOp struct {
	way   *tapWay
	frame *frame
	res   int  // bytes, or less than 0
	keep  bool // a second copy of the frame follows
}

func (b *batch) open() {
	// Without one, the same happens with more system calls.
	b.ring, _ = newURing()
}

func (b *batch) close() {
	if b.ring != nil {
		b.ring.close()
		b.ring = nil
	}
}

// run submits what is prepared and fills in the results. If the ring fails, what
// it did not do is done by plain calls, from now on everything.
func (b *batch) run(plain func(*batchOp)) {
	if b.ring != nil && len(b.ops) > 0 {
		for i := range b.ops {
			b.ops[i].res = resNone
		}
		err := b.ring.submit(func(i int, res int32) { b.ops[i].res = int(res) })
		if err != nil || b.ops[0].res == -int(unix.EOPNOTSUPP) || b.ops[0].res == -int(unix.EINVAL) {
			b.close()
		}
	}
	if b.ring == nil {
		for i := range b.ops {
			if op := &b.ops[i]; op.res < 0 && op.res != -int(unix.EAGAIN) {
				plain(op)
			}
		}
	}
}

// resNone marks a request that has not run.
const resNone = -1 << 20

// read asks for what a device is likely to have.
func (b *batch) read(w *tapWay) {
	w.expect = min(max(w.expect, 4), readBurst)
	for range w.expect {
		f := b.spare()
		if b.ring != nil {
			if b.ring.full() {
				b.free = append(b.free, f)
				return // the rest in the next pass
			}
			b.ring.prepare(uringOpRead, w.from.fd, f.buf[:])
		}
		b.ops = append(b.ops, batchOp{way: w, frame: f, res: resNone})
	}
	w.expect = 0 // counts what comes
}

// finishReads runs the reads and offers the frames to the model.
func (b *batch) finishReads(now time.Duration) {
	var dry *tapWay
	b.run(func(op *batchOp) {
		if op.way == dry {
			return
		}
		if op.res, _ = unix.Read(op.way.from.fd, op.frame.buf[:]); op.res <= 0 {
			dry = op.way
		}
	})
	read := monotonic()
	for i := range b.ops {
		op := &b.ops[i]
		w, f, n := op.way, op.frame, op.res
		kept := false
		if n > 0 {
			w.expect++
		}
		if n >= ethernetHeader && n < len(f.buf) {
			f.n = n
			if r := w.link.record; r != nil {
				r.read(w.direction, f, read)
			}
			if outsideModel(f.buf[:n]) {
				kept = w.pipe.bypass(now, f)
			} else {
				kept = w.pipe.offer(now, n, f)
			}
		}
		if !kept {
			b.free = append(b.free, f)
		}
	}
	for i := range b.ops {
		if w := b.ops[i].way; i == 0 || w != b.ops[i-1].way {
			w.expect += w.expect/2 + 4 // room for growth
		}
	}
	b.reset()
}

// deliver prepares the writes that are due and reports whether there were any.
func (b *batch) deliver(w *tapWay, due time.Duration) bool {
	any := false
	for {
		x, ok := w.pipe.pop(due)
		if !ok {
			return any
		}
		any = true
		if x.copies == 0 {
			b.free = append(b.free, x.frame)
			continue
		}
		frame := x.frame.buf[:x.frame.n]
		if x.corrupt != 0 {
			// Beyond the Ethernet header: a wire's frame check would catch the
			// flip, equipment that corrupts does it to the packet. UDP and TCP
			// checksums then drop it in the receiving kernel, as in life.
			Flip(frame[ethernetHeader:], x.corrupt)
		}
		for c := range x.copies {
			if b.ring != nil && b.ring.full() {
				b.finishWrites()
			}
			if b.ring != nil { // finishWrites may have lost it
				b.ring.prepare(uringOpWrite, w.to.fd, frame)
			}
			b.ops = append(b.ops, batchOp{way: w, frame: x.frame, res: resNone, keep: c+1 < x.copies})
		}
	}
}

// finishWrites runs the writes and takes the frames back.
func (b *batch) finishWrites() {
	from := monotonic()
	b.run(func(op *batchOp) {
		op.res, _ = unix.Write(op.way.to.fd, op.frame.buf[:op.frame.n])
	})
	to := monotonic()
	for i := range b.ops {
		op := &b.ops[i]
		if op.res != op.frame.n {
			op.way.writeErrors++
		} else {
			op.frame.written(from, to)
		}
		if !op.keep {
			b.free = append(b.free, op.frame)
		}
	}
	b.reset()
}

func (b *batch) reset() {
	clear(b.ops) // drop what they point to
	b.ops = b.ops[:0]
}

func (b *batch) spare() *frame {
	if n := len(b.free); n > 0 {
		f := b.free[n-1]
		b.free = b.free[:n-1]
		f.recording = nil
		return f
	}
	return new(frame)
}
