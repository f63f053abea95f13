package node

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel/stamp"
	"github.com/landbridge/landbridge/tunnel/bond"
)

const (
	// monotonicEpoch makes the kernel's reflector write the seconds of CLOCK_MONOTONIC, as that in user space does: NTP's
	// era 1 begins with 2036, and era numbers are not written.
	monotonicEpoch = (1<<32 - 2208988800) * time.Second
	// replyBacklog bounds the replies taken in the kernel that a peer's runner has not looked at; more are lost, and show
	// as loss.
	replyBacklog = 256
)

// carriers are the programs on the uplinks' NICs: the reflector, what takes replies at the NIC, and the guard. Safe for
// concurrent use.
type carriers struct {
	log    *slog.Logger
	prog   *bpf.Carrier
	kernel *kernel
	reader *bpf.Replies
	wg     sync.WaitGroup

	mu       sync.Mutex
	port     uint16 // where probes are reflected
	attached map[string]carrierNIC
	peers    map[string]*carrierPeer
	guard    bpf.Guard
	lost     map[string]string       // by uplink: what is not there, and why
	moving   map[string][]netip.Addr // by peer: addresses that an agent was heard from
}

type carrierNIC struct {
	index int
	*bpf.CarrierAttachment
}

// carrierPeer is what the programs know of a peer.
type carrierPeer struct {
	sessions map[uint32]bpf.Session
	senders  map[uint8]bpf.Sender
	keys     map[bpf.PathID]uint32
	replies  chan stamp.Reply
}

// Replies implements probe.Source.
func (p *carrierPeer) Replies() <-chan stamp.Reply { return p.replies }

// startCarriers loads the programs and puts them on the NICs of all uplinks where that is possible. Where it is nowhere,
// it returns nil and says why; an error only where the guard could not do what it must.
func startCarriers(cfg *config.NodeConfig, k *kernel, log *slog.Logger) (c *carriers, lost []string, err error) {
	lose := func(why error) (*carriers, []string, error) {
		if cfg.Guard.Mode == config.GuardEnforce {
			return nil, nil, hint.With(fmt.Errorf("start guard: %w", why), "%s", guardHint(why))
		}
		log.Info("probes are answered and timed in user space, and nothing guards the carriers", "why", why)
		return nil, []string{"probes are answered and timed in user space, with the scheduler's noise, and no guard is possible: " + why.Error()}, nil
	}
	if k == nil {
		return lose(errors.New("no path table in the kernel"))
	}
	prog, err := bpf.LoadCarrier(bpf.CarrierConfig{Paths: k.table, Epoch: monotonicEpoch})
	if err != nil {
		return lose(err)
	}
	c = &carriers{
		log: log, prog: prog, kernel: k, attached: map[string]carrierNIC{}, peers: map[string]*carrierPeer{}, lost: map[string]string{}, moving: map[string][]netip.Addr{},
	}
	for _, u := range cfg.Uplinks {
		if port := probePort(u.Address.Port()); c.port == 0 {
			c.port = port // that of others is served in user space
		}
	}
	var errs []error
	for _, u := range cfg.Uplinks {
		if err := c.attach(u); errors.As(err, &netlink.LinkNotFoundError{}) {
			continue // reopen attaches when it is there; until then nothing comes in
		} else if err != nil {
			errs = append(errs, fmt.Errorf("uplink %s: %w", u.Name, err))
			c.lost[u.Name] = err.Error()
		}
	}
	if len(errs) > 0 && (len(c.attached) == 0 || cfg.Guard.Mode == config.GuardEnforce) {
		c.close()
		return lose(errors.Join(errs...))
	}
	if len(errs) > 0 {
		log.Info("probes are answered and timed in user space on some uplinks, which nothing guards", "why", errors.Join(errs...))
	}
	if c.reader, err = c.prog.Replies(); err != nil {
		c.close()
		return lose(err)
	}
	if err := c.write(); err != nil {
		c.close()
		return lose(err)
	}
	if err := c.setGuard(cfg); err != nil {
		c.close()
		return nil, nil, err
	}
	c.wg.Go(c.read)
	log.Info("probes are answered and timed at the NIC", "uplinks", c.uplinks(), "guard", cfg.Guard.Mode)
	return c, nil, nil
}

