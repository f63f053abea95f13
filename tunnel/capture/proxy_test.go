package capture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const waitLimit = 30 * time.Second // bounds every wait of the tests

// names is a Resolver of one name; another one fails.
type names map[string]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := n[host]; ok {
		return []netip.Addr{a}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

var testNames = names{"origin.test": netip.MustParseAddr("::ffff:192.0.2.7"), "under_score.test": netip.MustParseAddr("2001:db8::7")}

type source interface {
	Start(context.Context, Handler) error
	Listening() net.Addr
	Close() error
}

// connect starts a source whose handler echoes and sends the flow to the
// channel, and dials it.
func connect(t testing.TB, s source) (*net.TCPConn, <-chan Flow) {
	t.Helper()
	flows := make(chan Flow, 1)
	err := s.Start(context.Background(), func(_ context.Context, f Flow) {
		flows <- f
		_, _ = io.Copy(f.Conn, f.Conn)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return dialTCP(t, s.Listening().String()), flows
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(waitLimit))
	return c.(*net.TCPConn)
}

// useOnce dials, uses and closes. A reset, which may come at any point, already
// while dialling, is an error like any other.
func useOnce(addr string, use func(net.Conn) error) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitLimit))
	return use(c)
}

// socksRequest encodes greeting and request as a client does.
func socksRequest(command byte, host string, port uint16) []byte {
	b := []byte{5, 2, 0x02, socksNoAuth, 5, command, 0}
	if a, err := netip.ParseAddr(host); err != nil {
		b = append(append(b, socksDomain, byte(len(host))), host...)
	} else if a.Is4() {
		b = append(append(b, socksIPv4), a.AsSlice()...)
	} else {
		b = append(append(b, socksIPv6), a.AsSlice()...)
	}
	return append(b, byte(port>>8), byte(port))
}

func TestSocks5(t *testing.T) {
	ok, refused := "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", func(code byte) string {
		return "\x05\x00\x05" + string(code) + "\x00\x01\x00\x00\x00\x00\x00\x00"
	}
	tests := []struct {
		name, request, reply, dst string
	}{
		{"IPv4", string(socksRequest(1, "192.0.2.1", 443)), ok, "192.0.2.1:443"},
		{"IPv6", string(socksRequest(1, "2001:db8::1", 65535)), ok, "[2001:db8::1]:65535"},
		{"mapped", string(socksRequest(1, "::ffff:192.0.2.1", 1)), ok, "192.0.2.1:1"},
		{"name", string(socksRequest(1, "origin.test", 80)), ok, "192.0.2.7:80"},
		{"underscore", string(socksRequest(1, "under_score.test", 80)), ok, "[2001:db8::7]:80"},
		{"literal as name", "\x05\x01\x00\x05\x01\x00\x03\x09192.0.2.1\x00\x50", ok, "192.0.2.1:80"},
		{"unknown name", string(socksRequest(1, "nowhere.test", 80)), refused(4), ""},
		{"bad name", string(socksRequest(1, "a b", 80)), refused(1), ""},
		{"empty name", string(socksRequest(1, "", 80)), refused(1), ""},
		{"bind", string(socksRequest(2, "192.0.2.1", 80)), refused(7), ""},
		{"udp associate", string(socksRequest(3, "192.0.2.1", 80)), refused(7), ""},
		{"address type", "\x05\x01\x00\x05\x01\x00\x05", refused(8), ""},
		{"version in request", "\x05\x01\x00\x04\x01\x00\x01", refused(1), ""},
		{"password only", "\x05\x01\x02", "\x05\xff", ""},
		{"socks4", "\x04\x01\x00\x50\xc0\x00\x02\x01\x00", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, flows := connect(t, &Socks5{Addr: "127.0.0.1:0", Resolver: testNames})
			payload := ""
			if tt.dst != "" {
				payload = "first bytes" // before the reply, as a hurried client
			}
			if _, err := io.WriteString(c, tt.request+payload); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			got, err := io.ReadAll(c)
			if string(got) != tt.reply+payload {
				t.Errorf("got  %q, %v\nwant %q", got, err, tt.reply+payload)
			}
			if tt.dst == "" {
				return
			}
			f := <-flows
			if f.Dst.String() != tt.dst || f.Src != addrPort(c.LocalAddr()) || f.Kind != KindSocks5 {
				t.Errorf("flow %v to %v (%s), want %v to %s", f.Src, f.Dst, f.Kind, c.LocalAddr(), tt.dst)
			}
		})
	}
}

