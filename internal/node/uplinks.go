package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// watchInterval is how often interfaces and peers are looked at. The paths notice a dead interface by themselves much
// sooner; this is for the log, and for opening the socket again.
const watchInterval = time.Second

func (n *Node) addUplink(u config.NodeUplink) error {
	up, err := n.opts.Listen(u)
	if err != nil {
		return err
	}
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
	index int // of the interface the socket is bound to

	mu   sync.Mutex
	note string // what is wrong with it now
}

func newUplinkWatch(u config.NodeUplink) *uplinkWatch {
	w := &uplinkWatch{cfg: u}
	if ifc, err := net.InterfaceByName(u.Interface); err == nil {
		w.index = ifc.Index
	}
	return w
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
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ifs, err := net.Interfaces()
		if err != nil {
			continue // without a list nothing can be said
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
}

// checkUplink compares an uplink with what its interface is now.
func (n *Node) checkUplink(w *uplinkWatch, ifc net.Interface, there bool) {
	log := n.log.With("uplink", w.cfg.Name, "interface", w.cfg.Interface)
	if !there {
		if w.set("interface " + w.cfg.Interface + " is gone") {
			log.Warn("interface is gone; the uplink's paths are down until it is back")
		}
		return
	}
	if ifc.Index != w.index {
		up, err := n.opts.Listen(w.cfg)
		if err == nil {
			if err = n.host.ReplaceSocket(w.cfg.Name, up.Socket); err != nil {
				up.Socket.Close()
			}
		}
		if err != nil { // its address may not be there yet
			if w.set("interface " + w.cfg.Interface + " is back, but its socket cannot be opened") {
				log.Warn("interface is back, but the uplink's socket cannot be opened; trying again", "err", err, "hint", hint.Of(err))
			}
			return
		}
		w.index = ifc.Index
		w.set("")
		n.carriers.reopen(w.cfg)
		n.watch.reopen(w.cfg)
		log.Info("interface is back; the uplink has a new socket")
	}
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
