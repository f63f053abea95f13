package lab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/pathsel/stamp"
)

// prober probes the paths from gateway sha to fra, and answers there. It is made of what gateways are made of, and alone
// in its namespaces.
type prober struct {
	name    string
	port    uint16
	runner  *probe.Runner // at sha
	mirror  *probe.Runner // at fra, of ProberUser; XDP answers those of ProberNIC
	replies *bpf.Replies  // at sha, of ProberNIC
	source  chan stamp.Reply
	undo    []func() error // in reverse
	stop    context.CancelFunc
	ran     bool
	running sync.WaitGroup

	mu    sync.Mutex
	table *pathsel.Table
	paths []measuredPath // by the link's number
}

// measuredPath is what a prober found out about one path.
type measuredPath struct {
	numbers map[time.Duration]uint32 // sequence numbers by sending time
	rtts    map[uint32]time.Duration // by sequence number
	decided uint32                   // probes whose fate was known
	loss    [2]float64               // as the path's estimate has it, out and back
}

// numbered notes which number was sent when: the events that a runner reports tell the time alone.
type numbered struct {
	probe.Conn
	p    *prober
	path int
}

func (n numbered) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	n.p.mu.Lock()
	n.p.paths[n.path].numbers[stamp.PTP(binary.BigEndian.Uint64(b[4:]))] = binary.BigEndian.Uint32(b)
	n.p.mu.Unlock()
	return n.Conn.WriteToUDPAddrPort(b, to)
}

// Replies implements probe.Source.
func (p *prober) Replies() <-chan stamp.Reply { return p.source }

func (lab *Lab) newProber(name string, port uint16) (p *prober, err error) {
	p = &prober{name: name, port: port, table: pathsel.NewTable(0), source: make(chan stamp.Reply, 1<<10)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("prober %s: %w", name, errors.Join(err, p.close()))
		}
	}()
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return p, err
	}
	p.runner = probe.New(probe.Config{OnSent: p.onSent, OnEvent: p.onEvent})
	if name == ProberUser {
		p.mirror = probe.New(probe.Config{})
	}
	var senders []bpf.Sender
	sessions := make(map[uint32]bpf.Session)
	for i, l := range lab.links {
		p.paths = append(p.paths, measuredPath{numbers: make(map[time.Duration]uint32), rtts: make(map[uint32]time.Duration)})
		c := slices.Index(carriers, l.Name)
		conn, err := lab.probeSocket(machineSha, l.Name, netip.AddrPortFrom(carrierAddr(c, 1).Addr(), 0))
		if err != nil {
			return p, err
		}
		local := conn.(interface{ LocalAddr() net.Addr }).LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if err := p.runner.SetUplink(l.Name, numbered{conn, p, i}); err != nil {
			return p, err
		}
		session, remote := uint32(probeSession+i), netip.AddrPortFrom(carrierAddr(c, 2).Addr(), port)
		if p.mirror != nil {
			conn, err := lab.probeSocket(machineFra, l.Name, remote)
			if err != nil {
				return p, err
			}
			if err := p.mirror.SetUplink(l.Name, conn); err != nil {
				return p, err
			}
			p.mirror.AddReflected(stamp.NewKey(session, key))
		}
		sessions[session] = bpf.Session{Key: key}
		senders = append(senders, bpf.Sender{Reflector: remote, LocalPort: local, Path: bpf.PathID(i + 1), Session: session, Key: key})
		now := probe.Now()
		if err := p.table.Add(now, uint8(i), l.Name); err != nil {
			return p, err
		}
		if err := p.runner.AddPath(probe.Path{ID: uint8(i), Uplink: l.Name, Remote: remote, Key: stamp.NewKey(session, key)}); err != nil {
			return p, err
		}
	}
	if name == ProberNIC {
		return p, lab.atNICs(p, senders, sessions)
	}
	return p, nil
}

// atNICs has XDP answer the probes at fra, and take the replies at sha.
func (lab *Lab) atNICs(p *prober, senders []bpf.Sender, sessions map[uint32]bpf.Session) error {
	here, err := lab.nicPrograms(p, machineSha)
	if err != nil {
		return err
	}
	there, err := lab.nicPrograms(p, machineFra)
	if err != nil {
		return err
	}
	ports := bpf.PortRange{From: 1<<16 - 1}
	for _, s := range senders {
		ports.From, ports.To = min(ports.From, s.LocalPort), max(ports.To, s.LocalPort)
	}
	if p.replies, err = here.Replies(); err != nil {
		return err
	}
	return errors.Join(there.SetReflector(bpf.Reflector{Port: p.port}), there.SetSessions(sessions),
		here.SetReflector(bpf.Reflector{SenderPorts: ports}), here.SetSenders(senders))
}

