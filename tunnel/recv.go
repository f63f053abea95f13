package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// direction of a flow on one hop.
type direction uint8

const (
	forward  direction = iota // from the node that opened the flow's stream
	backward                  // to it
	numDirections
)

// continuationWait is how long a direction waits for its continuation after the end of its first stream: the bulk lane may
// be slower than the interactive one by all that is queued on it.
const continuationWait = 30 * time.Second

// flowKey names the receiving half of a flow in a session: the id is the opener's, and both nodes may open flows.
type flowKey struct {
	id  uint64
	dir direction
}

// recvStream is the receiving side of *quic.Stream and *quic.ReceiveStream.
type recvStream interface {
	Read([]byte) (int, error)
	CancelRead(quic.StreamErrorCode)
}

// continuation is a stream in which a direction goes on.
type continuation struct {
	str  recvStream
	lane *lane
}

// recvHalf is one direction of a flow as it arrives from a hop. One goroutine reads; cancel may be called by any.
type recvHalf struct {
	ses  *session
	key  flowKey
	cont chan continuation // holds one
	stop chan struct{}     // closed by cancel

	buf  buffer
	r, w int       // unread part of buf
	rerr error     // of the stream, once what came before it is used up
	kind frameKind // of the current frame
	left int       // payload bytes of it still to come
	// nameless while the flow header has not been read: no continuation can be found.
	nameless bool

	total   atomic.Int64         // bytes read, for statistics and estimates
	blocked atomic.Int64         // since when (Unix ns) the receiver of these bytes has not taken them; 0: it does
	next    atomic.Pointer[lane] // of the continuation in cont, once it has come
	abort   func(Code)           // ends the flow; set before the half is registered

	mu   sync.Mutex
	src  recvStream
	lane *lane
	bulk bool
	done bool
}

func newRecvHalf(s *session, l *lane, str recvStream, id uint64, dir direction) *recvHalf {
	l.refs.Add(1)
	return &recvHalf{
		ses: s, key: flowKey{id, dir}, src: str, lane: l,
		cont: make(chan continuation, 1), stop: make(chan struct{}),
	}
}

