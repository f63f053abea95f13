package tunnel

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/tunnel/bond"
)

// Class is the treatment a flow or a lane gets.
type Class = bond.Class

// Classes, most urgent first.
const (
	Realtime    = bond.Realtime
	Interactive = bond.Interactive
	Bulk        = bond.Bulk
	numClasses  = Bulk + 1
)

// Lane is one packet channel of a bond: the net.PacketConn under one QUIC connection.
type Lane interface {
	net.PacketConn
	Class() Class
	// ID is the lane's number in its session, the same on both sides; that of a closed lane is used again later.
	ID() int
	// MaxPacketSize is the largest packet WriteTo takes, in bytes.
	MaxPacketSize() int
	// Fit compares MaxPacketSize with what the paths take now.
	Fit() bond.Fit
	// RemoteAddr is the address to dial and to expect packets from.
	RemoteAddr() net.Addr
	// SetConn tells the lane which connection runs over it, so that it can watch its statistics.
	SetConn(*quic.Conn)
}

// Session is one life of a bond with a peer: it ends when the peer restarts or the bond closes.
type Session interface {
	// Initiator reports whether this side opens the lanes.
	Initiator() bool
	OpenLane(Class) (Lane, error)
	AcceptLane(context.Context) (Lane, error)
	Done() <-chan struct{}
	// Capacity estimates what all paths carry together, and their round trip.
	Capacity() (bitsPerSec int64, rtt time.Duration)
}

// SessionSource delivers each new session with a peer once. A new session replaces the one before it.
type SessionSource interface {
	AcceptSession(context.Context) (Session, error)
}

// Sessions delivers the sessions of a bond.
func Sessions(b *bond.Bond) SessionSource { return bondSource{b} }

type bondSource struct{ b *bond.Bond }

func (s bondSource) AcceptSession(ctx context.Context) (Session, error) {
	ses, err := s.b.AcceptSession(ctx)
	if err != nil {
		return nil, err
	}
	return bondSession{ses}, nil
}

type bondSession struct{ *bond.Session }

func (s bondSession) OpenLane(c Class) (Lane, error) {
	l, err := s.Session.OpenLane(c)
	if err != nil {
		return nil, err // no Lane around a nil pointer
	}
	return l, nil
}

func (s bondSession) AcceptLane(ctx context.Context) (Lane, error) {
	l, err := s.Session.AcceptLane(ctx)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Conn is a customer's connection. *net.TCPConn with [WrapConn] is one.
type Conn interface {
	net.Conn
	// CloseWrite ends the sending direction and leaves the other open.
	CloseWrite() error
	// Reset closes at once and tells the other side that the connection broke.
	Reset() error
}

// Flow is one captured connection.
type Flow struct {
	Src, Dst netip.AddrPort // as the client sees them
	Conn     Conn
	Class    *Class // nil: the router's
}

// Router decides where flows go and what peers may ask for. Its methods are called by many goroutines at once and must
// not block. It is replaced as a whole by [Node.SetRouter].
type Router interface {
	// Route returns the next hop towards dst; nextPeer is empty where this node is the exit.
	Route(src, dst netip.Addr) (tenant string, class Class, nextPeer string, err error)
	// Authorise returns nil if fromPeer may send a flow with this header here.
	Authorise(fromPeer string, h Header) error
}

// WrapConn makes a Conn of what a dialer returned. Without SetLinger and CloseWrite, as on a TCP connection, Reset is
// an ordinary close and CloseWrite closes both directions.
func WrapConn(c net.Conn) Conn {
	if tc, ok := c.(Conn); ok {
		return tc
	}
	return wrapped{c}
}

type wrapped struct{ net.Conn }

func (w wrapped) CloseWrite() error {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return w.Close()
}

func (w wrapped) Reset() error {
	if c, ok := w.Conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0) // close sends RST; a failure only means the connection is gone already
	}
	return w.Close()
}
