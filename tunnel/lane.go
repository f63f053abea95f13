package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// interactiveWindow holds ElephantBytes and what is on the way when a direction moves to a bulk lane.
	interactiveWindow = 512 << 10
	// bulkWindow lets a new elephant run at 180 Mbit/s over 400 ms, as a quarter of it is used before new credit is given;
	// bulkWindowMax is the delay-bandwidth product of what one QUIC connection reaches (10,000 packets) with room to spare.
	bulkWindow    = 12 << 20
	bulkWindowMax = 24 << 20

	// Connection windows: what all streams of a lane may hold unread. They are taken from the node's budget, as far as
	// it goes, and never less than the least that works.
	interactiveConnWindow    = 32 << 20
	interactiveConnWindowMin = 4 << 20
	interactiveConnWindowMax = 64 << 20
	bulkConnWindow           = 128 << 20
	bulkConnWindowMin        = 2 * bulkWindow
	bulkConnWindowMax        = 256 << 20

	// maxStreams bounds the flows a peer may have open on one lane; more wait at the peer for one to end.
	maxStreams    = 1 << 14
	maxUniStreams = 1 << 13

	keepAlive        = 5 * time.Second
	idleTimeout      = 30 * time.Second
	handshakeTimeout = 5 * time.Second
	// acceptTimeout bounds how long an accepted lane may stay without a connection.
	acceptTimeout = 2 * handshakeTimeout
	// drainGrace is how long a draining lane without flows is kept, beside another one, for a flow that the peer opened just
	// before it knew.
	drainGrace = 3 * time.Second

	// quicMaxWindow is quic-go's largest congestion window, in packets.
	quicMaxWindow = 10000
)

// Connection error codes.
const (
	closeDone    quic.ApplicationErrorCode = iota // drained or replaced
	closeSession                                  // the session ended
	closeNode                                     // the node stops
)

// lane is one QUIC connection over a Lane.
type lane struct {
	ses   *session
	l     Lane
	class Class
	tr    *quic.Transport
	conn  *quic.Conn

	load atomic.Int32 // flow directions sending here
	// writing is how many of them are in the middle of a write: they wait for their turn.
	writing atomic.Int32
	refs    atomic.Int32  // flow directions sending or receiving here
	sent    atomic.Uint64 // bytes of flows written here
	used    atomic.Uint64 // bytes of flows written or read here

	window   atomic.Int64 // connection receive window, taken from the budget
	draining atomic.Bool
	drained  time.Time   // since when a draining lane has no flows; only the session's manager looks
	doneSent atomic.Bool // the peer knows that and may close the lane at any time: no flow begins on it, whatever comes
	peerDone atomic.Bool // the peer has no flows on the draining lane either
	warm     warmer
	nowhere  int // manager ticks in a row in which no path took the lane's packets
	low      int // manager ticks in a row in which the congestion window was too small

	closing atomic.Bool
	closed  chan struct{}
}

func (l *lane) String() string { return l.class.String() + " lane to " + l.ses.peer.name }

// release undoes newSendHalf's claim on the lane.
func (l *lane) release() {
	l.load.Add(-1)
	l.refs.Add(-1)
}

func (l *lane) unref() { l.refs.Add(-1) }

// use notes that a flow is about to write n bytes here.
func (l *lane) use(n int) {
	l.sent.Add(uint64(n))
	l.busy(n)
}

// busy notes that n bytes of flows are written or were read here: filler stops at once, in either direction. It would take
// the way of the acknowledgements, and what the links carry costs money.
func (l *lane) busy(n int) {
	l.used.Add(uint64(n))
	if l.warm.running.Load() {
		l.warm.stop()
	}
	if l.class == Bulk {
		if w := l.ses.warming.Load(); w != nil {
			w.warm.stop()
		}
	}
}

// crowded tells whether so many flows wait for their turn that a bulk lane is better for them, warm or not.
func (l *lane) crowded() bool { return l.writing.Load() >= crowd }

func (l *lane) alive() bool { return l.conn.Context().Err() == nil }

