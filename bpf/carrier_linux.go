package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// CarrierConfig is what the programs for carriers' NICs are loaded with.
type CarrierConfig struct {
	// Paths is the live path table that answers are written to; nil means one of
	// its own.
	Paths *Paths
	// MaxOutgoing bounds the table of what went out; 0 means DefaultMaxOutgoing.
	MaxOutgoing int
	// Epoch is the Unix time at which Monotonic was 0, in the times that the
	// reflector writes; 0 means that of now. It stays for the programs' life.
	Epoch time.Duration
}

// DefaultMaxOutgoing is the size of the guard's table of outgoing flows, about
// 100 bytes each.
const DefaultMaxOutgoing = 1 << 16

// outgoingMemory is how long an outgoing flow other than TCP opens the way back
// after its last packet: longer than any NAT on the way.
const outgoingMemory = 10 * time.Minute

// Carrier is the programs for NICs that face a carrier: reflector and guard.
// Until told otherwise they reflect nothing and let everything pass. Methods may
// be called concurrently.
type Carrier struct {
	reflector, guard           *ebpf.Program
	probeEgress, guardEgress   *ebpf.Program
	sessions, senders, replies *ebpf.Map
	next                       *ebpf.Map
	ports, allowed4, allowed6  *ebpf.Map
	peers, buckets, totals     *ebpf.Map
	probeVerdicts              *ebpf.Map
	guardVerdicts              *ebpf.Map
	guardOutgoing              *ebpf.Map
	settings                   *ebpf.Variable    // of the reflector
	guardSettings              [2]*ebpf.Variable // in the guard's object and in the reflector's
	paths                      *Paths
	owned                      []interface{ Close() error }
	epoch                      time.Duration

	mu          sync.Mutex
	lastPorts   []uint32
	lastSets    inboundSets
	oldSets     inboundSets // not in use any more, removed with the next change
	nextSet     uint32
	lastPeers   map[netip.Addr]bool
	lastSession map[uint32]Session
	lastSender  map[reflectorSenderKey]Sender
}

// LoadCarrier loads the programs for carriers' NICs. The error names what is
// missing and, as an [*Error], has a hint.
func LoadCarrier(cfg CarrierConfig) (_ *Carrier, err error) {
	const op = "load program carrier"
	if cfg.MaxOutgoing == 0 {
		cfg.MaxOutgoing = DefaultMaxOutgoing
	}
	if cfg.MaxOutgoing < 1 || cfg.MaxOutgoing > 1<<24 {
		return nil, fmt.Errorf("%s: max outgoing flows %d: must be 1 to %d", op, cfg.MaxOutgoing, 1<<24)
	}
	c := &Carrier{paths: cfg.Paths, nextSet: 1, lastPorts: make([]uint32, portsMax), lastPeers: make(map[netip.Addr]bool),
		lastSession: make(map[uint32]Session), lastSender: make(map[reflectorSenderKey]Sender)}
	defer func() {
		if err != nil {
			err = explain(op, errors.Join(err, c.Close()))
		}
	}()
	if c.paths == nil {
		if c.paths, err = NewPaths(); err != nil {
			return nil, err
		}
		c.owned = append(c.owned, c.paths)
	}
	spec, err := loadReflector()
	if err != nil {
		return nil, err
	}
	coll, err := newCollection(spec, c.paths.shared(spec))
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	c.reflector, c.probeEgress = c.program(coll, "reflector"), c.program(coll, "probe_egress")
	for name, m := range map[string]**ebpf.Map{
		"sessions": &c.sessions, "senders": &c.senders, "replies": &c.replies, "next": &c.next,
		"buckets": &c.buckets, "totals": &c.totals, "probe_verdicts": &c.probeVerdicts,
	} {
		*m = c.bpfMap(coll, name)
	}
	c.settings, c.guardSettings[1] = coll.Variables["reflector_settings"], coll.Variables["guard_settings"]

	if spec, err = loadGuard(); err != nil {
		return nil, err
	}
	spec.Maps["outgoing"].MaxEntries = uint32(cfg.MaxOutgoing)
	guard, err := newCollection(spec, map[string]*ebpf.Map{"buckets": c.buckets, "totals": c.totals})
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	c.guard, c.guardEgress = c.program(guard, "guard"), c.program(guard, "guard_egress")
	for name, m := range map[string]**ebpf.Map{
		"ports": &c.ports, "allowed4": &c.allowed4, "allowed6": &c.allowed6, "peers": &c.peers, "guard_verdicts": &c.guardVerdicts, "outgoing": &c.guardOutgoing,
	} {
		*m = c.bpfMap(guard, name)
	}
	c.guardSettings[0] = guard.Variables["guard_settings"]
	// One epoch for the programs' life: a step of the host's clock must not look
	// like a change of delay.
	if c.epoch = cfg.Epoch; c.epoch == 0 {
		c.epoch = time.Duration(time.Now().UnixNano()) - Monotonic()
	}
	if err := c.SetReflector(Reflector{}); err != nil {
		return nil, err
	}
	return c, c.SetGuard(Guard{})
}

