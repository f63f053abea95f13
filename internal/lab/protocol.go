package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Network is what a workload runs over: the client's and the origin's end of whatever lies between them. Safe for
// concurrent use.
type Network interface {
	// Dial opens a connection from the client to the origin's port.
	Dial(ctx context.Context, port int) (net.Conn, error)
	// Listen accepts at the origin's port.
	Listen(port int) (net.Listener, error)
}

// workloadPort is where the origin serves the bulk and objects workloads.
const workloadPort = 7000

// requestSize is the length of every workload request: about what a small HTTP GET takes.
const requestSize = 100

// operation is what a request asks for.
type operation uint8

const (
	opDownload operation = iota + 1 // the origin sends Length bytes of the stream, or until it is cut off
	opUpload                        // the client sends the stream from here on
	opObject                        // the origin sends exactly Length bytes and waits for the next request
)

// maxObject bounds what one object request may ask for: larger transfers are bulk.
const maxObject = 64 << 20

// request is the fixed-size message that opens a flow or asks for an object.
type request struct {
	Op     operation
	ID     uint64
	Seed   uint64
	Length int64 // bytes; 0 with opDownload: endless
}

// errRequest is wrapped by every parse failure.
var errRequest = errors.New("malformed workload request")

const requestMagic = "LBW1"

// append adds the request's encoding to b.
func (r request) append(b []byte) []byte {
	b = append(b, requestMagic...)
	b = append(b, byte(r.Op))
	b = binary.BigEndian.AppendUint64(b, r.ID)
	b = binary.BigEndian.AppendUint64(b, r.Seed)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Length))
	for len(b)%requestSize != 0 {
		b = append(b, '.')
	}
	return b
}

// parseRequest reads one request of exactly requestSize bytes.
func parseRequest(b []byte) (request, error) {
	if len(b) != requestSize {
		return request{}, fmt.Errorf("%w: %d bytes, want %d", errRequest, len(b), requestSize)
	}
	if string(b[:4]) != requestMagic {
		return request{}, fmt.Errorf("%w: magic %q", errRequest, b[:4])
	}
	r := request{
		Op:     operation(b[4]),
		ID:     binary.BigEndian.Uint64(b[5:]),
		Seed:   binary.BigEndian.Uint64(b[13:]),
		Length: int64(binary.BigEndian.Uint64(b[21:])),
	}
	switch {
	case r.Op < opDownload || r.Op > opObject:
		return request{}, fmt.Errorf("%w: operation %d, want 1 to 3", errRequest, b[4])
	case r.Length < 0:
		return request{}, fmt.Errorf("%w: length %d", errRequest, r.Length)
	case r.Op == opObject && r.Length > maxObject:
		return request{}, fmt.Errorf("%w: object of %d bytes, want at most %d", errRequest, r.Length, maxObject)
	}
	return r, nil
}

// server is the origin's side of the workloads. Serve runs until Close.
type server struct {
	listener net.Listener
	onUpload func(net.Conn, request) // takes the connection over; nil refuses uploads

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

func newServer(l net.Listener, onUpload func(net.Conn, request)) *server {
	s := &server{listener: l, onUpload: onUpload, conns: make(map[net.Conn]struct{})}
	s.wg.Go(s.accept)
	return s
}

func (s *server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed, or broken for good: the client's side reports what it then misses
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Go(func() {
			s.handle(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

// Close ends every connection and waits for their goroutines.
func (s *server) Close() {
	s.mu.Lock()
	s.closed = true
	s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *server) handle(c net.Conn) {
	var buf [requestSize]byte
	for {
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return
		}
		req, err := parseRequest(buf[:])
		if err != nil {
			return
		}
		switch req.Op {
		case opObject:
			if err := sendStream(c, req); err != nil {
				return
			}
		case opDownload:
			_ = sendStream(c, req) // ends with an error whenever the client has seen enough
			return
		case opUpload:
			if s.onUpload != nil {
				s.onUpload(c, req)
			}
			return
		}
	}
}

// sendStream writes the stream of the request: Length bytes, or with length 0 until the connection fails.
func sendStream(c io.Writer, req request) error {
	var src io.Reader = NewStream(req.Seed, req.ID)
	if req.Length > 0 {
		src = io.LimitReader(src, req.Length)
	}
	size := int64(128 << 10)
	if req.Length > 0 {
		size = min(size, req.Length)
	}
	_, err := io.CopyBuffer(onlyWriter{c}, src, make([]byte, size))
	return err
}

// onlyWriter hides ReadFrom, which would make io.CopyBuffer ignore the buffer it was given.
type onlyWriter struct{ io.Writer }

// dialTimeout bounds one connection attempt of a workload.
const dialTimeout = 15 * time.Second