func (s *session) quicConfig(l *lane) *quic.Config {
	b := &s.node.budget
	c := &quic.Config{
		EnableDatagrams:         true,
		DisablePathMTUDiscovery: true,
		InitialPacketSize:       uint16(l.l.MaxPacketSize()),
		KeepAlivePeriod:         keepAlive,
		MaxIdleTimeout:          idleTimeout,
		HandshakeIdleTimeout:    handshakeTimeout,
		MaxIncomingStreams:      maxStreams,
		MaxIncomingUniStreams:   maxUniStreams,
		// What a continuation is of arrives even if the direction is reset right after its move.
		EnableStreamResetPartialDelivery: true,
	}
	var window int64
	if l.class == Bulk {
		window = b.take(bulkConnWindowMin, bulkConnWindow)
		c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = bulkWindow, bulkWindowMax
		c.MaxConnectionReceiveWindow = bulkConnWindowMax
	} else {
		window = b.take(interactiveConnWindowMin, interactiveConnWindow)
		c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = interactiveWindow, interactiveWindow
		c.MaxConnectionReceiveWindow = interactiveConnWindowMax
	}
	l.window.Store(window)
	c.InitialConnectionReceiveWindow = uint64(window)
	c.AllowConnectionWindowIncrease = func(_ *quic.Conn, delta uint64) bool {
		if !b.more(int64(delta)) {
			return false
		}
		l.window.Add(int64(delta))
		return true
	}
	return c
}

// connect runs the QUIC handshake over a lane: it dials if the session's initiator, else it accepts.
func (s *session) connect(ctx context.Context, ln Lane, dial bool) (*lane, error) {
	l := &lane{ses: s, l: ln, class: ln.Class(), tr: &quic.Transport{Conn: ln, ConnectionIDGenerator: noConnIDs{}}, closed: make(chan struct{})}
	conf := s.quicConfig(l)
	var err error
	if dial {
		l.conn, err = l.tr.Dial(ctx, ln.RemoteAddr(), s.peer.client, conf)
	} else {
		l.conn, err = accept(ctx, l.tr, s.peer.server, conf)
	}
	if err != nil {
		l.close(closeDone, "")
		return nil, fmt.Errorf("connect %v: %w", l, err)
	}
	ln.SetConn(l.conn)
	l.warm.init(l)
	return l, nil
}

// noConnIDs lets packets go without connection IDs, four bytes each: a lane has one connection (RFC 9000, section 5.1).
type noConnIDs struct{}

func (noConnIDs) GenerateConnectionID() (quic.ConnectionID, error) { return quic.ConnectionID{}, nil }
func (noConnIDs) ConnectionIDLen() int                             { return 0 }

func accept(ctx context.Context, tr *quic.Transport, conf *tls.Config, qc *quic.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	ln, err := tr.Listen(conf, qc)
	if err != nil {
		return nil, err
	}
	defer ln.Close() // one connection a lane; the accepted one stays
	return ln.Accept(ctx)
}

// close ends the connection and the lane, and waits for both.
func (l *lane) close(code quic.ApplicationErrorCode, why string) {
	if l.closing.Swap(true) {
		<-l.closed // not a sync.Once, whose waiters virtual time does not see
		return
	}
	defer close(l.closed)
	if l.conn != nil {
		l.warm.stop()
		_ = l.conn.CloseWithError(code, why) // waits for the connection; its error is the close itself
	}
	_ = l.l.Close()  // before the transport, which waits for a read of the lane to return
	_ = l.tr.Close() // nothing left to report
	l.ses.node.budget.give(l.window.Load())
}

// run serves the streams the peer opens, until the connection ends.
func (l *lane) run() {
	s := l.ses
	s.wg.Go(func() {
		for {
			str, err := l.conn.AcceptUniStream(s.ctx)
			if err != nil {
				return
			}
			s.wg.Go(func() { s.handleUni(l, str) })
		}
	})
	for {
		str, err := l.conn.AcceptStream(s.ctx)
		if err != nil {
			return
		}
		s.wg.Go(func() { s.handleFlow(l, str) })
	}
}