func (c *Carrier) program(coll *ebpf.Collection, name string) *ebpf.Program {
	p := coll.DetachProgram(name)
	c.owned = append(c.owned, p)
	return p
}

func (c *Carrier) bpfMap(coll *ebpf.Collection, name string) *ebpf.Map {
	m := coll.DetachMap(name)
	c.owned = append(c.owned, m)
	return m
}

// NTP is the time in probes at a time of [Monotonic].
func (c *Carrier) NTP(mono time.Duration) uint64 { return NTP(time.Unix(0, int64(c.epoch+mono))) }

// SetReflector says what to do about probes.
func (c *Carrier) SetReflector(r Reflector) error {
	if r.SenderPorts.To == 0 {
		r.SenderPorts.To = r.SenderPorts.From
	}
	if r.SenderPorts.To < r.SenderPorts.From || r.SenderPorts.From == 0 && r.SenderPorts.To != 0 {
		return fmt.Errorf("set reflector: sender ports %d-%d: must be 1 to 65535, in order", r.SenderPorts.From, r.SenderPorts.To)
	}
	v := reflectorReflectorSettings{Epoch: uint64(c.epoch), Port: r.Port, SenderLow: r.SenderPorts.From, SenderHigh: r.SenderPorts.To}
	if r.Plain {
		v.Plain = 1
	}
	return explain("set reflector", c.settings.Set(v))
}

// SetSessions replaces the sessions that are answered. One that stays as it was
// keeps its count and its memory of what it has answered.
func (c *Carrier) SetSessions(set map[uint32]Session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range set {
		if s.Path > MaxPaths {
			return fmt.Errorf("set session %d: path %d: must be 0 to %d", id, s.Path, MaxPaths)
		}
		if old, ok := c.lastSession[id]; ok && old == s {
			continue
		}
		v := reflectorSession{Key: keyWords(s.Key), Path: uint16(s.Path)}
		if err := c.sessions.Put(id, &v); err != nil {
			return explain(fmt.Sprintf("set session %d", id), err)
		}
		c.lastSession[id] = s
	}
	for id := range c.lastSession {
		if _, ok := set[id]; ok {
			continue
		}
		if err := c.sessions.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain(fmt.Sprintf("remove session %d", id), err)
		}
		delete(c.lastSession, id)
	}
	return nil
}