func guardHint(err error) string {
	if h := hint.Of(err); h != "" {
		return h
	}
	return "the document asks for guard: enforce; run where XDP can be attached, or set it to off"
}

// attach puts the programs on an uplink's NIC. Called with mu held, or before anybody else knows c.
func (c *carriers) attach(u config.NodeUplink) error {
	nic, err := netlink.LinkByName(u.Interface)
	if err != nil {
		return err
	}
	index := nic.Attrs().Index
	for _, a := range c.attached {
		if a.index == index { // two uplinks on one NIC
			c.attached[u.Name] = carrierNIC{index, nil}
			return nil
		}
	}
	mode := bpf.XDPAuto
	if nic.Type() == "veth" {
		// A driver's XDP_TX leaves a veth only where the other end has XDP or GRO too, which nobody here knows.
		mode = bpf.XDPGeneric
	}
	a, err := c.prog.Attach(index, mode, bpf.Auto)
	if err != nil {
		return err
	}
	c.attached[u.Name] = carrierNIC{index, a}
	return nil
}

// reopen attaches to an uplink's NIC: it was gone and is back, or its address has come, and then nothing changes.
func (c *carriers) reopen(u config.NodeUplink) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.attached[u.Name]; ok {
		if nic, err := netlink.LinkByName(u.Interface); err == nil && nic.Attrs().Index == a.index {
			return // what other uplinks on it have may be this one's attachment
		}
		delete(c.attached, u.Name)
		if a.CarrierAttachment != nil {
			_ = a.Close() // went with its NIC
		}
	}
	if err := c.attach(u); err != nil {
		c.lost[u.Name] = err.Error()
		c.log.Warn("probes are answered and timed in user space on an uplink, which nothing guards", "uplink", u.Name, "err", err, "hint", hint.Of(err))
		return
	}
	delete(c.lost, u.Name)
}

// retry attaches where reopen could not and the guard is to enforce, which no NIC is to go without for good. At the start
// that is refused.
func (c *carriers) retry(u config.NodeUplink) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, lost := c.lost[u.Name]; !lost || c.guard.Mode != bpf.GuardEnforce {
		return
	}
	if err := c.attach(u); err != nil {
		c.lost[u.Name] = err.Error()
		return
	}
	delete(c.lost, u.Name)
	c.log.Info("an uplink is guarded now, and its probes are answered and timed at the NIC", "uplink", u.Name)
}

// uplinks are those whose NICs have the programs.
func (c *carriers) uplinks() []string {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.attached))
}

// on tells whether an uplink's NIC has the programs.
func (c *carriers) on(uplink string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.attached[uplink]
	return ok
}

func (c *carriers) peerLocked(name string) *carrierPeer {
	p := c.peers[name]
	if p == nil {
		p = &carrierPeer{
			sessions: map[uint32]bpf.Session{}, senders: map[uint8]bpf.Sender{}, keys: map[bpf.PathID]uint32{},
			replies: make(chan stamp.Reply, replyBacklog),
		}
		c.peers[name] = p
	}
	return p
}

// source is where the replies of a peer's paths come from.
func (c *carriers) source(peer string) *carrierPeer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peerLocked(peer)
}

// reflectFor answers the probes of a peer's session at the NICs. own are the paths to the peer that are probed: a gateway
// has the same number for them.
func (c *carriers) reflectFor(peer string, s *bond.Session, own func(path uint8) bpf.PathID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peerLocked(peer)
	clear(p.sessions)
	for path := range uint8(bond.MaxPaths) {
		id, key := s.ProbeKey(false, path)
		p.sessions[id] = bpf.Session{Key: key, Path: own(path)}
	}
	return c.writeSessions()
}

