// Package capture is where customer flows enter a node and, at the exit, where
// they leave under the client's own address.
//
// [Transparent] takes TCP that is routed through the node's LAN NICs, for any
// destination in the captured prefixes, without the client knowing. [Socks5]
// and [HTTPConnect] are explicit proxies for hosts without the privileges. All
// three accept at once, before anybody has dialled the destination, and hand
// each flow to a [Handler]; a destination that turns out not to answer is
// reported with [Conn].Reset.
//
// [DialTransparent] dials from a foreign source address; [Return] brings the
// replies to such connections back to them.
//
// The handler owns a flow's Conn until it returns; then the source closes it.
// Nothing here keeps a reference to a buffer of the caller.
package capture

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/landbridge/landbridge/bpf"
)

// Kinds of flows, in Flow.Kind.
const (
	KindTransparent = "transparent"
	KindSocks5      = "socks5"
	KindHTTPConnect = "http-connect"
)

// Limits of a source of flows.
const (
	// DefaultMaxFlows bounds concurrent flows of one source, each of which
	// costs two descriptors and the relay's buffers. When it is reached a new
	// connection is reset, so that the client learns at once.
	DefaultMaxFlows = 16384
	// AcceptBacklog bounds connections the kernel has completed and we have not
	// accepted; net.core.somaxconn may lower it. Beyond it SYNs are dropped (or
	// answered with cookies) and retried by the client.
	AcceptBacklog = 2048
	// MaxHandshakes bounds proxy handshakes in progress: with HandshakeTimeout
	// it bounds what clients that connect and say nothing can hold.
	MaxHandshakes = 1024
	// HandshakeTimeout bounds a proxy handshake from accept to reply, name
	// resolution included, against clients that trickle bytes.
	HandshakeTimeout = 10 * time.Second
	// closeTimeout bounds how long Close waits for handlers after it has
	// cancelled their context and reset their connections.
	closeTimeout = 5 * time.Second
)

// Conn is the customer's side of a flow.
type Conn interface {
	net.Conn
	// CloseWrite sends FIN; reading goes on.
	CloseWrite() error
	// Reset closes the connection so that the peer sees RST instead of FIN, and
	// discards what has not been sent.
	Reset() error
}

// Flow is one accepted customer connection.
type Flow struct {
	Src  netip.AddrPort // the client
	Dst  netip.AddrPort // where the client wants to go
	Conn Conn
	Kind string // KindTransparent, ...
	// Class is what the rules say of the flow; NoClass where nobody asked them.
	Class bpf.Class
}

// Handler carries one flow. It runs in its own goroutine; the context ends when
// the source closes. The connection is closed when the handler returns.
type Handler func(context.Context, Flow)

// tcpConn is a Conn over a TCP connection.
type tcpConn struct {
	*net.TCPConn
}

// Reset implements Conn.
func (c *tcpConn) Reset() error {
	// The error of a connection the peer has already torn down is of no use.
	_ = c.SetLinger(0)
	return c.Close()
}

// farewell sends a last message to a client that is turned away. Closing with
// bytes unread would send a reset, which can overtake the message, so what the
// client has sent is read first, within bounds.
func (c *tcpConn) farewell(msg []byte) {
	const maxUnread, patience = 64 << 10, time.Second
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(msg); err != nil {
		return
	}
	if err := c.CloseWrite(); err == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, maxUnread)
	}
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// addrPort unmaps, so that an IPv4 client on a dual-stack socket is IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
