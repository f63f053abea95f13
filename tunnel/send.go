package tunnel

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// resetWait is how long a reset may wait behind data before it overtakes and discards them.
const resetWait = 2 * time.Second

// sendStream is the sending side of *quic.Stream and *quic.SendStream.
type sendStream interface {
	Write([]byte) (int, error)
	Close() error
	CancelWrite(quic.StreamErrorCode)
	SetWriteDeadline(time.Time) error
}

const (
	// elephantPause without anything to send makes a flow one of requests and answers again, which belongs on an
	// interactive lane. It is longer than a busy sender's hiccup and shorter than a round trip across a border.
	elephantPause = 30 * time.Millisecond
	// elephantTime without such a pause makes a flow an elephant that has carried elephantLeast: many flows together fill
	// the interactive lanes before any of them is large.
	elephantTime  = 500 * time.Millisecond
	elephantLeast = 16 << 10
	// elephantEarly bytes make one sooner if what its connection has waiting completes the elephant: the interactive lane is
	// the slower one for so much.
	elephantEarly = 64 << 10
	// crowdTime takes its place while crowd flows or more wait for their turn on the lane: nobody is quick there, and the
	// first ones to leave would have the bulk lanes to themselves until the last.
	crowdTime = 100 * time.Millisecond
	// movePiece is one write while the direction may move: each of a thousand flows has to finish one before it can.
	movePiece = 2 << 10
)

// sendHalf is one direction of a flow on its way to the next hop. One goroutine writes; cancel may be called by any.
type sendHalf struct {
	ses    *session
	id     uint64
	dir    direction
	prefix []byte    // flow header, to go out with the first frame
	sent   int64     // bytes of data frames
	moveAt int64     // move to a bulk lane from so many bytes on; negative: never
	last   time.Time // end of the last write
	began  time.Time // of writing without an elephantPause
	before int64     // bytes sent before that
	behind int64     // bytes that are sure to follow those being sent
	source *recvHalf // of a relayed flow: whose bytes these are

	total atomic.Int64 // sent, for statistics

	mu   sync.Mutex
	cur  sendStream
	lane *lane
	dead Code // set by cancel
	done bool // FIN sent or cancelled: nothing more to come
}

func newSendHalf(s *session, l *lane, str sendStream, id uint64, dir direction, moveAt int64) *sendHalf {
	l.load.Add(1)
	l.refs.Add(1)
	return &sendHalf{ses: s, id: id, dir: dir, cur: str, lane: l, moveAt: moveAt}
}

// frame sends the n bytes of payload at buf[off:] as one frame. The frameHeader bytes before off, and before the first
// frame as many as the flow header takes, are overwritten.
func (s *sendHalf) frame(k frameKind, buf []byte, off, n int) error {
	off -= frameHeader
	putFrameHeader(buf[off:], k, n)
	return s.batch(buf, off, off+frameHeader+n)
}