// probe takes the replies to the probes of a path at the NIC.
func (c *carriers) probe(peer string, path uint8, s bpf.Sender) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peerLocked(peer)
	p.senders[path] = s
	p.keys[s.Path] = s.Session
	return c.write()
}

// forget ends what is done for a peer.
func (c *carriers) forget(peer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, peer)
	delete(c.moving, peer)
	if err := errors.Join(c.writeSessions(), c.write()); err != nil {
		c.log.Error("carriers' programs keep what is gone", "peer", peer, "err", err)
	}
}

// writeSessions is called with mu held.
func (c *carriers) writeSessions() error {
	all := map[uint32]bpf.Session{}
	for _, p := range c.peers {
		maps.Copy(all, p.sessions)
	}
	return c.prog.SetSessions(all)
}

// write sets senders and ports. Called with mu held.
func (c *carriers) write() error {
	var all []bpf.Sender
	r := bpf.Reflector{Port: c.port}
	for _, p := range c.peers {
		for _, s := range p.senders {
			all = append(all, s)
			if r.SenderPorts.From == 0 || s.LocalPort < r.SenderPorts.From {
				r.SenderPorts.From = s.LocalPort
			}
			r.SenderPorts.To = max(r.SenderPorts.To, s.LocalPort)
		}
	}
	return errors.Join(c.prog.SetReflector(r), c.prog.SetSenders(all))
}

// read hands replies to the runners of their peers until the reader is closed.
func (c *carriers) read() {
	for {
		v, err := c.reader.Read()
		if err != nil {
			return // closed
		}
		peer, path, ok := c.kernel.name(v.Path)
		if !ok {
			continue
		}
		c.mu.Lock()
		p := c.peers[peer]
		var key uint32
		if p != nil {
			key, ok = p.keys[v.Path]
		}
		c.mu.Unlock()
		if p == nil || !ok {
			continue
		}
		select {
		case p.replies <- stamp.Reply{
			Path: path, Key: key, Seq: v.Sequence, Count: v.Reflected, T1: stamp.PTP(v.SentNTP), T2: stamp.NTP(v.PeerRx), T3: stamp.NTP(v.PeerTx),
			T4: v.Received, Left: v.Sent, TTL: v.TTLThere,
		}:
		default:
		}
	}
}

