package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
)

// Socks5 is a SOCKS version 5 server (RFC 1928): CONNECT without
// authentication, to IPv4 and IPv6 addresses and to names, which it resolves
// itself. It answers "succeeded" before anybody has dialled; BIND and UDP
// ASSOCIATE are answered with "command not supported".
//
// Set the fields, then Start; after that the fields must not change. Methods
// may be called concurrently.
type Socks5 struct {
	Addr     string       // to listen on, "127.0.0.1:1080"
	Resolver Resolver     // nil means net.DefaultResolver
	MaxFlows int          // concurrent connections; 0 means DefaultMaxFlows
	Log      *slog.Logger // nil means silence

	proxy
}

// Numbers of RFC 1928, sections 3 to 6.
const (
	socksVersion = 5

	socksNoAuth       = 0x00
	socksNoAcceptable = 0xff

	socksConnect = 1

	socksIPv4   = 1
	socksDomain = 3
	socksIPv6   = 4

	socksSucceeded       = 0
	socksFailure         = 1
	socksHostUnreachable = 4
	socksNoCommand       = 7
	socksNoAddressType   = 8
)

// Start listens and runs the handler for each flow. Close must be called, also
// after ctx, from which the handlers' contexts descend, has ended.
func (s *Socks5) Start(ctx context.Context, h Handler) error {
	return s.start(ctx, KindSocks5, s.Addr, s.Log, s.MaxFlows, h, s.greet)
}

func (s *Socks5) greet(ctx context.Context, c *tcpConn) (Flow, error) {
	if err := socksNegotiate(c); err != nil {
		return Flow{}, err
	}
	t, err := readSocksRequest(c)
	if err != nil {
		var se *socksError
		if errors.As(err, &se) {
			c.farewell(socksReply(se.reply))
		}
		return Flow{}, err
	}
	dst, err := t.resolve(ctx, s.Resolver)
	if err != nil {
		c.farewell(socksReply(socksHostUnreachable))
		return Flow{}, fmt.Errorf("connect to %v: %w", t, err)
	}
	// The reply names no bound address: whoever dials is on the far side and
	// has not dialled yet.
	if _, err := c.Write(socksReply(socksSucceeded)); err != nil {
		return Flow{}, err
	}
	return Flow{Src: addrPort(c.RemoteAddr()), Dst: dst, Conn: c, Kind: KindSocks5}, nil
}

// socksError is a request that deserves a reply of its own.
type socksError struct {
	reply byte
	msg   string
}

func (e *socksError) Error() string { return e.msg }

// socksNegotiate picks "no authentication" from what the client offers.
func socksNegotiate(rw io.ReadWriter) error {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return fmt.Errorf("read socks greeting: %w", err)
	}
	if head[0] != socksVersion {
		return fmt.Errorf("read socks greeting: version %d: only 5 is spoken here", head[0])
	}
	var methods [255]byte
	if _, err := io.ReadFull(rw, methods[:head[1]]); err != nil {
		return fmt.Errorf("read socks greeting: %w", err)
	}
	for _, m := range methods[:head[1]] {
		if m == socksNoAuth {
			_, err := rw.Write([]byte{socksVersion, socksNoAuth})
			return err
		}
	}
	_, _ = rw.Write([]byte{socksVersion, socksNoAcceptable})
	return errors.New("read socks greeting: client does not offer to go without authentication")
}

// readSocksRequest reads exactly the request: what follows belongs to the flow.
func readSocksRequest(r io.Reader) (target, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return target{}, fmt.Errorf("read socks request: %w", err)
	}
	if head[0] != socksVersion {
		return target{}, &socksError{socksFailure, fmt.Sprintf("read socks request: version %d: must be 5", head[0])}
	}
	var buf [255 + 2]byte
	var n int
	switch head[3] {
	case socksIPv4:
		n = 4
	case socksIPv6:
		n = 16
	case socksDomain:
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return target{}, fmt.Errorf("read socks request: %w", err)
		}
		n = int(buf[0])
	default:
		return target{}, &socksError{socksNoAddressType, fmt.Sprintf("read socks request: address type %d: must be 1, 3 or 4", head[3])}
	}
	if _, err := io.ReadFull(r, buf[:n+2]); err != nil {
		return target{}, fmt.Errorf("read socks request: %w", err)
	}
	if head[1] != socksConnect {
		return target{}, &socksError{socksNoCommand, fmt.Sprintf("read socks request: command %d: only connect (1) is supported", head[1])}
	}
	t := target{port: binary.BigEndian.Uint16(buf[n:])}
	if head[3] != socksDomain {
		t.addr, _ = netip.AddrFromSlice(buf[:n])
	} else if a, err := netip.ParseAddr(string(buf[:n])); err == nil && a.Zone() == "" {
		t.addr = a // clients do send literals as names
	} else if t.host = string(buf[:n]); !validHost(t.host) {
		return target{}, &socksError{socksFailure, fmt.Sprintf("read socks request: %q is no host name", t.host)}
	}
	t.addr = t.addr.Unmap()
	return t, nil
}

func socksReply(reply byte) []byte {
	return []byte{socksVersion, reply, 0, socksIPv4, 0, 0, 0, 0, 0, 0}
}

// validHost admits what may be in a DNS name, with the underscore that is seen
// in practice, and keeps everything else from resolver, log and far side.
func validHost(h string) bool {
	if len(h) == 0 || len(h) > 253 { // RFC 1035, section 2.3.4
		return false
	}
	for i := range len(h) {
		c := h[i]
		if c < '0' && c != '-' && c != '.' || c > '9' && c < 'A' || c > 'Z' && c < 'a' && c != '_' || c > 'z' {
			return false
		}
	}
	return true
}