// SetSenders replaces the probes whose answers are taken.
func (c *Carrier) SetSenders(set []Sender) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := make(map[reflectorSenderKey]Sender, len(set))
	for _, s := range set {
		if err := checkID(s.Path); err != nil {
			return fmt.Errorf("set sender to %v: %w", s.Reflector, err)
		}
		if !s.Reflector.IsValid() || s.LocalPort == 0 {
			return fmt.Errorf("set sender to %v from port %d: must be an address and ports", s.Reflector, s.LocalPort)
		}
		family, addr := addrWords(s.Reflector.Addr())
		wanted[reflectorSenderKey{Addr: addr, Family: uint32(family), Local: swapped(s.LocalPort), Remote: swapped(s.Reflector.Port())}] = s
	}
	for k, s := range wanted {
		if c.lastSender[k] == s {
			continue
		}
		v := reflectorSender{Key: keyWords(s.Key), Session: s.Session, Path: uint16(s.Path)}
		if s.Plain {
			v.Plain = 1
		}
		if err := c.senders.Put(&k, &v); err != nil {
			return explain(fmt.Sprintf("set sender to %v", s.Reflector), err)
		}
		// Sequence numbers begin anew.
		if err := c.paths.live.Put(uint32(s.Path), &classifierLive{}); err != nil {
			return explain(fmt.Sprintf("set sender to %v", s.Reflector), err)
		}
		c.lastSender[k] = s
	}
	for k, s := range c.lastSender {
		if _, ok := wanted[k]; ok {
			continue
		}
		if err := c.senders.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain(fmt.Sprintf("remove sender to %v", s.Reflector), err)
		}
		delete(c.lastSender, k)
	}
	return nil
}

func keyWords(k ProbeKey) [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:])}
}

// Replies reads answered probes. One reader gets each of them; several share
// them. Close it to end a Read that waits.
type Replies struct{ ring *ringbuf.Reader }

// Replies returns a reader of answered probes.
func (c *Carrier) Replies() (*Replies, error) {
	r, err := ringbuf.NewReader(c.replies)
	if err != nil {
		return nil, explain("read replies", err)
	}
	return &Replies{r}, nil
}

// SetDeadline bounds Read, which then returns [os.ErrDeadlineExceeded].
func (r *Replies) SetDeadline(t time.Time) { r.ring.SetDeadline(t) }

// Read waits for the next answer. After Close it returns [os.ErrClosed].
func (r *Replies) Read() (Reply, error) {
	rec, err := r.ring.Read()
	if err != nil {
		return Reply{}, err
	}
	var v reflectorReply
	if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &v); err != nil {
		return Reply{}, fmt.Errorf("decode reply of %d bytes: %w", len(rec.RawSample), err)
	}
	return Reply{
		Path: PathID(v.Path), Sequence: v.Sequence, Reflected: v.Reflected, Sent: time.Duration(v.T1), Received: time.Duration(v.T4),
		SentNTP: v.T1Ntp, PeerRx: v.T2Ntp, PeerTx: v.T3Ntp, TTLThere: v.TtlThere, TTLBack: v.TtlBack,
	}, nil
}

// Close ends reading.
func (r *Replies) Close() error { return r.ring.Close() }

// SetGuard replaces what may come in. Prefixes and ports change one by one, in
// an order in which nothing is refused that both the old and the new guard allow.
func (c *Carrier) SetGuard(g Guard) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ports, sets, err := g.compile(c.lastSets, c.nextSet)
	if err != nil {
		return fmt.Errorf("set guard: %w", err)
	}
	return explain("set guard", c.writeGuard(&g, ports, sets))
}

