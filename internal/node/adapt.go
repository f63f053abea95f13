package node

import (
	"context"

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
	return session{ses}, nil
}

type session struct{ *bond.Session }

// OpenLane opens a bulk lane only when the paths' rates are known: its QUIC connection would take the queues of the
// search for them for its own.
func (s session) OpenLane(c tunnel.Class) (tunnel.Lane, error) {
	if c == tunnel.Bulk {
		select {
		case <-s.Started():
		case <-s.Done():
		}
	}
	l, err := s.Session.OpenLane(bond.Class(c))
	if err != nil {
		return nil, err
	}
	return lane{l}, nil
}

func (s session) AcceptLane(ctx context.Context) (tunnel.Lane, error) {
	l, err := s.Session.AcceptLane(ctx)
	if err != nil {
		return nil, err
	}
	return lane{l}, nil
}

type lane struct{ *bond.Lane }

func (l lane) Class() tunnel.Class { return tunnel.Class(l.Lane.Class()) }
