package bond

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/landbridge/landbridge/internal/identity"
)

const (
	// maxBonds bounds the peers of a host: each has a goroutine and path windows of some MB.
	maxBonds = 1024
	// readBuffers is how many datagrams one read of an uplink takes.
	readBuffers = 64
	// maxDatagram is the longest datagram read; longer ones are cut, and then fail their tag.
	maxDatagram = 2048
)

// Errors of a host.
var (
	ErrClosed    = net.ErrClosed
	ErrDuplicate = errors.New("already there")
	ErrUnknown   = errors.New("unknown")
)

// HostConfig configures a Host. Key is needed; Log defaults to slog.Default.
type HostConfig struct {
	Key identity.PrivateKey
	Log *slog.Logger
}

// Host owns a node's uplink sockets and gives each datagram to its bond. Safe for concurrent use.
type Host struct {
	key  identity.PrivateKey
	log  *slog.Logger
	base time.Time
	// clock is the node's clock: time.Now but in tests of clocks that differ.
	clock func() time.Time

	mu      sync.Mutex
	uplinks map[string]*uplink
	bonds   map[uint32]*Bond
	lookup  atomic.Pointer[map[uint32]*Bond]
	closed  bool
	wg      sync.WaitGroup

	drops        dropCounters
	lastStranger atomic.Int64 // when a stranger was last told of, Unix nanoseconds
}

type uplink struct {
	name string
	sock atomic.Pointer[Socket]
	mtu  int
	rate int64
	left atomic.Bool // removed from the host

	wmu     sync.Mutex // bonds of several peers share the socket
	failing bool       // the last write failed; guarded by wmu
}

func (u *uplink) socket() Socket { return *u.sock.Load() }

type dropCounters struct {
	malformed, unknownBond, badTag, replayed, noSession, badBody, laneRefused atomic.Uint64
}

// NewHost returns a host without uplinks.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Key.IsZero() {
		return nil, errors.New("new bond host: no private key")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	h := &Host{key: cfg.Key, log: cfg.Log, clock: time.Now, base: time.Now().Add(-time.Second), uplinks: map[string]*uplink{}, bonds: map[uint32]*Bond{}}
	h.lookup.Store(&map[uint32]*Bond{})
	return h, nil
}

func (h *Host) now() (time.Time, stamp) {
	t := h.clock()
	return t, stamp(t.Sub(h.base) / time.Microsecond)
}

// Uplink describes an uplink: its name, its socket (owned by the host from here), its MTU (0: 1500) and the contracted
// rate in bits a second that caps what is sent on it (0: none).
type Uplink struct {
	Name   string
	Socket Socket
	MTU    int
	Rate   int64
}

// AddUplink starts reading the uplink's socket.
func (h *Host) AddUplink(u Uplink) error {
	if u.MTU == 0 {
		u.MTU = 1500
	}
	if u.MTU < 1280 || u.MTU > 1500 {
		return fmt.Errorf("add uplink %q: MTU %d, allowed 1280 to 1500", u.Name, u.MTU)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if _, ok := h.uplinks[u.Name]; ok {
		return fmt.Errorf("add uplink %q: %w", u.Name, ErrDuplicate)
	}
	if len(h.uplinks) >= maxPaths {
		return fmt.Errorf("add uplink %q: %d there already, allowed %d", u.Name, len(h.uplinks), maxPaths)
	}
	up := &uplink{name: u.Name, mtu: u.MTU, rate: u.Rate}
	up.sock.Store(&u.Socket)
	h.uplinks[u.Name] = up
	h.wg.Go(func() { h.read(up, u.Socket) })
	return nil
}

// ReplaceSocket gives an uplink a new socket, as when its interface went away and another one came in its place. The
// bonds over it stay. The host owns the socket from here; on an error it stays the caller's.
func (h *Host) ReplaceSocket(name string, s Socket) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	u := h.uplinks[name]
	if u == nil {
		return fmt.Errorf("replace socket of uplink %q: %w", name, ErrUnknown)
	}
	u.wmu.Lock()
	old := u.socket()
	u.sock.Store(&s)
	u.failing = false
	u.wmu.Unlock()
	h.wg.Go(func() { h.read(u, s) })
	_ = old.Close() // ends its reader; nothing can be done about an error
	return nil
}

// read takes datagrams off an uplink's socket until it closes.
func (h *Host) read(u *uplink, sock Socket) {
	ms := make([]Message, readBuffers)
	for i := range ms {
		ms[i].Buf = make([]byte, maxDatagram)
	}
	failing := false
	for {
		n, err := sock.ReadBatch(ms)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// The NIC went away or is down; its paths go silent by themselves. Try again until the socket closes.
			if !failing {
				h.log.Warn("uplink cannot be read; its paths are degraded", "uplink", u.name, "err", err)
				failing = true
			}
			time.Sleep(200 * time.Millisecond)
			h.mu.Lock()
			closed := h.closed
			h.mu.Unlock()
			if closed {
				return
			}
			continue
		}
		if failing {
			h.log.Info("uplink can be read again", "uplink", u.name)
			failing = false
		}
		h.receive(u, ms[:n])
	}
}