// fill reads more bytes into the buffer, keeping the unread ones.
func (h *recvHalf) fill() error {
	if h.rerr != nil {
		return h.rerr
	}
	if h.r == h.w {
		h.buf.fit()
		h.r, h.w = bufRoom, bufRoom
	} else if h.r > bufRoom && h.w+frameHeader > len(h.buf.b) {
		h.w = bufRoom + copy(h.buf.b[bufRoom:], h.buf.b[h.r:h.w])
		h.r = bufRoom
	}
	room := len(h.buf.b) - h.w
	n, err := h.src.Read(h.buf.b[h.w:]) // src changes only in follow, by this goroutine
	h.buf.read(n, room)
	h.w += n
	h.total.Add(int64(n))
	h.lane.busy(n) // changes like src
	if err != nil && err != io.EOF {
		err = streamErr(err)
	}
	if n > 0 {
		h.rerr = err
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// need fills until n bytes are there. It follows a move.
func (h *recvHalf) need(n int) error {
	for h.w-h.r < n {
		err := h.fill()
		if err == io.EOF { // a direction ends with a frame that says so
			err = h.follow()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// header reads the flow header. Frames that came with it stay in the buffer.
func (h *recvHalf) header() (Header, error) {
	h.nameless = true
	if err := h.need(headerPrefix); err != nil {
		return Header{}, err
	}
	n, err := headerSize(h.buf.b[h.r:])
	if err != nil {
		return Header{}, err
	}
	if err := h.need(n); err != nil {
		return Header{}, err
	}
	hd, _, err := ParseHeader(h.buf.b[h.r : h.r+n])
	h.r += n
	h.nameless = false
	return hd, err
}

// enter makes the next data frame current. It returns io.EOF at the end and *ResetError at a reset.
func (h *recvHalf) enter() error {
	if err := h.need(frameHeader); err != nil {
		return err
	}
	k, n, err := parseFrame(h.buf.b[h.r:])
	if err != nil {
		return err
	}
	switch k {
	case frameEOF:
		return io.EOF
	case frameReset:
		if err := h.need(frameHeader + n); err != nil {
			return err
		}
		c := Code(binary.BigEndian.Uint16(h.buf.b[h.r+frameHeader:]))
		if c == 0 || c >= numCodes {
			c = CodeProtocol
		}
		return &ResetError{Code: c, Remote: true}
	}
	h.r += frameHeader
	h.kind, h.left = k, n
	return nil
}

// chunk returns the next bytes of payload, as they arrive: a frame may come in several parts. They are valid until the
// next call.
func (h *recvHalf) chunk() (frameKind, []byte, error) {
	if h.left == 0 {
		if err := h.enter(); err != nil {
			return 0, nil, err
		}
		if h.left == 0 {
			return h.kind, nil, nil
		}
	}
	if err := h.need(1); err != nil {
		return 0, nil, err
	}
	n := min(h.left, h.w-h.r)
	b := h.buf.b[h.r : h.r+n]
	h.r += n
	h.left -= n
	return h.kind, b, nil
}

// batch returns the bounds in the buffer of as many bytes of data frames, with their headers, as have arrived. The bytes
// are valid until the next call, and those before them are free to be overwritten.
func (h *recvHalf) batch() (buf []byte, from, to int, err error) {
	if h.left == 0 {
		if err := h.enter(); err != nil {
			return nil, 0, 0, err
		}
		h.r -= frameHeader // forwarded as it is
		from = h.r
		h.r += frameHeader
	} else {
		if err := h.need(1); err != nil {
			return nil, 0, 0, err
		}
		from = h.r
	}
	for {
		n := min(h.left, h.w-h.r)
		h.r += n
		h.left -= n
		if h.left > 0 || h.w-h.r < frameHeader {
			break
		}
		k, size, err := parseFrame(h.buf.b[h.r:])
		if err != nil || !k.data() {
			break // the next call deals with it
		}
		h.kind, h.left = k, size
		h.r += frameHeader
	}
	return h.buf.b, from, h.r, nil
}

// follow goes on in the continuation stream, which may have come before the end of the first one or come later.
func (h *recvHalf) follow() error {
	if h.bulk || h.nameless {
		return fmt.Errorf("%w: stream ends in the middle", ErrMalformed)
	}
	t := time.NewTimer(continuationWait)
	defer t.Stop()
	var c continuation
	select {
	case c = <-h.cont:
	case <-h.stop:
		return &ResetError{Code: CodeReset}
	case <-h.ses.closing:
		return &ResetError{Code: CodeLaneLost}
	case <-t.C:
		return fmt.Errorf("%w: no continuation within %v of the stream's end", ErrMalformed, continuationWait)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		c.str.CancelRead(quic.StreamErrorCode(CodeReset))
		c.lane.unref()
		return &ResetError{Code: CodeReset}
	}
	h.lane.unref()
	h.src, h.lane, h.bulk, h.rerr = c.str, c.lane, true, nil
	return nil
}

// give hands a batch on, and keeps the time it blocks where the stall policy sees it.
func (h *recvHalf) give(to *sendHalf, buf []byte, from, end int) error {
	to.source = h
	return to.batch(buf, from, end)
}

// giveConn hands payload to a connection, in the same way.
func (h *recvHalf) giveConn(c Conn, b []byte) error {
	return h.hand(c, b)
}

// deadlineWriter is the sending side of a stream or a connection.
type deadlineWriter interface {
	Write([]byte) (int, error)
	SetWriteDeadline(time.Time) error
}

// hand writes b, and notes meanwhile since when the receiver has not taken any of it: one that is slow, as one of a crowd, does
// not stand still.
func (h *recvHalf) hand(w deadlineWriter, b []byte) error {
	taken := stallLeast
	for {
		now := time.Now()
		if taken >= stallLeast {
			h.blocked.Store(now.UnixNano())
			taken = 0
		}
		_ = w.SetWriteDeadline(now.Add(stallAfter / 2)) // fails only if the write does
		n, err := w.Write(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b, taken = b[n:], taken+n
			continue
		}
		h.blocked.Store(0)
		_ = w.SetWriteDeadline(time.Time{})
		return err
	}
}

// finish ends the half after its last byte and gives its buffer back. Only the reading goroutine calls it, last.
func (h *recvHalf) finish() {
	h.ses.unregister(h)
	h.cancel(CodeNotRead)
	h.buf.release()
	select {
	case c := <-h.cont:
		c.str.CancelRead(quic.StreamErrorCode(CodeReset))
		c.lane.unref()
	default:
	}
}

// cancel tells the sender to stop and makes a blocked read return. After the end it does nothing.
func (h *recvHalf) cancel(c Code) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return
	}
	h.done = true
	close(h.stop)
	h.src.CancelRead(quic.StreamErrorCode(c))
	h.lane.unref()
}

// cancelled reports whether this node gave the half up: what its reader then sees is no news of the flow.
func (h *recvHalf) cancelled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done
}

// held estimates how many bytes may be waiting for this half in QUIC's buffers of which lane: the windows of its
// streams, which grow from their first size only while they are read quickly.
func (h *recvHalf) held(add func(*lane, int64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.done:
	case h.lane.class == Bulk:
		add(h.lane, min(max(2*h.total.Load(), bulkWindow), bulkWindowMax))
	default:
		add(h.lane, interactiveWindow)
		if l := h.next.Load(); l != nil { // the direction moved, but nobody has read that far
			add(l, bulkWindow)
		}
	}
}
