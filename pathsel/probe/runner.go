package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// maxDatagram is the longest probe that is read whole: an open one with the path's MTU.
const maxDatagram = 1500

// expireEvery is how often silence is looked at, when no probe is due before.
const expireEvery = 20 * time.Millisecond

// Conn is one uplink's socket. ReadProbe also says with which TTL or hop limit the datagram came, 0 where that is not
// known, and the two may be called at once from two goroutines.
type Conn interface {
	ReadProbe(b []byte) (n int, ttl uint8, from netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// Source delivers replies that were taken and authenticated in the kernel.
type Source interface {
	// Replies is closed when the source ends; the sockets go on.
	Replies() <-chan stamp.Reply
}

// Path is one path to probe.
type Path struct {
	ID     uint8
	Uplink string         // by the name it was added with
	Remote netip.AddrPort // the reflector's
	Key    *stamp.Key     // nil for a foreign reflector
}

// Config of a Runner. OnSent, OnEvent and OnProbe are called one at a time, from several goroutines, and must neither block nor
// call the runner.
type Config struct {
	Interval time.Duration                            // between two probes of a path; 0 is stamp.DefaultInterval
	Clock    func() time.Duration                     // nil is Now
	OnSent   func(now time.Duration, id uint8)        // a probe left
	OnEvent  func(ev *stamp.Event)                    // something was learned
	OnError  func(uplink string, id uint8, err error) // a probe could not be sent; may be nil
	// OnProbe is told of each authentic, fresh probe that was answered, and where it came from; may be nil.
	OnProbe func(uplink string, key uint32, from netip.AddrPort)
}

// Runner probes paths and answers probes. Safe for concurrent use.
type Runner struct {
	cfg  Config
	wake chan struct{}

	mu        sync.Mutex
	sender    *stamp.Sender
	reflector stamp.Reflector
	uplinks   map[string]*uplink
	paths     map[uint8]Path
	events    []stamp.Event
	readers   sync.WaitGroup
	closed    bool
}

type uplink struct {
	name string
	conn Conn
}

// ErrClosed is returned by calls on a runner that has ended.
var ErrClosed = errors.New("probe runner has ended")

// New makes a runner without uplinks.
func New(cfg Config) *Runner {
	if cfg.Clock == nil {
		cfg.Clock = Now
	}
	return &Runner{
		cfg: cfg, wake: make(chan struct{}, 1), sender: stamp.NewSender(cfg.Interval),
		uplinks: make(map[string]*uplink), paths: make(map[uint8]Path),
	}
}

// SetUplink takes an uplink's socket over and starts to read from it. A socket that the uplink had before is closed.
func (r *Runner) SetUplink(name string, c Conn) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if old := r.uplinks[name]; old != nil {
		_ = old.conn.Close() // ends its reader
	}
	u := &uplink{name, c}
	r.uplinks[name] = u
	r.readers.Go(func() { r.read(u) })
	return nil
}

// AddPath probes one more path from now on. One that is there under the same key goes on where it was, from the uplink and
// to the address it has now: its reflector has seen the numbers before.
func (r *Runner) AddPath(p Path) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.uplinks[p.Uplink] == nil {
		return fmt.Errorf("path %d: uplink %s has no probe socket", p.ID, p.Uplink)
	}
	old, there := r.paths[p.ID]
	r.paths[p.ID] = p
	if there && old.Key != nil && p.Key != nil && *old.Key == *p.Key {
		return nil
	}
	r.sender.AddPath(r.cfg.Clock(), p.ID, p.Key)
	r.nudge()
	return nil
}

// RemovePath ends the probing of a path.
func (r *Runner) RemovePath(id uint8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.paths, id)
	r.sender.RemovePath(id)
}

// Pace changes the interval between a path's probes; 0 is that of the configuration.
func (r *Runner) Pace(id uint8, interval time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sender.Pace(r.cfg.Clock(), id, interval)
	r.nudge()
}

// Boost probes a path at stamp.BoostInterval until then.
func (r *Runner) Boost(id uint8, until time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sender.Boost(r.cfg.Clock(), id, until)
	r.nudge()
}

// AddReflected answers the probes under a peer's key, RemoveReflected no longer.
func (r *Runner) AddReflected(k *stamp.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reflector.AddKey(k)
}

func (r *Runner) RemoveReflected(id uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reflector.RemoveKey(id)
}

// AllowOpen answers up to perSecond probes a second of foreign session-senders.
func (r *Runner) AllowOpen(perSecond int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reflector.AllowOpen(perSecond)
}

// Stats returns the counters of both roles.
func (r *Runner) Stats() (stamp.SenderStats, stamp.ReflectorStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sender.Stats(), r.reflector.Stats()
}

