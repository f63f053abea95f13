package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	controlVersion = 1
	// maxControl bounds a message: 10,000 prefixes and more.
	maxControl = 256 << 10
)

// hello is the message of the control stream, sent when a session comes up and again when the routes change:
// version 1, length 4, JSON.
type hello struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Routes are the prefixes the receiver reaches through the sender; nil if the sender does not say.
	Routes []netip.Prefix `json:"routes,omitempty"`
	Told   bool           `json:"told,omitempty"` // Routes counts even if it is empty
}

func (h *hello) append(b []byte) ([]byte, error) {
	j, err := json.Marshal(h)
	if err != nil {
		return b, fmt.Errorf("control message: %w", err)
	}
	if len(j) > maxControl {
		return b, fmt.Errorf("control message: %d bytes, allowed up to %d", len(j), maxControl)
	}
	b = append(b, controlVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(j)))
	return append(b, j...), nil
}

func readHello(r io.Reader) (*hello, error) {
	var b [5]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b[1:])
	if b[0] != controlVersion || n > maxControl {
		return nil, fmt.Errorf("%w control message: version %d, length %d, allowed up to %d", ErrMalformed, b[0], n, maxControl)
	}
	j := make([]byte, n)
	if _, err := io.ReadFull(r, j); err != nil {
		return nil, err
	}
	h := new(hello)
	if err := json.Unmarshal(j, h); err != nil {
		return nil, fmt.Errorf("%w control message: %w", ErrMalformed, err)
	}
	return h, nil
}

// sendControl keeps a control stream to the peer and sends hello on it, again after each change of the routes. While only
// lanes about to end are there, it waits for their successors.
func (s *session) sendControl() {
	for s.ctx.Err() == nil {
		l, change := s.pick(Interactive)
		if l == nil || l.draining.Load() {
			select {
			case <-s.ctx.Done():
			case <-change:
			}
			continue
		}
		if err := s.control(l); err != nil && s.ctx.Err() == nil {
			select {
			case <-s.ctx.Done():
			case <-time.After(retryFirst):
			}
		}
	}
}

func (s *session) control(l *lane) error {
	str, err := l.conn.OpenUniStream()
	if err != nil {
		return err
	}
	defer str.CancelWrite(quic.StreamErrorCode(CodeShutdown)) // an open control stream must not outlive this
	str.SetPriority(0, true)
	l.refs.Add(1)
	defer l.unref()
	b := []byte{uniControl}
	for {
		routes, told := s.peer.routes()
		b, err = (&hello{Node: s.node.cfg.Name, Version: s.node.cfg.Version, Routes: routes, Told: told}).append(b)
		if err != nil {
			s.node.log.Error("hello not sent", "peer", s.peer.name, "error", err)
		} else if _, err := str.Write(b); err != nil {
			return err
		}
		b = b[:0]
		for again := false; !again; {
			s.mu.Lock()
			change := s.change
			s.mu.Unlock()
			if l.draining.Load() { // a control stream would keep it from ending
				return nil
			}
			select {
			case <-s.ctx.Done():
				return s.ctx.Err()
			case <-l.conn.Context().Done():
				return l.conn.Context().Err()
			case <-change:
			case <-s.routesCh:
				again = true
			}
		}
	}
}

// recvControl reads the peer's messages until the stream ends.
func (s *session) recvControl(r io.Reader) error {
	for {
		h, err := readHello(r)
		if err != nil {
			var se *quic.StreamError
			if err == io.EOF || errors.As(err, &se) {
				return nil // the peer goes on on another lane
			}
			return err
		}
		first := s.hello.Swap(h) == nil
		if first { // its key says who it is; an agent's name is its own business
			s.node.log.Info("peer says hello", "peer", s.peer.name, "name", h.Node, "version", h.Version)
		}
		if h.Told && s.node.cfg.OnRoutes != nil {
			s.node.cfg.OnRoutes(s.peer.name, h.Routes)
		}
	}
}
