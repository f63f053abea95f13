package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/identity"
)

// memoryBorder is the border in memory: a network with one link for each carrier. It is the part that both memory
// stages share.
type memoryBorder struct {
	network *wan.Network
	names   []string
	links   map[string]*wan.Link

	mu        sync.Mutex
	listeners map[int]*memoryListener
}

func newMemoryBorder(o Options) (*memoryBorder, error) {
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return nil, err
	}
	m := &memoryBorder{
		network: wan.NewNetwork(o.Seed), links: make(map[string]*wan.Link), listeners: make(map[int]*memoryListener),
	}
	for i, c := range carriers {
		for _, l := range pick(links, o.Carriers) {
			if l.Name != c {
				continue
			}
			link, err := m.network.Connect(carrierAddr(i, 1).Addr(), carrierAddr(i, 2).Addr(), l.Impairment, l.Impairment)
			if err != nil {
				return nil, fmt.Errorf("link %s: %w", c, err)
			}
			m.names, m.links[c] = append(m.names, c), link
		}
	}
	return m, nil
}

// Stats implements stage.
func (m *memoryBorder) Stats() ([]wan.LinkStats, error) {
	var out []wan.LinkStats
	for _, name := range m.names {
		l := m.links[name]
		out = append(out, wan.LinkStats{
			Name: name, AtoB: wan.WayStats{Counters: l.Stats(wan.AtoB)}, BtoA: wan.WayStats{Counters: l.Stats(wan.BtoA)},
		})
	}
	return out, nil
}

// Darken implements stage.
func (m *memoryBorder) Darken(carrier string, off bool) error {
	l := m.links[carrier]
	if l == nil {
		return fmt.Errorf("link %q: unknown", carrier)
	}
	l.Darken(off)
	return nil
}

// Listen implements Network: what is delivered to the port comes out of Accept.
func (m *memoryBorder) Listen(port int) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[port] != nil {
		return nil, fmt.Errorf("listen on port %d of the origin: in use", port)
	}
	l := &memoryListener{border: m, port: port, conns: make(chan net.Conn), closed: make(chan struct{})}
	m.listeners[port] = l
	return l, nil
}

// deliver hands a connection to whoever listens on the port, or closes it.
func (m *memoryBorder) deliver(port int, c net.Conn) {
	m.mu.Lock()
	l := m.listeners[port]
	m.mu.Unlock()
	if l != nil {
		select {
		case l.conns <- c:
			return
		case <-l.closed:
		}
	}
	c.Close()
}

// memoryListener is a port of the origin in memory.
type memoryListener struct {
	border *memoryBorder
	port   int
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.border.mu.Lock()
		delete(l.border.listeners, l.port)
		l.border.mu.Unlock()
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(originAddr.Addr(), uint16(l.port)))
}

// openMemoryStage opens the in-memory border: directly it is one ordinary QUIC connection over the one carrier, since
// there is no kernel's TCP without a kernel.
func openMemoryStage(ctx context.Context, o Options) (stage, error) {
	o, err := o.normalise()
	if err != nil {
		return nil, err
	}
	if o.Via != ViaLandbridge {
		return openMemoryDirect(ctx, o)
	}
	return openMemoryTunnel(ctx, o)
}

// memoryDirect is a plain QUIC connection over one carrier.
type memoryDirect struct {
	*memoryBorder
	conn  *quic.Conn // the client's side
	close []func() error
	wg    sync.WaitGroup
}

func openMemoryDirect(ctx context.Context, o Options) (_ stage, err error) {
	border, err := newMemoryBorder(o)
	if err != nil {
		return nil, err
	}
	m := &memoryDirect{memoryBorder: border}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	var at [2]netip.AddrPort // origin, client: A of a link is the client's side
	for i, c := range carriers {
		if c == o.Carriers[0] {
			at = [2]netip.AddrPort{bondAddr(carrierAddr(i, 2)), bondAddr(carrierAddr(i, 1))}
		}
	}
	var keys [2]identity.PrivateKey
	var transports [2]*quic.Transport
	for i := range keys {
		if keys[i], err = identity.Generate(); err != nil {
			return nil, err
		}
		pc, err := border.network.Listen(at[i])
		if err != nil {
			return nil, err
		}
		t := &quic.Transport{Conn: pc}
		transports[i] = t
		m.close = append(m.close, pc.Close, t.Close)
	}
	_, serverTLS, err := keys[0].TLS(keys[1].Public())
	if err != nil {
		return nil, err
	}
	clientTLS, _, err := keys[1].TLS(keys[0].Public())
	if err != nil {
		return nil, err
	}
	// Windows as large as the kernel's TCP buffers in the lab: the path is to be measured, not a window.
	conf := &quic.Config{
		InitialStreamReceiveWindow: tcpMemory, MaxStreamReceiveWindow: tcpMemory,
		InitialConnectionReceiveWindow: tcpMemory, MaxConnectionReceiveWindow: tcpMemory,
	}
	l, err := transports[0].Listen(serverTLS, conf)
	if err != nil {
		return nil, err
	}
	m.wg.Go(func() { m.accept(l) })
	if m.conn, err = transports[1].Dial(ctx, net.UDPAddrFromAddrPort(at[0]), clientTLS, conf); err != nil {
		return nil, fmt.Errorf("dial the origin: %w", err)
	}
	return m, nil
}

func (m *memoryDirect) accept(l *quic.Listener) {
	c, err := l.Accept(context.Background())
	if err != nil {
		return // closed before anybody came
	}
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		m.wg.Go(func() {
			sc := &streamConn{Stream: s, conn: c}
			var port [2]byte
			if _, err := io.ReadFull(s, port[:]); err != nil {
				sc.Close()
				return
			}
			m.deliver(int(binary.BigEndian.Uint16(port[:])), sc)
		})
	}
}

// Dial implements Network: a stream that starts with the port.
func (m *memoryDirect) Dial(ctx context.Context, port int) (net.Conn, error) {
	s, err := m.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial the origin: %w", err)
	}
	c := &streamConn{Stream: s, conn: m.conn}
	if _, err := s.Write(binary.BigEndian.AppendUint16(nil, uint16(port))); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial the origin: %w", err)
	}
	return c, nil
}

// Cold implements stage.
func (*memoryDirect) Cold() string { return "" }

// Close implements stage.
func (m *memoryDirect) Close() error {
	if m.conn != nil {
		m.conn.CloseWithError(0, "")
	}
	var errs []error
	for i := len(m.close) - 1; i >= 0; i-- {
		errs = append(errs, m.close[i]())
	}
	m.wg.Wait()
	return errors.Join(errs...)
}

// streamConn is a QUIC stream as a net.Conn; Close ends both directions, and a Write that waits.
type streamConn struct {
	*quic.Stream
	conn *quic.Conn
}

func (s *streamConn) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *streamConn) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

func (s *streamConn) Close() error {
	s.CancelRead(0)
	// A stream that is over is no longer the connection's, whose end would not end its Write.
	if err := s.SetWriteDeadline(time.Now()); err != nil {
		return err
	}
	return s.Stream.Close()
}
