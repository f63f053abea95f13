package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// watchInterval is how often interfaces and peers are looked at. The paths notice a dead interface by themselves much
// sooner; this is for the log, and for opening the socket again.
const watchInterval = time.Second

// listenTries bounds how often an interface may change while a socket on it is opened.
const listenTries = 3

// addUplinks opens the uplinks. Of those of its own it may miss some, as long as there is one.
func (n *Node) addUplinks(uplinks []config.NodeUplink, own bool) error {
	var late []error
	for _, u := range uplinks {
		up, index, err := n.listen(u)
		if own && isLate(err) {
			late = append(late, err)
			up, err = bond.Uplink{Name: u.Name, Socket: newAbsentSocket(u), Rate: int64(u.Rate)}, nil
		}
		if own {
			n.uplinks = append(n.uplinks, &uplinkWatch{cfg: u, index: index})
		}
		if err == nil {
			err = n.addUplink(u, up)
		}
		if err != nil {
			return err
		}
	}
	if len(late) == len(uplinks) {
		return errors.Join(late...)
	}
	return nil
}

// listen opens an uplink's socket and tells which interface it is bound to. One that comes, or gives way to another of its name,
// meanwhile would leave that in doubt, and a second socket on it is not to be had: it is looked for again.
func (n *Node) listen(u config.NodeUplink) (up bond.Uplink, index int, err error) {
	for range listenTries {
		before := interfaceIndex(u.Interface)
		if up, err = n.opts.Listen(u); err != nil {
			return up, 0, err
		}
		if index = interfaceIndex(u.Interface); index == before {
			return up, index, nil
		}
		up.Socket.Close()
	}
	return up, 0, fmt.Errorf("uplink %s: interface %s comes and goes: %w", u.Name, u.Interface, unix.ENODEV)
}

// interfaceIndex is 0 where there is none.
func interfaceIndex(name string) int {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return ifc.Index
}

// isLate tells whether an uplink could not be opened because its interface or its address is not there (yet).
func isLate(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) }

// absentSocket stands for an uplink's socket until its interface is there.
type absentSocket struct {
	local netip.AddrPort
	once  sync.Once
	done  chan struct{}
}

func newAbsentSocket(u config.NodeUplink) *absentSocket {
	return &absentSocket{local: u.Address, done: make(chan struct{})}
}

func (s *absentSocket) ReadBatch([]bond.Message) (int, error) {
	<-s.done
	return 0, net.ErrClosed
}

// WriteBatch loses everything, about which checkUplink has told.
func (s *absentSocket) WriteBatch([]bond.Message) (int, error) { return 0, net.ErrClosed }

func (s *absentSocket) LocalAddr() netip.AddrPort { return s.local }

func (s *absentSocket) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (n *Node) addUplink(u config.NodeUplink, up bond.Uplink) error {
	if err := n.host.AddUplink(up); err != nil {
		up.Socket.Close()
		return hint.With(err, "ip link set %s mtu 1500, or as large as the link allows", u.Interface)
	}
	return nil
}

