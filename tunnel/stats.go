package tunnel

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

type counters struct {
	active, flows                  atomic.Int64
	bytesIn, bytesOut, relayed     atomic.Uint64
	moved, replaced, orphans, shed atomic.Uint64
	stalled                        atomic.Int64
	resets                         [numCodes]atomic.Uint64
}

func (c *counters) reset(code Code) {
	if code < numCodes {
		c.resets[code].Add(1)
	}
}

// Stats is a snapshot of a node. Counters count from the node's start.
type Stats struct {
	ActiveFlows  int64             `json:"active_flows"`
	Flows        int64             `json:"flows"`
	BytesIn      uint64            `json:"bytes_in"`      // from connections at this node
	BytesOut     uint64            `json:"bytes_out"`     // to connections at this node
	BytesRelayed uint64            `json:"bytes_relayed"` // between peers, as on the wire
	Resets       map[string]uint64 `json:"resets"`        // flows reset or refused here, by reason
	Moved        uint64            `json:"moved"`         // directions that went on on a bulk lane
	Replaced     uint64            `json:"lanes_replaced"`
	Orphans      uint64            `json:"orphans"` // continuations of no known flow
	Shed         uint64            `json:"shed"`    // flows reset for the buffer budget
	// PackedIn bytes became PackedOut on their way into the tunnel.
	PackedIn  uint64 `json:"packed_in"`
	PackedOut uint64 `json:"packed_out"`
	// WindowBytes of WindowLimit are promised to peers; StalledBytes may be waiting for receivers that stand still.
	WindowBytes  int64       `json:"window_bytes"`
	WindowLimit  int64       `json:"window_limit"`
	StalledBytes int64       `json:"stalled_bytes"`
	Peers        []PeerStats `json:"peers"`
}

// PeerStats is a snapshot of one peer.
type PeerStats struct {
	Name    string      `json:"name"`
	Up      bool        `json:"up"` // has said hello and has at least one lane
	Since   time.Time   `json:"since,omitzero"`
	Version string      `json:"version,omitempty"` // of the peer's software
	Lanes   []LaneStats `json:"lanes,omitempty"`
}

// LaneStats is a snapshot of one lane.
type LaneStats struct {
	ID         int           `json:"id"` // in the session, the same on both sides
	Class      string        `json:"class"`
	Draining   bool          `json:"draining,omitempty"`
	Directions int           `json:"directions"` // of flows, sending or receiving
	Window     uint64        `json:"window"`     // QUIC's congestion window, bytes
	Ready      bool          `json:"ready"`      // the window is what flows of the class need, and no filler goes out
	RTT        time.Duration `json:"rtt"`
	Lost       uint64        `json:"lost"` // packets that QUIC saw as lost
	Sent       uint64        `json:"sent"` // bytes on the lane
	Received   uint64        `json:"received"`
	Payload    uint64        `json:"payload"` // bytes of flows sent
	Filler     int64         `json:"filler"`  // bytes of filler sent
}

// Stats returns a snapshot.
func (n *Node) Stats() Stats {
	c := &n.stats
	st := Stats{
		ActiveFlows: c.active.Load(), Flows: c.flows.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), BytesRelayed: c.relayed.Load(),
		Moved: c.moved.Load(), Replaced: c.replaced.Load(), Orphans: c.orphans.Load(), Shed: c.shed.Load(),
		WindowBytes: n.budget.taken.Load(), WindowLimit: n.budget.limit, StalledBytes: c.stalled.Load(),
		Resets: map[string]uint64{},
	}
	st.PackedIn, st.PackedOut, _, _ = n.pool.Stats()
	for code := CodeReset; code < numCodes; code++ {
		if v := c.resets[code].Load(); v > 0 {
			st.Resets[code.String()] = v
		}
	}
	n.mu.Lock()
	peers := make([]*peer, 0, len(n.peers))
	for _, p := range n.peers {
		peers = append(peers, p)
	}
	n.mu.Unlock()
	for _, p := range peers {
		st.Peers = append(st.Peers, p.stats())
	}
	slices.SortFunc(st.Peers, func(a, b PeerStats) int { return cmp.Compare(a.Name, b.Name) })
	return st
}