// batch sends buf[from:to], a part of the sequence of data frames. The direction may move in the middle of it.
func (s *sendHalf) batch(buf []byte, from, to int) error {
	if p := s.prefix; p != nil {
		from -= len(p)
		copy(buf[from:], p)
		s.prefix = nil
	}
	for from < to {
		n := to - from
		if s.moveAt >= 0 {
			n = min(n, movePiece)
			s.resume(time.Now())
		}
		if err := s.writeFor(buf[from:from+n], s.source); err != nil {
			return err
		}
		from += n
		s.sent += int64(n)
		s.total.Store(s.sent)
		if s.moveAt >= 0 {
			s.last = time.Now()
			if s.wantsMove() {
				if err := s.move(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// resume notes that there is something to send. What pauses is no elephant, however much it has carried in all: the count
// starts anew.
func (s *sendHalf) resume(now time.Time) {
	if s.last.IsZero() {
		s.began = now
	} else if now.Sub(s.last) > elephantPause {
		s.began, s.before = now, s.sent
		s.moveAt = s.sent + s.ses.node.large.Load()
	}
}

// flush sends the flow header if it is still waiting for a first frame.
func (s *sendHalf) flush() error {
	p := s.prefix
	if p == nil {
		return nil
	}
	s.prefix = nil
	return s.write(p)
}

func (s *sendHalf) write(b []byte) error { return s.writeFor(b, nil) }

// writeFor writes what came from another hop's half, unless that is nil.
func (s *sendHalf) writeFor(b []byte, from *recvHalf) error {
	l := s.lane // it and cur change only in move, by this goroutine
	l.use(len(b))
	l.writing.Add(1)
	var err error
	if from != nil {
		err = from.hand(s.cur, b)
	} else {
		_, err = s.cur.Write(b)
	}
	l.writing.Add(-1)
	if err != nil {
		return streamErr(err)
	}
	return nil
}

// control sends a frame that is not data, and closes the stream after it.
func (s *sendHalf) control(k frameKind, payload ...byte) error {
	b := make([]byte, 0, len(s.prefix)+frameHeader+2)
	b = append(b, s.prefix...)
	s.prefix = nil
	b = binary.BigEndian.AppendUint32(b, uint32(k)<<24|uint32(len(payload)))
	b = append(b, payload...)
	if err := s.write(b); err != nil {
		return err
	}
	return s.cur.Close()
}

// mark sends a data frame without payload.
func (s *sendHalf) mark(k frameKind) error {
	var b [bufRoom]byte
	return s.frame(k, b[:], len(b), 0)
}

func (s *sendHalf) wantsMove() bool {
	span, burst := s.last.Sub(s.began), s.sent-s.before
	return s.sent >= s.moveAt || burst >= elephantEarly && s.sent+s.behind >= s.moveAt || span > elephantTime && burst >= elephantLeast || span > crowdTime && s.lane.crowded()
}

// move continues the direction in a stream of a bulk lane: the old one just ends. Without a bulk lane it stays where it is,
// and tries later.
func (s *sendHalf) move() error {
	l, str := s.ses.openContinuation(s.lane, s.id, s.dir)
	if str == nil {
		s.before, s.began = s.sent, s.last
		s.moveAt = s.sent + max(s.ses.node.large.Load(), 1)
		return nil
	}
	if err := s.cur.Close(); err != nil {
		err = streamErr(err)
		str.CancelWrite(quic.StreamErrorCode(codeOf(err)))
		l.release()
		return err
	}
	s.moveAt = -1
	s.mu.Lock()
	if s.done { // cancelled meanwhile, which gave the old lane back
		dead := s.dead
		s.mu.Unlock()
		str.CancelWrite(quic.StreamErrorCode(dead))
		l.release()
		return &ResetError{Code: dead}
	}
	old := s.lane
	s.cur, s.lane = str, l
	s.mu.Unlock()
	old.release()
	s.ses.node.stats.moved.Add(1)
	return nil
}

// eof ends the direction in order.
func (s *sendHalf) eof() error {
	err := s.control(frameEOF)
	s.finish()
	return err
}

// reset breaks the direction after what was sent before it, or without it if that does not move.
func (s *sendHalf) reset(c Code) {
	if s.finished() {
		return
	}
	_ = s.cur.SetWriteDeadline(time.Now().Add(resetWait)) // never fails
	if err := s.control(frameReset, byte(c>>8), byte(c)); err != nil {
		s.cancel(c)
		return
	}
	s.finish()
}

func (s *sendHalf) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// finish marks the direction as complete. It returns false if it was already.
func (s *sendHalf) finish() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.done = true
	s.lane.release()
	return true
}

// cancel breaks the direction at once and makes a blocked write return. After the end it does nothing.
func (s *sendHalf) cancel(c Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	s.done, s.dead = true, c
	s.cur.CancelWrite(quic.StreamErrorCode(c))
	s.lane.release()
}

// stopped reports whether err says that the other end takes no more data, while the flow's other direction may go on.
func stopped(err error) bool {
	var re *ResetError
	return errors.As(err, &re) && re.Remote && re.Code == CodeNotRead
}
