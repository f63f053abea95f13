package wan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Direction of a link, seen from the call that made it.
type Direction uint8

// The two directions of a link.
const (
	AtoB Direction = iota
	BtoA
)

func (d Direction) String() string {
	switch d {
	case AtoB:
		return "a-to-b"
	case BtoA:
		return "b-to-a"
	}
	return fmt.Sprintf("direction(%d)", uint8(d))
}

const (
	// HeaderIPv4 and HeaderIPv6 are what a UDP payload costs more on Ethernet.
	HeaderIPv4 = ethernetHeader + 20 + 8
	HeaderIPv6 = ethernetHeader + 40 + 8

	// maxFlyingMemory bounds the frames in flight in one direction of an
	// in-memory link: 0.35 s of full frames at 2 Gbit/s.
	maxFlyingMemory = 1 << 16
)

// Errors of the in-memory network.
var (
	ErrAddress     = errors.New("invalid address")
	ErrAddressUsed = errors.New("address in use")
	ErrLinked      = errors.New("addresses already linked")
)

// Network is an in-memory IP network for UDP. Two addresses reach each other
// only over a Link made by Connect; what is sent anywhere else vanishes, as on
// the internet. It has no goroutines of its own (links run on timers) and needs
// no closing. It blocks only in ways that testing/synctest calls durable.
// Safe for concurrent use. Use NewNetwork, inside the bubble if there is one.
type Network struct {
	seed uint64

	mu       sync.RWMutex
	conns    map[netip.AddrPort]*Conn
	links    map[[2]netip.Addr]*oneWay // from, to
	nextLink uint64
	nextPort uint16
	count    NetworkStats
	countMu  sync.Mutex
}

// NetworkStats count datagrams that no link or socket wanted.
type NetworkStats struct {
	Unlinked uint64 `json:"unlinked"` // sent between addresses without a link
	NoSocket uint64 `json:"no_socket"`
}

// NewNetwork returns an empty network. Links draw their seeds from seed in the
// order they are made.
func NewNetwork(seed uint64) *Network {
	return &Network{
		seed:     seed,
		conns:    make(map[netip.AddrPort]*Conn),
		links:    make(map[[2]netip.Addr]*oneWay),
		nextPort: 49152,
	}
}

// Stats returns the network's counters.
func (n *Network) Stats() NetworkStats {
	n.countMu.Lock()
	defer n.countMu.Unlock()
	return n.count
}

// Listen opens a socket on a concrete address; port 0 picks a free one. Errors
// are *net.OpError around ErrAddress or ErrAddressUsed.
func (n *Network) Listen(at netip.AddrPort) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(at), Err: err}
	}
	if !at.Addr().IsValid() || at.Addr().IsUnspecified() {
		return fail(fmt.Errorf("%w: %v is not a concrete one", ErrAddress, at))
	}
	at = unmap(at)
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Port() == 0 {
		for range 16384 { // the ephemeral range
			at = netip.AddrPortFrom(at.Addr(), n.nextPort)
			if n.nextPort++; n.nextPort == 0 {
				n.nextPort = 49152
			}
			if n.conns[at] == nil {
				break
			}
		}
	}
	if n.conns[at] != nil {
		return fail(fmt.Errorf("%w: %v", ErrAddressUsed, at))
	}
	c := newConn(n, at)
	n.conns[at] = c
	return c, nil
}

