package bond

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// rig is two bonds whose run loops the test turns by hand: no goroutines, and nothing happens between two turns.
type rig struct{ a, b *rigSide }

type rigSide struct {
	host  *Host
	bond  *Bond
	ups   []*uplink
	socks []*rigSocket
	far   *rigSide
}

// rigSocket keeps what is written until it is delivered or forgotten.
type rigSocket struct {
	local netip.AddrPort
	sent  []Message
	n     int
}

func (s *rigSocket) ReadBatch([]Message) (int, error) { return 0, net.ErrClosed }
func (s *rigSocket) LocalAddr() netip.AddrPort        { return s.local }
func (s *rigSocket) Close() error                     { return nil }

func (s *rigSocket) WriteBatch(ms []Message) (int, error) {
	for _, m := range ms {
		if s.n == len(s.sent) {
			s.sent = append(s.sent, Message{Buf: make([]byte, maxDatagram)})
		}
		d := &s.sent[s.n]
		d.N = copy(d.Buf[:maxDatagram], m.Buf)
		d.Addr = s.local // of the sender, as the receiver sees it
		s.n++
	}
	return len(ms), nil
}

// newRig joins two nodes by so many paths; a opens the lanes. With learn, b is told no addresses.
func newRig(t testing.TB, paths int, learn bool) *rig {
	t.Helper()
	ka, kb := testKey(1), testKey(2)
	if ka.Public().Compare(kb.Public()) > 0 {
		ka, kb = kb, ka
	}
	r := &rig{}
	for _, isA := range []bool{true, false} {
		key, peer := ka, kb
		if !isA {
			key, peer = kb, ka
		}
		h, err := NewHost(HostConfig{Key: key, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		s := &rigSide{host: h}
		cfg := PeerConfig{Name: "peer", Key: peer.Public()}
		table := map[string]*uplink{}
		for i := range paths {
			local, remote := addrs(i)
			if !isA {
				local, remote = remote, local
			}
			sock := &rigSocket{local: local}
			u := &uplink{name: string(rune('0' + i)), mtu: 1500}
			var socket Socket = sock
			u.sock.Store(&socket)
			s.ups, s.socks, table[u.name] = append(s.ups, u), append(s.socks, sock), u
			if isA || !learn {
				cfg.Paths = append(cfg.Paths, PathConfig{Name: u.name, Uplink: u.name, Remote: remote})
			}
		}
		if s.bond, err = newBond(h, cfg); err != nil {
			t.Fatal(err)
		}
		for _, p := range cfg.Paths {
			if err := s.bond.addPath(table, p); err != nil {
				t.Fatal(err)
			}
		}
		h.bonds[s.bond.id] = s.bond
		h.publish()
		if isA {
			r.a = s
		} else {
			r.b = s
		}
	}
	r.a.far, r.b.far = r.b, r.a
	return r
}

// establish runs the handshake.
func (r *rig) establish(t testing.TB) (sa, sb *Session) {
	t.Helper()
	for range 4 {
		r.a.turn()
		r.b.turn()
	}
	if r.a.bond.sess == nil || r.b.bond.sess == nil {
		t.Fatal("no session after the handshake")
	}
	return r.a.bond.sess, r.b.bond.sess
}

// turn does one turn of the run loop and delivers what it sent.
func (s *rigSide) turn() {
	s.step()
	for i, sock := range s.socks {
		s.far.host.receive(s.far.ups[i], sock.take())
	}
}

// step does one turn of the run loop and leaves what it sent in the sockets.
func (s *rigSide) step() {
	b := s.bond
	b.mu.Lock()
	now, at := b.host.now()
	b.step(now, at)
	b.mu.Unlock()
	b.flush()
}

// take returns what was written since the last time; it stays valid until the next write.
func (s *rigSocket) take() []Message {
	ms := s.sent[:s.n]
	s.n = 0
	return ms
}