func TestHTTPConnect(t *testing.T) {
	tests := []struct {
		name, request string
		status        int
		dst           string
	}{
		{"IPv4", "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n", 200, "192.0.2.1:443"},
		{"IPv6", "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 200, "[2001:db8::1]:443"},
		{"HTTP/1.0", "CONNECT 192.0.2.1:443 HTTP/1.0\r\n\r\n", 200, "192.0.2.1:443"},
		{"name", "CONNECT origin.test:22 HTTP/1.1\r\nHost: origin.test:22\r\nUser-Agent: test\r\n\r\n", 200, "192.0.2.7:22"},
		{"unknown name", "CONNECT nowhere.test:22 HTTP/1.1\r\nHost: x\r\n\r\n", 502, ""},
		{"bad name", "CONNECT no%20where:22 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"no port", "CONNECT origin.test HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"port 0", "CONNECT origin.test:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"get", "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n", 405, ""},
		{"post", "POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 5\r\n\r\nhello", 405, ""},
		{"garbage", "\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", 400, ""},
		{"large header", "CONNECT 192.0.2.1:443 HTTP/1.1\r\nX: " + strings.Repeat("x", MaxRequestHeader) + "\r\n\r\n", 431, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, flows := connect(t, &HTTPConnect{Addr: "127.0.0.1:0", Resolver: testNames})
			payload := ""
			if tt.status == 200 {
				payload = "first bytes"
			}
			if _, err := io.WriteString(c, tt.request+payload); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Errorf("status %s, want %d", resp.Status, tt.status)
			}
			if allow := resp.Header.Get("Allow"); (allow == "CONNECT") != (tt.status == 405) {
				t.Errorf("Allow: %q", allow)
			}
			if rest, err := io.ReadAll(br); string(rest) != payload {
				t.Errorf("got %q, %v after the header, want %q", rest, err, payload)
			}
			if tt.dst == "" {
				return
			}
			f := <-flows
			if f.Dst.String() != tt.dst || f.Src != addrPort(c.LocalAddr()) || f.Kind != KindHTTPConnect {
				t.Errorf("flow %v to %v (%s), want %v to %s", f.Src, f.Dst, f.Kind, c.LocalAddr(), tt.dst)
			}
		})
	}
}

// TestEarlyBytes: bytes that came with the request are read first, by Read and
// by io.Copy, and the connection is otherwise itself.
func TestEarlyBytes(t *testing.T) {
	for _, read := range []struct {
		name string
		all  func(Conn) ([]byte, error)
	}{
		{"ReadAll", func(c Conn) ([]byte, error) { return io.ReadAll(c) }},
		{"WriteTo", func(c Conn) ([]byte, error) {
			var b bytes.Buffer
			_, err := c.(io.WriterTo).WriteTo(&b)
			return b.Bytes(), err
		}},
		{"small reads", func(c Conn) (all []byte, err error) {
			for b := make([]byte, 3); err == nil; {
				var n int
				n, err = c.Read(b)
				all = append(all, b[:n]...)
			}
			return all, err
		}},
	} {
		t.Run(read.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client := dialTCP(t, l.Addr().String())
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, _ = io.WriteString(client, "late")
			_ = client.CloseWrite()
			if got, err := read.all(withEarly(&tcpConn{s.(*net.TCPConn)}, []byte("early "))); string(got) != "early late" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// TestMaxFlows: the connection that is too many is reset at once, and there is
// room again when one ends.
func TestMaxFlows(t *testing.T) {
	s := &Socks5{Addr: "127.0.0.1:0", MaxFlows: 2}
	first, flows := connect(t, s)
	open := func(c net.Conn) error {
		if _, err := c.Write(socksRequest(1, "192.0.2.1", 1)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 12))
		return err
	}
	second := dialTCP(t, s.Listening().String())
	for _, c := range []*net.TCPConn{first, second} {
		if err := open(c); err != nil {
			t.Fatal(err)
		}
		<-flows
	}
	if err := useOnce(s.Listening().String(), open); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("third of two flows: %v", err)
	}
	_ = second.Close()
	deadline := time.Now().Add(waitLimit)
	for s.Flows() > 1 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if err := useOnce(s.Listening().String(), open); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// TestHandshakes: silent clients hold what MaxHandshakes allows and no more,
// and are let go when their time is over.
func TestHandshakes(t *testing.T) {
	srv, err := newServer(context.Background(), "test", nil, 0, func(context.Context, Flow) {})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.close()
	var greeted atomic.Int32
	srv.handshakes = make(chan struct{}, 2)
	srv.greet = func(ctx context.Context, c *tcpConn) (Flow, error) {
		greeted.Add(1)
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > HandshakeTimeout {
			t.Errorf("deadline %v, %v", d, ok)
		}
		_, err := c.Read(make([]byte, 1))
		return Flow{}, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.serve(l)
	var silent []*net.TCPConn
	for range 2 {
		silent = append(silent, dialTCP(t, l.Addr().String()))
	}
	for greeted.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	if err := useOnce(l.Addr().String(), func(c net.Conn) error { _, err := c.Read(make([]byte, 1)); return err }); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("third of two handshakes: %v", err)
	}
	for _, c := range silent {
		_ = c.Close()
	}
	for deadline := time.Now().Add(waitLimit); srv.flows() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("handshakes were not let go")
		}
	}
	if n := len(srv.handshakes); n != 0 {
		t.Errorf("%d handshakes still counted", n)
	}
}

func TestStartErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nothing := func(context.Context, Flow) {}
	if err := (&Socks5{Addr: l.Addr().String()}).Start(t.Context(), nothing); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("port in use: %v", err)
	}
	if err := (&HTTPConnect{Addr: "127.0.0.1:0"}).Start(t.Context(), nil); err == nil {
		t.Error("started without a handler")
	}
	s := &Socks5{Addr: "127.0.0.1:0"}
	if err := s.Close(); err != nil {
		t.Errorf("close before start: %v", err)
	}
	if err := s.Start(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), nothing); err == nil {
		t.Error("started twice")
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestNoLeaks: a thousand flows, ended in every way, leave no goroutine and no
// descriptor.
func TestNoLeaks(t *testing.T) {
	const flows, atOnce = 1000, 50
	before, fdsBefore := runtime.NumGoroutine(), openFiles()
	s := &Socks5{Addr: "127.0.0.1:0"}
	var n atomic.Int32
	err := s.Start(t.Context(), func(_ context.Context, f Flow) {
		switch n.Add(1) % 3 {
		case 0:
			_ = f.Conn.Reset()
		case 1:
			_ = f.Conn.CloseWrite()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Listening().String()
	errs := make(chan error, atOnce)
	for range atOnce {
		go func() {
			for range flows / atOnce {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					errs <- err
					return
				}
				_ = c.SetDeadline(time.Now().Add(waitLimit))
				_, _ = c.Write(socksRequest(1, "192.0.2.1", 1))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
			errs <- nil
		}()
	}
	for range atOnce {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n.Load() != flows {
		t.Errorf("%d flows handled, want %d", n.Load(), flows)
	}
	for deadline := time.Now().Add(waitLimit); runtime.NumGoroutine() > before || openFiles() > fdsBefore; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("goroutines %d, were %d; descriptors %d, were %d", runtime.NumGoroutine(), before, openFiles(), fdsBefore)
		}
	}
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// FuzzSocks5 feeds the whole client side of a handshake.
func FuzzSocks5(f *testing.F) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "origin.test", ""} {
		for command := range byte(4) {
			f.Add(socksRequest(command, host, 443))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rw := &scripted{in: bytes.NewReader(in)}
		if err := socksNegotiate(rw); err != nil {
			return
		}
		target, err := readSocksRequest(rw)
		if err != nil {
			if target.host != "" || target.addr.IsValid() {
				t.Fatalf("%v together with %v", target, err)
			}
			return
		}
		checkTarget(t, target)
		// Nothing that follows may be lost: it belongs to the flow.
		read := len(in) - rw.in.Len()
		again := &scripted{in: bytes.NewReader(in[:read])}
		if err := socksNegotiate(again); err != nil {
			t.Fatal(err)
		}
		if second, err := readSocksRequest(again); err != nil || second != target {
			t.Fatalf("the %d bytes read give %v, %v; were %v", read, second, err, target)
		}
	})
}

// FuzzHTTPConnect feeds a request and what follows it.
func FuzzHTTPConnect(f *testing.F) {
	for _, host := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "origin.test:80", "origin.test", ":1", "[fe80::1%25lo]:1"} {
		for _, method := range []string{"CONNECT", "GET"} {
			f.Add([]byte(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n\r\nearly", method, host, host)))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		target, early, err := readConnect(r)
		if err != nil {
			return
		}
		checkTarget(t, target)
		if target.port == 0 {
			t.Fatal("port 0")
		}
		rest, _ := io.ReadAll(r)
		if all := append(bytes.Clone(early), rest...); !bytes.HasSuffix(in, all) {
			t.Fatalf("%q follows the request in %q", all, in)
		}
	})
}

func checkTarget(t *testing.T, g target) {
	if (g.host == "") == !g.addr.IsValid() {
		t.Fatalf("%+v: neither or both of name and address", g)
	}
	if g.host != "" && !validHost(g.host) || g.addr.Is4In6() || g.addr.Zone() != "" {
		t.Fatalf("%+v", g)
	}
}

type scripted struct{ in *bytes.Reader }

func (s *scripted) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *scripted) Write(b []byte) (int, error) { return len(b), nil }