// receive gives datagrams to their bonds.
func (h *Host) receive(u *uplink, ms []Message) {
	bonds := *h.lookup.Load()
	var last *Bond
	for i := range ms {
		b := ms[i].Buf[:ms[i].N]
		hd, ok := parseHeader(b)
		if !ok {
			h.drops.malformed.Add(1)
			continue
		}
		bd := bonds[hd.bond]
		if bd == nil {
			h.drops.unknownBond.Add(1)
			h.stranger(ms[i].Addr)
			continue
		}
		if last != nil && last != bd {
			last.received()
		}
		last = bd
		bd.receive(u, ms[i].Addr, hd, b)
	}
	if last != nil {
		last.received()
	}
}

// strangerInterval bounds the log lines that strangers can cause.
const strangerInterval = 30 * time.Second

// stranger tells people of datagrams that come from a configured peer's address and belong to no bond: the number of a
// bond follows from the keys of both its nodes, so one of the two has a key that the other does not expect.
func (h *Host) stranger(from netip.AddrPort) {
	now := time.Now().UnixNano()
	last := h.lastStranger.Load()
	if now-last < int64(strangerInterval) || !h.lastStranger.CompareAndSwap(last, now) {
		return
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	for _, b := range *h.lookup.Load() {
		for _, p := range b.cfg.Paths {
			if p.Remote == from {
				h.log.Warn("a peer uses another key than configured; its datagrams are dropped", "peer", b.cfg.Name, "from", from,
					"hint", "compare the public keys that both sides are configured with: landbridge keygen --public FILE")
				return
			}
		}
	}
	h.lastStranger.CompareAndSwap(now, last) // nobody we know: no line, so none used up
}

// PathConfig names a path of a bond: the local uplink, the peer's address (invalid: learned from the peer) and a cap in
// bits a second (0: none).
type PathConfig struct {
	Name   string
	Uplink string
	Remote netip.AddrPort
	Rate   int64
}

// PeerConfig configures a bond. Paths may be empty where the peer comes to us; then Uplinks names the uplinks on which
// it may (nil: all).
type PeerConfig struct {
	Name    string
	Key     identity.PublicKey
	Paths   []PathConfig
	Uplinks []string
}

// Bond starts the bond to a peer.
func (h *Host) Bond(cfg PeerConfig) (*Bond, error) {
	b, err := newBond(h, cfg)
	if err != nil {
		return nil, fmt.Errorf("bond to %s: %w", cfg.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if other, ok := h.bonds[b.id]; ok {
		return nil, fmt.Errorf("bond to %s: %w: the bond to %s has its number", cfg.Name, ErrDuplicate, other.cfg.Name)
	}
	if len(h.bonds) >= maxBonds {
		return nil, fmt.Errorf("bond to %s: %d bonds, allowed %d", cfg.Name, len(h.bonds), maxBonds)
	}
	for _, p := range cfg.Paths {
		if err := b.addPath(h.uplinks, p); err != nil {
			return nil, fmt.Errorf("bond to %s: path %q: %w", cfg.Name, p.Name, err)
		}
	}
	h.bonds[b.id] = b
	h.publish()
	h.wg.Go(b.run)
	return b, nil
}

// publish makes the bond table visible to the readers. Called with mu held.
func (h *Host) publish() {
	m := make(map[uint32]*Bond, len(h.bonds))
	for id, b := range h.bonds {
		m[id] = b
	}
	h.lookup.Store(&m)
}

func (h *Host) remove(b *Bond) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bonds[b.id] == b {
		delete(h.bonds, b.id)
		h.publish()
	}
}

// Close ends every bond, telling the peers, and closes the sockets.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	bonds := make([]*Bond, 0, len(h.bonds))
	for _, b := range h.bonds {
		bonds = append(bonds, b)
	}
	h.mu.Unlock()
	for _, b := range bonds {
		b.Close()
	}
	var errs []error
	h.mu.Lock()
	for _, u := range h.uplinks {
		errs = append(errs, u.socket().Close())
	}
	h.mu.Unlock()
	h.wg.Wait()
	return errors.Join(errs...)
}

// Drops returns how many received datagrams were dropped, by reason.
func (h *Host) Drops() map[string]uint64 {
	d := &h.drops
	return map[string]uint64{
		"malformed": d.malformed.Load(), "unknown_bond": d.unknownBond.Load(), "bad_tag": d.badTag.Load(),
		"replayed": d.replayed.Load(), "no_session": d.noSession.Load(), "bad_body": d.badBody.Load(),
		"lane_refused": d.laneRefused.Load(),
	}
}
