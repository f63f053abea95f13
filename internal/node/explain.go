package node

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
)

// Explain says where flows go and why: those the classifier knows or, where it knows none, what the rules say of a TCP
// flow between two named ends. The error wraps admin.ErrNoFlow where nothing can be said.
func (n *Node) Explain(q admin.FlowQuery) (admin.Explanation, error) {
	c := clock()
	n.mu.Lock()
	cfg, e, r := n.cfg, n.entries, n.rules
	n.mu.Unlock()
	out := admin.Explanation{Node: cfg.Name, Taken: c.Wall, Flows: []admin.ExplainedFlow{}}
	if e != nil && e.transparent != nil && r != nil {
		err := e.transparent.ReadFlows(func(f bpf.Flow) bool {
			switch {
			case !q.Matches(f.Protocol, f.Src, f.Dst):
			case len(out.Flows) == admin.MaxExplained:
				out.More++
			default:
				out.Flows = append(out.Flows, n.explain(c, cfg, r, &f))
			}
			return true
		})
		if err != nil {
			return out, err
		}
	}
	if len(out.Flows) == 0 {
		f, err := n.wouldGo(c, cfg, q)
		if err != nil {
			return out, err
		}
		out.Flows = append(out.Flows, f)
	}
	return out, nil
}

// explain is a flow of the classifier's table in people's words.
func (n *Node) explain(c admin.Clock, cfg *config.NodeConfig, r *rules, f *bpf.Flow) admin.ExplainedFlow {
	x := admin.ExplainedFlow{
		Protocol: admin.ProtocolName(f.Protocol), Src: f.Src.String(), Dst: f.Dst.String(), Source: "classifier",
		Class: f.Class.String(), Moves: f.Moves, Opened: c.At(f.First), Last: c.At(f.Last),
		Packets: f.Packets, BytesOut: f.Bytes, Elephant: f.Elephant, Stale: f.Stale, Fate: admin.FlowUntouched,
	}
	if int(f.Tenant) > 0 && int(f.Tenant) <= len(r.tenants) {
		x.Tenant = r.tenants[f.Tenant-1]
	}
	x.Site = siteOf(cfg.Sources, x.Tenant, f.Src.Addr())
	if f.Answer {
		x.Note = "it answers a flow that was opened from " + f.Dst.Addr().String()
	}
	if int(f.Rule) > 0 && int(f.Rule) <= len(r.rules) {
		x.Rule, x.RuleNumber = r.rules[f.Rule-1].text, r.rules[f.Rule-1].number
	}
	switch {
	case f.Action == bpf.Direct:
		x.Fate, x.Peer, x.Since = admin.FlowDirect, n.kernel.peerOf(f.Group), c.At(f.Since)
		if f.Path == 0 {
			x.Note = "no path has been alive for it"
		} else if peer, path, ok := n.kernel.name(f.Path); ok {
			x.Path = n.watch.pathName(peer, path)
		}
	case f.Captured:
		x.Fate = admin.FlowTunnelled
		n.tunnelled(cfg, f.Src, f.Dst, &x)
	}
	if f.Class != bpf.NoClass {
		n.choice(c, pathsel.Class(f.Class-bpf.Realtime), &x)
	}
	return x
}

// tunnelled fills in where the tunnel carries a flow.
func (n *Node) tunnelled(cfg *config.NodeConfig, src, dst netip.AddrPort, x *admin.ExplainedFlow) {
	_, _, next, err := newRouter(cfg).Route(src.Addr(), dst.Addr())
	switch {
	case err != nil:
		x.Note = err.Error()
	case next == "":
		x.Note = "the destination is reached from here, without the tunnel"
	default:
		x.Peer = next
	}
}

// choice fills in what the class of a flow decides now.
func (n *Node) choice(c admin.Clock, class pathsel.Class, x *admin.ExplainedFlow) {
	for _, p := range n.watch.all() {
		if p.cfg.Name != x.Peer || p.runner == nil {
			continue
		}
		_, states, d := p.snapshot()
		ch := admin.NewClassChoice(c, &d.Classes[class], func(id uint8) string {
			for i := range states {
				if states[i].ID == id {
					return states[i].Name
				}
			}
			return ""
		})
		x.Choice = &ch
		if x.Fate == admin.FlowTunnelled {
			x.Path, x.Since = ch.Next, ch.Since
		}
	}
}

// wouldGo says what becomes of a TCP flow that was not seen.
func (n *Node) wouldGo(c admin.Clock, cfg *config.NodeConfig, q admin.FlowQuery) (admin.ExplainedFlow, error) {
	none := func(why string) (admin.ExplainedFlow, error) {
		return admin.ExplainedFlow{}, fmt.Errorf("%w: %v: %s", admin.ErrNoFlow, q, why)
	}
	if !q.B.IsValid() {
		return none("nothing was seen of it lately")
	}
	if q.Protocol != 0 && q.Protocol != unix.IPPROTO_TCP {
		return none("nothing was seen of it lately, and the tunnel carries TCP alone")
	}
	tenant, ok := tenantOf(cfg.Sources, q.A.Addr())
	if !ok {
		return none(fmt.Sprintf("%v belongs to no site of %s", q.A.Addr(), cfg.Name))
	}
	x := admin.ExplainedFlow{
		Protocol: "tcp", Src: q.A.String(), Dst: q.B.String(), Source: "rules", Tenant: tenant,
		Site: siteOf(cfg.Sources, tenant, q.A.Addr()), Fate: admin.FlowTunnelled, Class: pathsel.Interactive.String(),
	}
	class := pathsel.Interactive
	if r, number := ruleFor(cfg.Tenants, tenant, q.A, q.B); r != nil {
		x.Rule, x.RuleNumber = r.String(), number
		if r.HasClass {
			class = r.Class
		}
		switch r.Action {
		case config.ActionDeny:
			x.Fate, x.Class = admin.FlowDenied, ""
			return x, nil
		case config.ActionDirect:
			x.Fate = admin.FlowDirect
		}
	}
	x.Class = class.String()
	n.tunnelled(cfg, q.A, q.B, &x)
	if x.Note != "" {
		x.Fate = admin.FlowUntouched
	}
	n.choice(c, class, &x)
	return x, nil
}

func siteOf(sources []config.Source, tenant string, a netip.Addr) string {
	for _, s := range sources {
		for _, p := range s.Prefixes {
			if s.Tenant == tenant && p.Contains(a) {
				return s.Site
			}
		}
	}
	return ""
}