func (p *peer) stats() PeerStats {
	ps := PeerStats{Name: p.name}
	s, _ := p.current()
	if s == nil {
		return ps
	}
	ps.Since = s.began
	h := s.hello.Load()
	if h != nil {
		ps.Version = h.Version
	}
	s.mu.Lock()
	lanes := slices.Clone(s.lanes)
	s.mu.Unlock()
	for _, l := range lanes {
		q := l.conn.ConnectionStats()
		ps.Lanes = append(ps.Lanes, LaneStats{
			ID: l.l.ID(), Class: l.class.String(), Draining: l.draining.Load(), Directions: int(l.refs.Load()),
			Window: q.CongestionWindow, Ready: l.warm.ready(), RTT: q.SmoothedRTT, Lost: q.PacketsLost, Sent: q.BytesSent, Received: q.BytesReceived,
			Payload: l.sent.Load(), Filler: l.warm.filled.Load(),
		})
	}
	slices.SortStableFunc(ps.Lanes, func(a, b LaneStats) int { return -cmp.Compare(a.Class, b.Class) })
	ps.Up = h != nil && len(ps.Lanes) > 0
	return ps
}

// FlowInfo is a snapshot of one flow.
type FlowInfo struct {
	ID       string         `json:"id"`
	Tenant   string         `json:"tenant"`
	Class    string         `json:"class"`
	Src      netip.AddrPort `json:"src"`
	Dst      netip.AddrPort `json:"dst"`
	Role     string         `json:"role"` // ingress, relay, exit
	Peers    []string       `json:"peers"`
	Began    time.Time      `json:"began"`
	Sent     int64          `json:"sent"`     // to the destination's side, bytes on the wire
	Received int64          `json:"received"` // back, bytes on the wire
	Bulk     bool           `json:"bulk"`     // a direction runs on a bulk lane
}

// tracked is a flow of which Flows knows.
type tracked interface{ info() FlowInfo }

func (n *Node) track(f tracked) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flows[f] = struct{}{}
}

func (n *Node) untrack(f tracked) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.flows, f)
}

// Flows returns at most limit flows, the busiest first; 0 means all.
func (n *Node) Flows(limit int) []FlowInfo {
	n.mu.Lock()
	fs := make([]tracked, 0, len(n.flows))
	for f := range n.flows {
		fs = append(fs, f)
	}
	n.mu.Unlock()
	out := make([]FlowInfo, 0, len(fs))
	for _, f := range fs {
		out = append(out, f.info())
	}
	slices.SortFunc(out, func(a, b FlowInfo) int { return cmp.Compare(b.Sent+b.Received, a.Sent+a.Received) })
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out
}

func (h *hop) bulk() bool {
	h.send.mu.Lock()
	sending := h.send.lane.class == Bulk
	h.send.mu.Unlock()
	h.recv.mu.Lock()
	defer h.recv.mu.Unlock()
	return sending || h.recv.lane.class == Bulk
}

func (h Header) info(role string, began time.Time) FlowInfo {
	return FlowInfo{
		ID: flowID(h.ID).LogValue().String(), Tenant: h.Tenant, Class: h.Class.String(), Src: h.Src, Dst: h.Dst,
		Role: role, Began: began,
	}
}

func (f *endFlow) info() FlowInfo {
	i := f.hdr.info("ingress", f.began)
	i.Peers = []string{f.hop.ses.peer.name}
	i.Sent, i.Received = f.hop.send.total.Load(), f.hop.recv.total.Load()
	if f.hop.send.dir == backward {
		i.Role = "exit"
		i.Sent, i.Received = i.Received, i.Sent
	}
	i.Bulk = f.hop.bulk()
	return i
}

func (f *relayFlow) info() FlowInfo {
	i := f.hdr.info("relay", f.began)
	i.Peers = []string{f.in.ses.peer.name, f.out.ses.peer.name}
	i.Sent, i.Received = f.out.send.total.Load(), f.in.send.total.Load()
	i.Bulk = f.in.bulk() || f.out.bulk()
	return i
}
