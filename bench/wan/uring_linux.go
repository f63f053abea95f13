package wan

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A minimal io_uring (linux/io_uring.h): only to read and write many
// non-blocking files in one system call. Entering the kernel costs more than
// moving a frame through a TAP, so a batch halves the emulator's work. Every
// request carries RWF_NOWAIT and must complete at once, so that no request is
// ever left in the kernel.

// uringEntries is the size of a batch.
const uringEntries = 256

const (
	uringOpRead  = 22 // IORING_OP_READ
	uringOpWrite = 23 // IORING_OP_WRITE

	uringSingleMmap = 1 << 0 // IORING_FEAT_SINGLE_MMAP
	uringSQEs       = 0x10000000
)

// errURing says that io_uring is missing, forbidden or not what we need.
var errURing = errors.New("io_uring not usable")

// uringSQE is struct io_uring_sqe, as far as reads and writes need it.
type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, rwFlags  uint32
	userData      uint64
	_             [3]uint64
}

// uringCQE is struct io_uring_cqe.
type uringCQE struct {
	userData uint64
	res      int32
	flags    uint32
}

// uringParams is struct io_uring_params with its two offset tables.
type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// uring is one ring. Not safe for concurrent use.
type uring struct {
	fd             int
	mem, sqeMem    []byte
	sqes           []uringSQE
	cqes           []uringCQE
	sqTail, cqHead *uint32
	cqTail         *uint32
	n              int // requests prepared
}

func newURing() (r *uring, err error) {
	var p uringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("%w: setup: %w", errURing, errno)
	}
	r = &uring{fd: int(fd)}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if p.features&uringSingleMmap == 0 || p.sqEntries != uringEntries {
		return nil, fmt.Errorf("%w: features %#x, %d entries", errURing, p.features, p.sqEntries)
	}
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(uringCQE{})))
	if r.mem, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("%w: map rings: %w", errURing, err)
	}
	if r.sqeMem, err = unix.Mmap(r.fd, uringSQEs, int(p.sqEntries)*int(unsafe.Sizeof(uringSQE{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("%w: map entries: %w", errURing, err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[off])) }
	r.sqTail, r.cqHead, r.cqTail = at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sqes = unsafe.Slice((*uringSQE)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*uringCQE)(unsafe.Pointer(&r.mem[p.cq.cqes])), p.cqEntries)
	// Slot i of the submission ring is always entry i.
	for i, slots := uint32(0), unsafe.Slice(at(p.sq.array), p.sqEntries); i < p.sqEntries; i++ {
		slots[i] = i
	}
	return r, nil
}

// full reports whether the batch must be submitted before the next prepare.
func (r *uring) full() bool { return r.n == len(r.sqes) }

// prepare adds a read or write of a file to the batch. The caller keeps b alive
// and in place until submit. The request's number is its place in the batch.
func (r *uring) prepare(op uint8, fd int, b []byte) {
	i := (atomic.LoadUint32(r.sqTail) + uint32(r.n)) & uint32(len(r.sqes)-1)
	r.sqes[i] = uringSQE{
		opcode: op, fd: int32(fd), off: ^uint64(0), // at the file's position, as read(2)
		addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), len: uint32(len(b)), rwFlags: unix.RWF_NOWAIT, userData: uint64(r.n),
	}
	r.n++
}

// submit runs the batch and calls done with each request's number and result
// (negative: the error number). It fails if one did not complete at once; the
// ring is then of no further use.
func (r *uring) submit(done func(i int, res int32)) error {
	n := uint32(r.n)
	r.n = 0
	atomic.StoreUint32(r.sqTail, atomic.LoadUint32(r.sqTail)+n)
	for left := n; left > 0; {
		k, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(left), 0, 0, 0, 0)
		if errno == unix.EINTR || errno == unix.EAGAIN {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("%w: enter: %w", errURing, errno)
		}
		left -= uint32(k)
	}
	head, tail := atomic.LoadUint32(r.cqHead), atomic.LoadUint32(r.cqTail)
	if tail-head != n {
		return fmt.Errorf("%w: %d of %d requests complete at once", errURing, tail-head, n)
	}
	for ; head != tail; head++ {
		c := &r.cqes[head&uint32(len(r.cqes)-1)]
		done(int(c.userData), c.res)
	}
	atomic.StoreUint32(r.cqHead, tail)
	return nil
}

func (r *uring) close() {
	if r.mem != nil {
		unix.Munmap(r.mem)
	}
	if r.sqeMem != nil {
		unix.Munmap(r.sqeMem)
	}
	unix.Close(r.fd)
}
