package node

import (
	"context"
	"sync/atomic"

	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// sessionSource, session and lane give package tunnel the bond in the words of its interfaces.
type sessionSource struct{ b *bond.Bond }

func (s sessionSource) AcceptSession(ctx context.Context) (tunnel.Session, error) {
	ses, err := s.b.AcceptSession(ctx)
	if err != nil {
		return nil, err
	}
	return &session{Session: ses, ctx: ctx}, nil
}

type session struct {
	*bond.Session
	ctx    context.Context // of the peer: it ends with RemovePeer and Close
	opened atomic.Bool     // the first lane, or accepted
}

// OpenLane opens one interactive lane at once and all others only when the paths' rates are known: their QUIC
// connections would take the queues of the search for them for their own and stop growing. The first one does, and is
// replaced then.
func (s *session) OpenLane(c tunnel.Class) (tunnel.Lane, error) {
	if c != tunnel.Interactive || s.opened.Swap(true) {
		if err := s.wait(s.ctx); err != nil {
			return nil, err
		}
	}
	l, err := s.Session.OpenLane(bond.Class(c))
	if err != nil {
		return nil, err
	}
	return lane{l}, nil
}

// wait waits until the paths' rates and packet sizes are known, or the session has ended.
func (s *session) wait(ctx context.Context) error {
	select {
	case <-s.Started():
	case <-s.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// AcceptLane accepts the first lane at once, too. The peer's rates may be known to it before ours are to us, and a lane keeps
// the packet size that it is accepted with.
func (s *session) AcceptLane(ctx context.Context) (tunnel.Lane, error) {
	if s.opened.Swap(true) {
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
	}
	l, err := s.Session.AcceptLane(ctx)
	if err != nil {
		return nil, err
	}
	return lane{l}, nil
}

type lane struct{ *bond.Lane }

func (l lane) Class() tunnel.Class { return tunnel.Class(l.Lane.Class()) }
