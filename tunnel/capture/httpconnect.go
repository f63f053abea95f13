package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
)

// HTTPConnect is an HTTP proxy that knows the method CONNECT (RFC 9110, section
// 9.3.6) over HTTP/1.1 and nothing else. It resolves names itself and answers
// 200 before anybody has dialled.
//
// Set the fields, then Start; after that the fields must not change. Methods
// may be called concurrently.
type HTTPConnect struct {
	Addr     string       // to listen on, "127.0.0.1:3128"
	Resolver Resolver     // nil means net.DefaultResolver
	MaxFlows int          // concurrent connections; 0 means DefaultMaxFlows
	Log      *slog.Logger // nil means silence

	proxy
}

// MaxRequestHeader bounds the request line and header of a CONNECT in bytes; a
// browser's is under 1 KB.
const MaxRequestHeader = 16 << 10

// Start listens and runs the handler for each flow. Close must be called, also
// after ctx, from which the handlers' contexts descend, has ended.
func (s *HTTPConnect) Start(ctx context.Context, h Handler) error {
	return s.start(ctx, KindHTTPConnect, s.Addr, s.Log, s.MaxFlows, h, s.greet)
}

func (s *HTTPConnect) greet(ctx context.Context, c *tcpConn) (Flow, error) {
	t, early, err := readConnect(c)
	if err != nil {
		var he *httpError
		if errors.As(err, &he) {
			c.farewell(httpReply(he.status))
		}
		return Flow{}, err
	}
	dst, err := t.resolve(ctx, s.Resolver)
	if err != nil {
		c.farewell(httpReply(http.StatusBadGateway))
		return Flow{}, fmt.Errorf("connect to %v: %w", t, err)
	}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return Flow{}, err
	}
	return Flow{Src: addrPort(c.RemoteAddr()), Dst: dst, Conn: withEarly(c, early), Kind: KindHTTPConnect}, nil
}

// httpError is a request that deserves a status.
type httpError struct {
	status int
	err    error
}

func (e *httpError) Error() string { return "read http request: " + e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

// readConnect reads a request, and perhaps some of the bytes that follow it.
func readConnect(r io.Reader) (t target, early []byte, err error) {
	limited := &io.LimitedReader{R: r, N: MaxRequestHeader}
	br := bufio.NewReader(limited)
	req, err := http.ReadRequest(br)
	switch {
	case err == nil:
	case limited.N <= 0:
		return t, nil, &httpError{http.StatusRequestHeaderFieldsTooLarge, fmt.Errorf("header longer than %d bytes", MaxRequestHeader)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return t, nil, &httpError{http.StatusRequestTimeout, err}
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isNetError(err):
		return t, nil, fmt.Errorf("read http request: %w", err) // nobody there to answer
	default:
		return t, nil, &httpError{http.StatusBadRequest, err}
	}
	if req.Method != http.MethodConnect {
		return t, nil, &httpError{http.StatusMethodNotAllowed, fmt.Errorf("method %.20q: only CONNECT is allowed", req.Method)}
	}
	if t, err = parseAuthority(req.RequestURI); err != nil {
		return t, nil, &httpError{http.StatusBadRequest, err}
	}
	early, err = br.Peek(br.Buffered())
	return t, early, err
}

func isNetError(err error) bool {
	var oe *net.OpError
	return errors.As(err, &oe)
}

// parseAuthority parses host:port, the port being required (RFC 9110, section
// 9.3.6).
func parseAuthority(s string) (target, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return target{}, fmt.Errorf("target %.300q: must be host:port", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return target{}, fmt.Errorf("target %.300q: port must be 1 to 65535", s)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return target{addr: a.Unmap(), port: uint16(n)}, nil
	}
	if !validHost(host) {
		return target{}, fmt.Errorf("target %.300q is no host name", s)
	}
	return target{host: host, port: uint16(n)}, nil
}

func httpReply(status int) []byte {
	allow := ""
	if status == http.StatusMethodNotAllowed {
		allow = "Allow: CONNECT\r\n"
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n", status, http.StatusText(status), allow)
}