// nudge lets Run look at the schedule again.
func (r *Runner) nudge() {
	select {
	case r.wake <- struct{}{}:
	default: // it is going to anyway
	}
}

// Run sends probes until ctx ends, then closes the sockets and waits for their readers. It is called once.
func (r *Runner) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(r.send())
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		}
	}
	r.mu.Lock()
	r.closed = true
	for _, u := range r.uplinks {
		u.conn.Close()
	}
	r.mu.Unlock()
	r.readers.Wait()
	return ctx.Err()
}

// send sends what is due and returns how long until more is.
func (r *Runner) send() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var buf [stamp.Len]byte
	for {
		now := r.cfg.Clock()
		id, b, ok := r.sender.Due(now, buf[:0])
		if !ok {
			r.deliver(r.sender.Expire(now, r.events[:0]))
			if next, ok := r.sender.Next(); ok {
				return min(max(next-now, 0), expireEvery)
			}
			return expireEvery
		}
		p := r.paths[id]
		// A probe that could not leave counts as lost: so does what the path should carry.
		if _, err := r.uplinks[p.Uplink].conn.WriteToUDPAddrPort(b, p.Remote); err != nil && r.cfg.OnError != nil {
			r.cfg.OnError(p.Uplink, id, err)
		}
		if r.cfg.OnSent != nil {
			r.cfg.OnSent(now, id)
		}
	}
}

// deliver hands events on and keeps their memory. Called with mu held.
func (r *Runner) deliver(ev []stamp.Event) {
	for i := range ev {
		if r.cfg.OnEvent != nil {
			r.cfg.OnEvent(&ev[i])
		}
	}
	r.events = ev[:0]
}

// read serves an uplink's socket until it is closed.
func (r *Runner) read(u *uplink) {
	buf, reply := make([]byte, maxDatagram), make([]byte, 0, maxDatagram)
	for {
		n, ttl, from, err := u.conn.ReadProbe(buf)
		now := r.cfg.Clock()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || r.ended() {
				return
			}
			pauseAfterError()
			continue
		}
		reply = r.datagram(u, buf[:n], ttl, from, now, reply[:0])
	}
}

// pauseAfterError is after an ICMP error of an earlier probe; what it says shows as loss.
func pauseAfterError() { time.Sleep(time.Millisecond) }

func (r *Runner) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// datagram takes a reply, or answers a probe. Errors are counted where they arise.
func (r *Runner) datagram(u *uplink, b []byte, ttl uint8, from netip.AddrPort, now time.Duration, reply []byte) []byte {
	r.mu.Lock()
	if path, ok := r.awaited(u, from, b); ok {
		ev, _ := r.sender.Receive(now, b, path, r.events[:0])
		r.deliver(ev)
		r.mu.Unlock()
		return reply
	}
	reply, err := r.reflector.Reflect(reply, b, ttl, now, r.cfg.Clock())
	if key, ours := stamp.KeyID(b); err == nil && ours && r.cfg.OnProbe != nil {
		r.cfg.OnProbe(u.name, key, from)
	}
	r.mu.Unlock()
	if err == nil {
		_, _ = u.conn.WriteToUDPAddrPort(reply, from) // a lost reply is a lost reply
	}
	return reply
}

// awaited tells replies from probes: by their direction or, of an open path, by the address.
func (r *Runner) awaited(u *uplink, from netip.AddrPort, b []byte) (path uint8, ok bool) {
	if stamp.IsReply(b) {
		return 0, true
	}
	for id, p := range r.paths {
		if p.Key == nil && p.Uplink == u.name && p.Remote == from && !stamp.IsProbe(b) {
			return id, true
		}
	}
	return 0, false
}

// Take takes the replies of a source until it ends or ctx does.
func (r *Runner) Take(ctx context.Context, s Source) {
	for {
		select {
		case <-ctx.Done():
			return
		case rep, ok := <-s.Replies():
			if !ok {
				return
			}
			r.mu.Lock()
			ev, _ := r.sender.Reply(rep, r.events[:0])
			r.deliver(ev)
			r.mu.Unlock()
		}
	}
}

// PacketConn is what FromPacketConn needs; *net.UDPConn and the emulator's in-memory connections have it.
type PacketConn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	Close() error
}

type plainConn struct{ PacketConn }

// FromPacketConn makes a Conn of a connection that does not tell TTLs.
func FromPacketConn(c PacketConn) Conn { return plainConn{c} }

func (c plainConn) ReadProbe(b []byte) (int, uint8, netip.AddrPort, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	return n, 0, from, err
}