func (c *Carrier) writeGuard(g *Guard, ports []uint32, sets inboundSets) error {
	if err := c.eachAllowed(c.oldSets, true); err != nil {
		return err
	}
	c.oldSets = nil
	fresh := make(inboundSets)
	for n, prefixes := range sets {
		if c.lastSets[n] == nil {
			fresh[n] = prefixes
			c.nextSet = max(c.nextSet, n+1)
		}
	}
	if err := c.eachAllowed(fresh, false); err != nil {
		return err
	}
	for _, a := range g.Peers {
		if err := c.addPeer(a); err != nil {
			return err
		}
	}
	rate, burst, total, totalBurst := g.rates()
	settings := guardGuardSettings{
		Interval: uint64(time.Second) / uint64(rate), TotalInterval: uint64(time.Second) / uint64(total), Memory: uint64(outgoingMemory),
	}
	settings.Burst, settings.TotalBurst = settings.Interval*uint64(burst), settings.TotalInterval*uint64(totalBurst)
	if g.Mode == GuardEnforce {
		settings.Enforce = 1
	}
	if err := errors.Join(c.guardSettings[0].Set(settings), c.guardSettings[1].Set(settings)); err != nil {
		return err
	}
	var keys, values []uint32
	for i, v := range ports {
		if c.lastPorts[i] != v {
			keys, values = append(keys, uint32(i)), append(values, v)
		}
	}
	if keys != nil {
		if _, err := c.ports.BatchUpdate(keys, values, nil); err != nil {
			return err
		}
	}
	c.lastPorts, c.oldSets = ports, make(inboundSets)
	for n, prefixes := range c.lastSets {
		if sets[n] == nil {
			c.oldSets[n] = prefixes
		}
	}
	c.lastSets = sets
	keep := make(map[netip.Addr]bool, len(g.Peers))
	for _, a := range g.Peers {
		keep[a.Unmap()] = true
	}
	for a := range c.lastPeers {
		if !keep[a] {
			if err := c.peers.Delete(peerKey(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
			delete(c.lastPeers, a)
		}
	}
	if g.Mode == GuardOff {
		if err := c.next.Delete(uint32(0)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	}
	return c.next.Put(uint32(0), c.guard)
}

// AddPeer lets an address send to the bond without limit until the next
// SetGuard: for a peer that has shown its key from a new address.
func (c *Carrier) AddPeer(a netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lastPeers) >= MaxPeers {
		return fmt.Errorf("add peer %v: %d peers already, at most %d", a, len(c.lastPeers), MaxPeers)
	}
	return explain(fmt.Sprintf("add peer %v", a), c.addPeer(a))
}

func (c *Carrier) addPeer(a netip.Addr) error {
	a = a.Unmap()
	if c.lastPeers[a] {
		return nil
	}
	if err := c.peers.Put(peerKey(a), uint32(1)); err != nil {
		return err
	}
	c.lastPeers[a] = true
	return nil
}

func peerKey(a netip.Addr) *guardAddress {
	family, words := addrWords(a)
	return &guardAddress{Family: uint32(family), Addr: words}
}

// eachAllowed puts the prefixes of sets into the tries, or takes them out.
func (c *Carrier) eachAllowed(sets inboundSets, remove bool) error {
	for set, prefixes := range sets {
		for _, p := range prefixes {
			var m *ebpf.Map
			var key any
			bits := 32 + uint32(p.Bits())
			if a := p.Addr(); a.Is4() {
				m, key = c.allowed4, guardSetPrefix4{Bits: bits, Set: set, Addr: a.As4()}
			} else {
				m, key = c.allowed6, guardSetPrefix6{Bits: bits, Set: set, Addr: a.As16()}
			}
			var err error
			if remove {
				if err = m.Delete(key); errors.Is(err, ebpf.ErrKeyNotExist) {
					err = nil
				}
			} else {
				err = m.Put(key, uint32(1))
			}
			if err != nil {
				return fmt.Errorf("prefix %v: %w", p, err)
			}
		}
	}
	return nil
}

// ProbeVerdicts returns how many probes had which fate, over all NICs.
func (c *Carrier) ProbeVerdicts() (v ProbeVerdicts, err error) {
	err = explain("read probe counters", sumCounters(c.probeVerdicts, v[:]))
	return v, err
}

// GuardVerdicts returns how many packets got which verdict, over all NICs.
func (c *Carrier) GuardVerdicts() (v GuardVerdicts, err error) {
	err = explain("read guard counters", sumCounters(c.guardVerdicts, v[:]))
	return v, err
}

func sumCounters(m *ebpf.Map, sum []uint64) error {
	var perCPU []uint64
	for v := range sum {
		if err := m.Lookup(uint32(v), &perCPU); err != nil {
			return err
		}
		for _, n := range perCPU {
			sum[v] += n
		}
	}
	return nil
}

// Close releases programs and maps, the live path table only if it is its own.
// Attachments have to be closed before; attached programs work on without it.
func (c *Carrier) Close() error {
	var errs []error
	for _, o := range c.owned {
		errs = append(errs, o.Close())
	}
	c.owned = nil
	return errors.Join(errs...)
}
