package tunnel

import (
	"context"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"
)

// hop is a flow's stream between this node and a neighbour: both directions.
type hop struct {
	ses   *session
	str   *quic.Stream
	send  *sendHalf
	recv  *recvHalf
	abort func(Code) // ends the whole flow at once; safe for any goroutine
}

// newHop makes a hop of a stream. opened says that this node opened it. moveAt is for the sending direction.
func newHop(s *session, l *lane, str *quic.Stream, id uint64, opened bool, moveAt int64) *hop {
	out, in := backward, forward
	if opened {
		out, in = forward, backward
	}
	return &hop{
		ses: s, str: str,
		send: newSendHalf(s, l, str, id, out, moveAt),
		recv: newRecvHalf(s, l, str, id, in),
	}
}

// attach makes the hop known to its session: to continuations, to the stall policy and to the end of its lanes.
func (h *hop) attach(abort func(Code)) error {
	h.abort, h.recv.abort = abort, abort
	if err := h.ses.register(h.recv); err != nil {
		return err
	}
	s := h.ses
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return &ResetError{Code: CodeLaneLost}
	}
	s.hops[h] = struct{}{}
	return nil
}

// close ends both halves, if they have not ended, and forgets the hop. The reading goroutine must have returned.
func (h *hop) close(c Code) {
	h.ses.mu.Lock()
	delete(h.ses.hops, h)
	h.ses.mu.Unlock()
	h.send.cancel(c)
	h.recv.finish()
}

// refuse answers a flow that does not go on.
func (h *hop) refuse(c Code) {
	h.send.reset(c)
	h.recv.cancel(c)
	h.close(c)
}

// on reports whether a direction that is not over uses the lane.
func (h *hop) on(l *lane) bool {
	h.send.mu.Lock()
	sending := !h.send.done && h.send.lane == l
	h.send.mu.Unlock()
	h.recv.mu.Lock()
	receiving := !h.recv.done && h.recv.lane == l
	h.recv.mu.Unlock()
	return sending || receiving
}

// moveAt is the byte count at which a direction of the class leaves the interactive lane; negative: never.
func (n *Node) moveAt(c Class) int64 {
	switch c {
	case Realtime:
		return -1
	case Bulk:
		return min(bulkElephantBytes, n.large.Load())
	}
	return n.large.Load()
}

// openHop opens a flow's stream to a peer and puts the header in front of its first frame. It waits a little for a peer
// that is not connected.
func (n *Node) openHop(ctx context.Context, name string, h Header) (*hop, error) {
	n.mu.Lock()
	p := n.peers[name]
	n.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("next hop %q: %w", name, &ResetError{Code: CodeNoRoute})
	}
	header, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(n.cfg.Limits.OpenWait)
	defer wait.Stop()
	for {
		ses, newSession := p.current()
		var newLane <-chan struct{}
		if ses != nil {
			var l *lane
			var str *quic.Stream
			if l, str, newLane = ses.openFlow(); str != nil {
				hp := newHop(ses, l, str, h.ID, true, n.moveAt(h.Class))
				hp.send.prefix = header
				return hp, nil
			}
		}
		select {
		case <-newSession:
		case <-newLane:
		case <-wait.C:
			return nil, fmt.Errorf("next hop %q not connected within %v: %w", name, n.cfg.Limits.OpenWait, &ResetError{Code: CodeNoTunnel})
		case <-ctx.Done():
			return nil, fmt.Errorf("next hop %q: %w", name, &ResetError{Code: CodeReset})
		case <-n.ctx.Done():
			return nil, fmt.Errorf("next hop %q: %w", name, &ResetError{Code: CodeShutdown})
		}
	}
}
