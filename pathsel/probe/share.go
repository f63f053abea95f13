package probe

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// sharedBacklog bounds the datagrams that a runner has not read from a shared socket; more are lost, and show as loss.
const sharedBacklog = 64

// Shared is one socket for the runners of several peers: the peers' addresses are not known before they speak, so they
// all speak to one port, and a datagram belongs to whose key it names. Use [Share]. Safe for concurrent use.
type Shared struct {
	conn    Conn
	unknown atomic.Uint64
	reader  sync.WaitGroup

	mu     sync.Mutex
	byKey  map[uint32]*sharedConn
	closed bool
}

// Share takes a socket over and reads from it until Close.
func Share(c Conn) *Shared {
	s := &Shared{conn: c, byKey: make(map[uint32]*sharedConn)}
	s.reader.Go(s.read)
	return s
}

// Conn is the part of the socket that belongs to the keys. A key that another Conn had is this one's from now on.
func (s *Shared) Conn(keys ...uint32) Conn {
	c := &sharedConn{shared: s, in: make(chan sharedDatagram, sharedBacklog), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(c.done)
		return c
	}
	for _, k := range keys {
		s.byKey[k] = c
	}
	return c
}

// Unknown counts the datagrams that named no key of anybody's.
func (s *Shared) Unknown() uint64 { return s.unknown.Load() }

// Close closes the socket and all that share it.
func (s *Shared) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, c := range s.byKey {
		c.once.Do(func() { close(c.done) })
	}
	clear(s.byKey)
	s.mu.Unlock()
	err := s.conn.Close()
	s.reader.Wait()
	return err
}

func (s *Shared) read() {
	buf := make([]byte, maxDatagram)
	for {
		n, ttl, from, err := s.conn.ReadProbe(buf)
		s.mu.Lock()
		if err != nil {
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return
			}
			pauseAfterError()
			continue
		}
		key, ok := stamp.KeyID(buf[:n])
		c := s.byKey[key]
		s.mu.Unlock()
		if !ok || c == nil {
			s.unknown.Add(1)
			continue
		}
		select {
		case c.in <- sharedDatagram{append([]byte(nil), buf[:n]...), ttl, from}:
		default:
		}
	}
}

type sharedConn struct {
	shared *Shared
	in     chan sharedDatagram
	once   sync.Once
	done   chan struct{}
}

type sharedDatagram struct {
	b    []byte
	ttl  uint8
	from netip.AddrPort
}

func (c *sharedConn) ReadProbe(b []byte) (int, uint8, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.ttl, d.from, nil
	case <-c.done:
		return 0, 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *sharedConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.shared.conn.WriteToUDPAddrPort(b, to)
}

// Close leaves the socket to the others.
func (c *sharedConn) Close() error {
	c.shared.mu.Lock()
	defer c.shared.mu.Unlock()
	for k, have := range c.shared.byKey {
		if have == c {
			delete(c.shared.byKey, k)
		}
	}
	c.once.Do(func() { close(c.done) })
	return nil
}