// setGuard makes the guard let in what the configuration allows.
func (c *carriers) setGuard(cfg *config.NodeConfig) error {
	if c == nil {
		if cfg.Guard.Mode == config.GuardEnforce {
			err := errors.New("guard: enforce needs the programs on the carriers' NICs, which were not to be had at the start")
			return hint.With(err, "landbridge doctor says why")
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g, err := guardOf(cfg)
	if err != nil {
		return err
	}
	for _, addrs := range c.moving {
		for _, a := range addrs {
			if !slices.Contains(g.Peers, a) && len(g.Peers) < bpf.MaxPeers {
				g.Peers = append(g.Peers, a)
			}
		}
	}
	if err := c.prog.SetGuard(g); err != nil {
		return err
	}
	c.guard = g
	return nil
}

// heardFrom lets in what comes from where an agent is now, without the limit for strangers. An address that it left stays
// known until the guard is set the next time.
func (c *carriers) heardFrom(peer string, addrs []netip.Addr) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moving[peer] = addrs
	for _, a := range addrs {
		if err := c.prog.AddPeer(a); err != nil {
			c.log.Warn("guard takes an agent's address for a stranger's", "peer", peer, "err", err)
			return
		}
	}
}

// Ports of DHCP clients (RFC 2131 section 4.1, RFC 8415 section 7.2).
const dhcpClient, dhcp6Client = 68, 546

// guardOf is the guard that a configuration asks for: beside its list, the peers, and direct flows from sites behind them.
func guardOf(cfg *config.NodeConfig) (bpf.Guard, error) {
	g := bpf.Guard{Mode: bpf.GuardMode(cfg.Guard.Mode), StrangerRate: cfg.Guard.UnknownPPS, StrangerBurst: 2 * cfg.Guard.UnknownPPS,
		TotalRate: cfg.Guard.UnknownTotalPPS, TotalBurst: 2 * cfg.Guard.UnknownTotalPPS}
	for _, u := range cfg.Uplinks {
		if port := u.Address.Port(); port != 0 {
			g.BondPorts = append(g.BondPorts, port)
			if p := probePort(port); p != 0 {
				g.BondPorts = append(g.BondPorts, p)
			}
			if p := agentPort(port); p != 0 && agentsOn(cfg, u.Name) {
				g.BondPorts = append(g.BondPorts, p)
			}
		} else {
			// An access link may have its address by DHCP, whose answers are not for what was asked from.
			g.Allow = append(g.Allow, bpf.Inbound{Protocol: unix.IPPROTO_UDP, Ports: bpf.PortRange{From: dhcpClient}},
				bpf.Inbound{Protocol: unix.IPPROTO_UDP, Ports: bpf.PortRange{From: dhcp6Client}})
		}
	}
	for _, p := range cfg.Peers {
		for _, path := range p.Paths {
			if a := path.Remote.Addr().Unmap(); !slices.Contains(g.Peers, a) {
				g.Peers = append(g.Peers, a)
			}
		}
	}
	allow := func(r *config.Rule, from []netip.Prefix) {
		froms := from
		if len(froms) == 0 {
			froms = []netip.Prefix{{}}
		}
		for _, v := range expand(&config.Rule{Protocols: r.Protocols, Ports: r.Ports}, bpf.Rule{}) {
			for _, f := range froms {
				g.Allow = append(g.Allow, bpf.Inbound{From: f, Protocol: v.Protocol, Ports: v.Ports})
			}
		}
	}
	for i := range cfg.Guard.Allow {
		allow(&cfg.Guard.Allow[i], cfg.Guard.Allow[i].From)
	}
	for _, t := range cfg.Tenants {
		for i := range t.Rules {
			if t.Rules[i].Action != config.ActionDirect {
				continue
			}
			for _, p := range cfg.Peers {
				for _, s := range p.Sources {
					// Everything, which an agent takes from its gateway, is nobody's site: the list has to name those.
					sites := slices.DeleteFunc(slices.Clone(s.Prefixes), func(p netip.Prefix) bool { return p.Bits() == 0 })
					if s.Tenant == t.Name && len(p.Paths) > 0 && len(sites) > 0 {
						allow(&t.Rules[i], sites)
					}
				}
			}
		}
	}
	if len(g.Allow) > bpf.MaxInbound {
		return g, fmt.Errorf("guard: %d inbound entries, of its list and of direct rules; allowed %d", len(g.Allow), bpf.MaxInbound)
	}
	return g, nil
}

// agentsOn tells whether agents come in on an uplink.
func agentsOn(cfg *config.NodeConfig, uplink string) bool {
	return slices.ContainsFunc(cfg.Peers, func(p config.Peer) bool {
		return p.Kind == config.PeerAgent && slices.Contains(p.Uplinks, uplink)
	})
}

// lostText says what is missing on which uplinks.
func (c *carriers) lostText() (out []string) {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range slices.Sorted(maps.Keys(c.lost)) {
		out = append(out, fmt.Sprintf("probes on %s are answered and timed in user space, and nothing guards it: %s", u, c.lost[u]))
	}
	return out
}

// close detaches and unloads.
func (c *carriers) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.reader != nil {
		errs = append(errs, c.reader.Close())
	}
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.attached {
		if a.CarrierAttachment != nil {
			errs = append(errs, a.Close())
		}
	}
	clear(c.attached)
	return errors.Join(append(errs, c.prog.Close())...)
}

// localPort is the port of a socket, 0 where that is not known.
func localPort(c any) uint16 {
	if l, ok := c.(interface{ LocalAddr() net.Addr }); ok {
		if a, ok := l.LocalAddr().(*net.UDPAddr); ok {
			return a.AddrPort().Port()
		}
	}
	return 0
}
