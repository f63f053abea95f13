package wan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// MaxDatagram is the largest UDP payload over IPv4.
	MaxDatagram = 65507

	// DefaultReceiveBuffer is a socket's receive buffer in bytes, the size that
	// real tunnels ask the kernel for. What exceeds it is dropped and counted.
	DefaultReceiveBuffer = 4 << 20
	// perDatagram is what a queued datagram counts beside its bytes, so that
	// empty ones fill the buffer too.
	perDatagram = 64

	// pooledBytes is the buffer size of pooled datagrams: any usual MTU.
	pooledBytes = 2048
)

// datagram is a UDP datagram on its way. Its owner is, in turn, the sender, the
// pipe, the receive queue; whoever drops it calls release.
type datagram struct {
	from, to netip.AddrPort
	n        int
	buf      []byte
}

var datagrams = sync.Pool{New: func() any { return &datagram{buf: make([]byte, pooledBytes)} }}

func newDatagram(from, to netip.AddrPort, b []byte) *datagram {
	d := datagrams.Get().(*datagram)
	if len(b) > len(d.buf) {
		d.buf = make([]byte, len(b))
	}
	d.from, d.to, d.n = from, to, copy(d.buf, b)
	return d
}

func (d *datagram) payload() []byte { return d.buf[:d.n] }

func (d *datagram) clone() *datagram { return newDatagram(d.from, d.to, d.payload()) }

func (d *datagram) release() {
	if len(d.buf) == pooledBytes { // huge ones go to the collector
		datagrams.Put(d)
	}
}

// ConnStats count the datagrams of a socket.
type ConnStats struct {
	Received     uint64 `json:"received"` // put into the receive buffer
	BufferDrops  uint64 `json:"buffer_drops"`
	BufferedSize int    `json:"buffered_bytes"`
}

// Conn is a UDP socket of a Network. It has the methods of *net.UDPConn that
// protocols use, with the same results and errors. Writes never block: the
// link's queue drops instead. Safe for concurrent use. Use Network.Listen.
type Conn struct {
	network *Network
	local   netip.AddrPort

	mu       sync.Mutex
	readable sync.Cond
	queue    ring[*datagram]
	bytes    int
	limit    int
	count    ConnStats
	source   netip.AddrPort // address on the network: local unless rebound
	closed   bool

	readDeadline, writeDeadline time.Time
	wake                        *time.Timer // fires at readDeadline
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(n *Network, at netip.AddrPort) *Conn {
	c := &Conn{network: n, local: at, source: at, limit: DefaultReceiveBuffer}
	c.readable.L = &c.mu
	return c
}

// LocalAddr returns the *net.UDPAddr the socket was opened on.
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// Stats returns the socket's counters.
func (c *Conn) Stats() ConnStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.count
	s.BufferedSize = c.bytes
	return s
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Err: err}
}

// WriteToUDPAddrPort sends b to an address. It keeps nothing of b.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = unmap(to)
	if !to.IsValid() || to.Port() == 0 {
		return 0, c.fail("write", fmt.Errorf("%w: %v as destination", ErrAddress, to))
	}
	if len(b) > MaxDatagram {
		return 0, c.fail("write", fmt.Errorf("datagram of %d bytes, at most %d: %w", len(b), MaxDatagram, syscall.EMSGSIZE))
	}
	c.mu.Lock()
	source, closed, deadline := c.source, c.closed, c.writeDeadline
	c.mu.Unlock()
	if closed {
		return 0, c.fail("write", net.ErrClosed)
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	}
	n := c.network
	n.mu.RLock()
	way := n.links[[2]netip.Addr{source.Addr(), to.Addr()}]
	n.mu.RUnlock()
	if way == nil {
		n.countMu.Lock()
		n.count.Unlinked++
		n.countMu.Unlock()
		return len(b), nil
	}
	header := HeaderIPv4
	if to.Addr().Is6() {
		header = HeaderIPv6
	}
	way.send(newDatagram(source, to, b), len(b)+header)
	return len(b), nil
}

// WriteTo is WriteToUDPAddrPort for a *net.UDPAddr.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, c.fail("write", fmt.Errorf("%w: %T %v as destination, want *net.UDPAddr", ErrAddress, to, to))
	}
	return c.WriteToUDPAddrPort(b, u.AddrPort())
}

// ReadFromUDPAddrPort waits for a datagram and copies it to b, cut to its
// length. It fails with net.ErrClosed or os.ErrDeadlineExceeded inside a
// *net.OpError.
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	c.mu.Lock()
	for {
		if c.closed {
			c.mu.Unlock()
			return 0, netip.AddrPort{}, c.fail("read", net.ErrClosed)
		}
		if !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline) {
			c.mu.Unlock()
			return 0, netip.AddrPort{}, c.fail("read", os.ErrDeadlineExceeded)
		}
		if c.queue.len() > 0 {
			break
		}
		c.readable.Wait()
	}
	d := c.queue.pop()
	c.bytes -= d.n + perDatagram
	c.mu.Unlock()
	n, from := copy(b, d.payload()), d.from
	d.release()
	return n, from, nil
}

// ReadFrom is ReadFromUDPAddrPort with a *net.UDPAddr.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// receive takes a datagram from a link.
func (c *Conn) receive(d *datagram) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := d.n + perDatagram
	if c.closed || c.bytes+size > c.limit {
		c.count.BufferDrops++
		d.release()
		return
	}
	c.count.Received++
	c.bytes += size
	c.queue.push(d)
	c.readable.Signal()
}

// Close frees the address and wakes all readers with net.ErrClosed.
func (c *Conn) Close() error {
	n := c.network
	n.mu.Lock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		n.mu.Unlock()
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	delete(n.conns, c.source)
	if c.wake != nil {
		c.wake.Stop()
	}
	for c.queue.len() > 0 {
		c.queue.pop().release()
	}
	c.bytes = 0
	c.readable.Broadcast()
	c.mu.Unlock()
	n.mu.Unlock()
	return nil
}

// SetDeadline sets both deadlines; the zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds present and later reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.readDeadline = t
	if c.wake != nil {
		c.wake.Stop()
		c.wake = nil
	}
	if !t.IsZero() {
		c.wake = time.AfterFunc(max(0, time.Until(t)), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.readable.Broadcast()
		})
	}
	c.readable.Broadcast() // readers look at the new deadline
	return nil
}

// SetWriteDeadline makes writes after t fail; they never block.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.writeDeadline = t
	return nil
}

// SetReadBuffer sets the receive buffer's size in bytes.
func (c *Conn) SetReadBuffer(bytes int) error {
	if bytes <= 0 {
		return c.fail("set", fmt.Errorf("receive buffer of %d bytes, want more than 0: %w", bytes, syscall.EINVAL))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = bytes
	return nil
}

// SetWriteBuffer accepts any size: writes are never buffered.
func (c *Conn) SetWriteBuffer(int) error { return nil }