// Rebind gives an open socket another address, as a NAT that forgot its mapping
// does: what the socket sends comes from the new address, what is sent to the
// old one finds no socket. LocalAddr keeps its first value.
func (n *Network) Rebind(c *Conn, to netip.AddrPort) error {
	to = unmap(to)
	if !to.Addr().IsValid() || to.Addr().IsUnspecified() || to.Port() == 0 {
		return fmt.Errorf("rebind %v: %w: %v is not a concrete one", c.local, ErrAddress, to)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns[to] != nil {
		return fmt.Errorf("rebind %v: %w: %v", c.local, ErrAddressUsed, to)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("rebind %v: %w", c.local, net.ErrClosed)
	}
	delete(n.conns, c.source)
	c.source = to
	n.conns[to] = c
	return nil
}

// Connect links two addresses (all ports). The link starts now: outages count
// from here.
func (n *Network) Connect(a, b netip.Addr, aToB, bToA Impairment) (*Link, error) {
	a, b = a.Unmap(), b.Unmap()
	for _, x := range []netip.Addr{a, b} {
		if !x.IsValid() || x.IsUnspecified() {
			return nil, fmt.Errorf("connect %v to %v: %w: %v is not a concrete one", a, b, ErrAddress, x)
		}
	}
	if a == b || a.Is4() != b.Is4() {
		return nil, fmt.Errorf("connect %v to %v: %w: want two of one family", a, b, ErrAddress)
	}
	for _, imp := range []Impairment{aToB, bToA} {
		if err := imp.Validate(); err != nil {
			return nil, fmt.Errorf("connect %v to %v: %w", a, b, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.links[[2]netip.Addr{a, b}] != nil {
		return nil, fmt.Errorf("connect %v to %v: %w", a, b, ErrLinked)
	}
	l := &Link{}
	start := time.Now()
	for i, imp := range []Impairment{aToB, bToA} {
		w := &oneWay{network: n, start: start}
		w.pipe.shaper = NewShaper(imp, linkSeed(n.seed, n.nextLink, Direction(i)))
		w.pipe.maxFlying = maxFlyingMemory
		l.ways[i] = w
	}
	n.nextLink++
	n.links[[2]netip.Addr{a, b}] = l.ways[AtoB]
	n.links[[2]netip.Addr{b, a}] = l.ways[BtoA]
	return l, nil
}

// linkSeed spreads a run's seed over links and directions (splitmix64).
func linkSeed(seed, link uint64, dir Direction) uint64 {
	z := seed + 0x9e3779b97f4a7c15*(2*link+uint64(dir)+1)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Link is a two-way link of a Network. Safe for concurrent use.
type Link struct{ ways [2]*oneWay }

// SetImpairment changes one direction from now on; what is queued drains at the
// new rate. It returns an error wrapping ErrImpairment for values out of range.
func (l *Link) SetImpairment(d Direction, imp Impairment) error {
	if err := imp.Validate(); err != nil {
		return err
	}
	w := l.ways[d]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pipe.setImpairment(w.now(), imp)
	w.arm(true)
	return nil
}

// Impairment returns what one direction applies now.
func (l *Link) Impairment(d Direction) Impairment {
	w := l.ways[d]
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pipe.shaper.Impairment()
}

// Darken switches both directions off (true) or on. What has left the queue
// still arrives.
func (l *Link) Darken(off bool) {
	l.DarkenDirection(AtoB, off)
	l.DarkenDirection(BtoA, off)
}

// DarkenDirection switches one direction off (true) or on.
func (l *Link) DarkenDirection(d Direction, off bool) {
	w := l.ways[d]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pipe.darken(w.now(), off)
}

// Stats returns the counters of one direction.
func (l *Link) Stats(d Direction) Counters {
	w := l.ways[d]
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pipe.counters(w.now())
}

// oneWay is one direction of a Link: a pipe and the timer that empties it.
// Locks are taken in the order oneWay, Network, Conn.
type oneWay struct {
	network *Network
	start   time.Time

	mu    sync.Mutex
	pipe  pipe[*datagram]
	timer *time.Timer
	armed time.Duration // when the timer fires, if isArmed
	isArm bool
}

func (w *oneWay) now() time.Duration { return time.Since(w.start) }

// send offers a datagram, which it owns from here on.
func (w *oneWay) send(d *datagram, frameBytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.pipe.offer(w.now(), frameBytes, d) {
		d.release()
		return
	}
	w.arm(false)
}

// arm sets the timer to the next arrival. Frames mostly queue behind the one
// the timer is set to, so mostly it does nothing.
func (w *oneWay) arm(force bool) {
	next, ok := w.pipe.next()
	if !ok || w.isArm && !force && w.armed <= next {
		return
	}
	w.isArm, w.armed = true, next
	wait := max(0, next-w.now())
	if w.timer == nil {
		w.timer = time.AfterFunc(wait, w.deliver)
	} else {
		w.timer.Reset(wait)
	}
}

// deliver hands over everything due. A call that comes too early or twice finds
// nothing and only sets the timer again.
func (w *oneWay) deliver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for {
		x, ok := w.pipe.pop(now)
		if !ok {
			break
		}
		if x.copies == 0 {
			x.frame.release()
			continue
		}
		if x.corrupt != 0 {
			Flip(x.frame.payload(), x.corrupt)
		}
		if x.copies == 2 {
			w.network.arrive(x.frame.clone())
		}
		w.network.arrive(x.frame)
	}
	w.isArm = false
	w.arm(false)
}

// arrive puts a datagram into its socket.
func (n *Network) arrive(d *datagram) {
	n.mu.RLock()
	c := n.conns[d.to]
	n.mu.RUnlock()
	if c == nil {
		n.countMu.Lock()
		n.count.NoSocket++
		n.countMu.Unlock()
		d.release()
		return
	}
	c.receive(d)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