// nicPrograms loads the programs for a machine's carrier NICs and puts them there.
func (lab *Lab) nicPrograms(p *prober, machine string) (*bpf.Carrier, error) {
	c, err := bpf.LoadCarrier(bpf.CarrierConfig{})
	if err != nil {
		return nil, err
	}
	p.undo = append(p.undo, c.Close)
	for _, l := range lab.links {
		err := wan.InNamespace(lab.state.Options.namespace(machine), func() error {
			nic, err := netlink.LinkByName(l.Name + "0")
			if err != nil {
				return err
			}
			a, err := c.Attach(nic.Attrs().Index, bpf.XDPDriver, bpf.Auto)
			if err == nil {
				p.undo = append(p.undo, a.Close)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", l.Name, machine, err)
		}
	}
	return c, nil
}

func (lab *Lab) probeSocket(machine, link string, at netip.AddrPort) (c probe.Conn, err error) {
	err = wan.InNamespace(lab.state.Options.namespace(machine), func() error {
		c, err = probe.Listen(at, link+"0")
		return err
	})
	return c, err
}

// run probes until end or ctx's end.
func (p *prober) run(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	p.ran = true
	p.running.Go(func() { _ = p.runner.Run(ctx) }) // it ends with ctx
	if p.mirror != nil {
		p.running.Go(func() { _ = p.mirror.Run(ctx) })
		return
	}
	p.running.Go(func() { p.runner.Take(ctx, p) })
	p.running.Go(func() {
		defer close(p.source)
		for {
			v, err := p.replies.Read()
			if err != nil {
				return // closed
			}
			r := stamp.Reply{
				Path: uint8(v.Path - 1), Key: probeSession + uint32(v.Path-1), Seq: v.Sequence, Count: v.Reflected, T1: stamp.PTP(v.SentNTP),
				T2: stamp.NTP(v.PeerRx), T3: stamp.NTP(v.PeerTx), T4: v.Received, Left: v.Sent, TTL: v.TTLThere,
			}
			select {
			case p.source <- r:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (p *prober) onSent(now time.Duration, id uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.ProbeSent(now, id)
}

func (p *prober) onEvent(ev *stamp.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.Probe(ev)
	m := &p.paths[ev.Path]
	switch ev.Kind {
	case stamp.EventReply:
		if n, ok := m.numbers[ev.Sent]; ok {
			m.rtts[n] = ev.RTT
		}
	case stamp.EventFate:
		m.decided += uint32(ev.OutLost + ev.BackLost + ev.Answered)
	}
}

// end takes the estimates and ends the probing.
func (p *prober) end() {
	p.mu.Lock()
	for i, s := range p.table.States(probe.Now(), nil) {
		p.paths[i].loss = [2]float64{s.Out.Loss, s.Back.Loss}
	}
	decided := make([]uint32, len(p.paths))
	for i := range p.paths {
		decided[i] = p.paths[i].decided
	}
	p.mu.Unlock()
	p.halt()
	for i := range p.paths { // what was decided since is not in the estimates
		p.paths[i].decided = decided[i]
	}
}

func (p *prober) halt() {
	if p.stop == nil {
		return
	}
	p.stop()
	if p.replies != nil {
		_ = p.replies.Close() // ends its reader
	}
	p.running.Wait()
	p.stop, p.replies = nil, nil
}

// close takes everything down.
func (p *prober) close() error {
	p.halt()
	var errs []error
	if p.replies != nil {
		errs = append(errs, p.replies.Close())
	}
	if !p.ran { // a runner's sockets are closed by its Run
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for _, r := range []*probe.Runner{p.runner, p.mirror} {
			if r != nil {
				_ = r.Run(ended)
			}
		}
		p.ran = true
	}
	for _, f := range slices.Backward(p.undo) {
		errs = append(errs, f())
	}
	p.undo = nil
	return errors.Join(errs...)
}
