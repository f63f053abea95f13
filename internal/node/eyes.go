package node

import (
	"io"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/pathsel/probe"
)

// Source is all that the node shows of itself.
func (n *Node) Source() admin.Source {
	return admin.Source{Status: n.Status, Paths: n.Paths, Events: &n.watch.events, Decisions: n.Decisions}
}

// clock ties the time of probes and decisions to the wall's.
func clock() admin.Clock { return admin.Clock{Wall: time.Now(), Now: probe.Now()} }

// Paths takes a snapshot of what is known of the paths, and of which of them each class uses.
func (n *Node) Paths() admin.Paths {
	c := clock()
	out := admin.Paths{Node: n.config().Name, Role: n.opts.Role, Taken: c.Wall, Peers: []admin.PeerPaths{}}
	for _, p := range n.watch.all() {
		if p.runner == nil {
			continue // nothing is known but what the status says
		}
		_, states, d := p.snapshot()
		pp := admin.NewPeerPaths(p.cfg.Name, p.cfg.Kind.String(), c, states, d)
		for i := range pp.Paths {
			pp.Paths[i].Probe = admin.ProbeUser
		}
		out.Peers = append(out.Peers, pp)
	}
	return out
}

// Decisions writes the log of decisions, a pathsel.Record a line.
func (n *Node) Decisions(w io.Writer) error { return n.watch.writeDecisions(w) }