// listenUDP opens an uplink's UDP socket, bound to its interface.
func listenUDP(u config.NodeUplink) (bond.Uplink, error) {
	addr := u.Address
	if !addr.IsValid() {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	sock, err := bond.ListenUDP(addr, u.Interface)
	if err != nil {
		err = fmt.Errorf("uplink %s: %w", u.Name, err)
		return bond.Uplink{}, hint.With(err, "%s", listenHint(err, u))
	}
	up := bond.Uplink{Name: u.Name, Socket: sock, Rate: int64(u.Rate)}
	if ifc, err := net.InterfaceByName(u.Interface); err == nil {
		up.MTU = min(ifc.MTU, 1500)
	}
	return up, nil
}

// uplinkWatch follows an uplink's interface. A socket bound to an interface stays bound to it when it is deleted, and
// hears nothing of another one that gets its name: a new socket must take its place.
type uplinkWatch struct {
	cfg   config.NodeUplink
	index int // of the interface the socket is bound to; 0: it was not there yet

	mu   sync.Mutex
	note string // what is wrong with it now
}

// set notes what is wrong and reports whether that is news.
func (w *uplinkWatch) set(note string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	news := w.note != note
	w.note = note
	return news
}

// uplinkNotes tells what is wrong with uplinks, by name.
func (n *Node) uplinkNotes() map[string]string {
	notes := map[string]string{}
	for _, w := range n.uplinks {
		w.mu.Lock()
		if w.note != "" {
			notes[w.cfg.Name] = w.note
		}
		w.mu.Unlock()
	}
	return notes
}

func (n *Node) watchUplinks(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		n.checkUplinks()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Node) checkUplinks() {
	ifs, err := net.Interfaces()
	if err != nil {
		return // without a list nothing can be said
	}
	byName := make(map[string]net.Interface, len(ifs))
	for _, i := range ifs {
		byName[i.Name] = i
	}
	for _, w := range n.uplinks {
		ifc, there := byName[w.cfg.Interface]
		n.checkUplink(w, ifc, there)
	}
}

// checkUplink compares an uplink with what its interface is now.
func (n *Node) checkUplink(w *uplinkWatch, ifc net.Interface, there bool) {
	log := n.log.With("uplink", w.cfg.Name, "interface", w.cfg.Interface)
	was, is, advice := "gone", "back", "ip -br link"
	if w.index == 0 {
		was, is, advice = "missing", "there", fmt.Sprintf("if %s is not yet to come, correct the document; list interfaces with: ip -br link", w.cfg.Interface)
	}
	if !there {
		if w.set("interface " + w.cfg.Interface + " is " + was) {
			log.Warn("interface is "+was+"; the uplink's paths are down until it is "+is, "hint", advice)
		}
		return
	}
	if ifc.Index != w.index {
		up, index, err := n.listen(w.cfg)
		if err == nil {
			if err = n.host.ReplaceSocket(w.cfg.Name, up.Socket); err != nil {
				up.Socket.Close()
			}
		}
		if err != nil { // its address may not be there yet
			if w.set("interface " + w.cfg.Interface + " is " + is + ", but its socket cannot be opened") {
				log.Warn("interface is "+is+", but the uplink's socket cannot be opened; trying again", "err", err, "hint", hint.Of(err))
			}
			return
		}
		w.index = index
		w.set("")
		n.carriers.reopen(w.cfg)
		n.watch.reopen(w.cfg)
		log.Info("interface is " + is + "; the uplink has a new socket")
	}
	n.carriers.retry(w.cfg)
	if ifc.Flags&net.FlagUp == 0 {
		if w.set("interface " + w.cfg.Interface + " is down") {
			log.Warn("interface is down; so are the uplink's paths until it is up", "hint", "ip link set "+w.cfg.Interface+" up")
		}
		return
	}
	if a := w.cfg.Address.Addr(); a.IsValid() && !hasAddress(a) {
		if w.set("interface " + w.cfg.Interface + " has lost address " + a.String()) {
			log.Warn("interface has lost the uplink's address; the uplink's paths are down until it is back", "address", a,
				"hint", fmt.Sprintf("ip address add %s/... dev %s, or change the document and restart", a, w.cfg.Interface))
		}
		return
	}
	if w.set("") {
		log.Info("interface is up again, with its address")
	}
}

// hasAddress tells whether an address is the host's, as far as the system tells. On which interface does not matter: one on
// loopback serves its uplink too.
func hasAddress(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(have net.Addr) bool {
		n, ok := have.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a
	})
}

// connectPatience is how long a gateway may be out of reach before the log says so.
const connectPatience = 10 * time.Second

// watchPeers says once per outage that a gateway cannot be reached. Agents come and go.
func (n *Node) watchPeers(ctx context.Context, patience time.Duration) {
	type outage struct {
		bond  *bond.Bond
		since time.Time
		told  bool
	}
	outages := map[string]*outage{}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.mu.Lock()
		cfg := n.cfg
		bonds := make(map[string]*bond.Bond, len(n.peers))
		for name, p := range n.peers {
			bonds[name] = p.bond
		}
		n.mu.Unlock()
		for _, p := range cfg.Peers {
			b := bonds[p.Name]
			if p.Kind != config.PeerGateway || b == nil || b.Connected() {
				delete(outages, p.Name)
				continue
			}
			o := outages[p.Name]
			if o == nil || o.bond != b {
				outages[p.Name] = &outage{bond: b, since: time.Now()}
				continue
			}
			if !o.told && time.Since(o.since) >= patience {
				o.told = true
				n.log.Warn("peer does not answer; trying on", "peer", p.Name, "for", patience,
					"hint", "does it run, do its addresses take UDP from here, and does each side have the other's public key?")
			}
		}
	}
}
