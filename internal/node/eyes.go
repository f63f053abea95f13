package node

import (
	"io"
	"slices"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel/probe"
)

// Source is all that the node shows of itself.
func (n *Node) Source() admin.Source {
	return admin.Source{Status: n.Status, Paths: n.Paths, Events: &n.watch.events, Explain: n.Explain, Decisions: n.Decisions}
}

// clock ties the time of probes and decisions to the wall's.
func clock() admin.Clock { return admin.Clock{Wall: time.Now(), Now: probe.Now()} }

// Paths takes a snapshot of what is known of the paths, and of which of them each class uses.
func (n *Node) Paths() admin.Paths {
	c := clock()
	notes := n.uplinkNotes()
	out := admin.Paths{Node: n.config().Name, Role: n.opts.Role, Taken: c.Wall, Peers: []admin.PeerPaths{}}
	for _, p := range n.watch.all() {
		if p.runner == nil {
			continue // nothing is known but what the status says
		}
		_, states, d := p.snapshot()
		if len(states) == 0 && p.cfg.Kind == config.PeerAgent {
			continue // it is not there
		}
		pp := admin.NewPeerPaths(p.cfg.Name, p.cfg.Kind.String(), c, states, d)
		for i := range pp.Paths {
			pp.Paths[i].Probe = admin.ProbeUser
			if n.kernel.takes(p.cfg.Name, states[i].ID) {
				pp.Paths[i].Probe = admin.ProbeXDP
			}
			if note := notes[p.uplinkOf(pp.Paths[i].Name)]; note != "" {
				pp.Paths[i].Why = note
			}
		}
		out.Peers = append(out.Peers, pp)
	}
	out.Verdicts = n.verdicts()
	out.Lost = append(slices.Clone(n.lost), n.carriers.lostText()...)
	return out
}

// uplinkOf is the uplink of a configured path, by name.
func (p *peerWatch) uplinkOf(path string) string {
	for _, c := range p.cfg.Paths {
		if c.Name == path {
			return c.Uplink
		}
	}
	return ""
}

// Decisions writes the log of decisions, a pathsel.Record a line.
func (n *Node) Decisions(w io.Writer) error { return n.watch.writeDecisions(w) }

// moved is a number that changes while customers' packets do: bytes in the tunnel, packets of direct flows.
func (n *Node) moved() uint64 {
	st := n.tunnel.Stats()
	sum := uint64(st.BytesIn + st.BytesOut + st.BytesRelayed)
	n.mu.Lock()
	e := n.entries
	n.mu.Unlock()
	if e != nil && e.transparent != nil {
		if v, err := e.transparent.Verdicts(); err == nil {
			sum += v[bpf.SentDirect] + v[bpf.Routed]
		}
	}
	return sum
}

// verdicts counts packets by program and verdict.
func (n *Node) verdicts() map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	n.mu.Lock()
	e := n.entries
	n.mu.Unlock()
	if e != nil && e.transparent != nil {
		if v, err := e.transparent.Verdicts(); err == nil {
			out["classifier"] = named(v[:], func(i int) string { return bpf.Verdict(i).String() })
		}
	}
	if e != nil && e.returns != nil {
		if v, err := e.returns.Verdicts(); err == nil {
			out["return"] = named(v[:], func(i int) string { return bpf.Verdict(i).String() })
		}
	}
	if n.carriers != nil {
		if v, err := n.carriers.prog.GuardVerdicts(); err == nil {
			out["guard"] = named(v[:], func(i int) string { return bpf.GuardVerdict(i).String() })
		}
		if v, err := n.carriers.prog.ProbeVerdicts(); err == nil {
			out["reflector"] = named(v[:], func(i int) string { return bpf.ProbeVerdict(i).String() })
		}
	}
	return out
}

func named(counts []uint64, name func(int) string) map[string]uint64 {
	out := make(map[string]uint64, len(counts))
	for i, n := range counts {
		out[name(i)] = n
	}
	return out
}
