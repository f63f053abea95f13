package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/journal"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// decide looks at the paths of a peer and decides.
func (w *watch) decide(p *peerWatch, now time.Duration) {
	w.mu.Lock()
	policy := w.policy
	w.mu.Unlock()
	carrying := w.carrying(now)
	p.mu.Lock()
	p.states, p.was = p.table.States(now, p.was[:0]), p.states
	before := p.decision.Clone()
	changed := p.decision.Update(now, p.states, &policy)
	p.at = now
	used := [256]bool{}
	for i := range p.decision.Classes {
		if c := &p.decision.Classes[i]; c.OK && c.Class != pathsel.Bulk && carrying {
			used[c.Path] = true
		}
	}
	for i := range p.states {
		p.table.Use(p.states[i].ID, used[p.states[i].ID])
	}
	states, was, after := p.states, p.was, &p.decision // which only this goroutine writes
	p.mu.Unlock()
	p.obey(now, states, after)
	if p.kernel != nil {
		p.kernel.decided(now, p.cfg.Name, p.paths, w.byName, states, after, &policy)
	}
	w.mu.Lock()
	if w.peers[p.cfg.Name] == p && w.decisions.Worth(now, p.cfg.Name, changed) {
		line, err := w.decisions.Append(time.Now(), p.cfg.Name, states, &policy, before, after)
		if err != nil {
			w.log.Error("decision is not logged", "peer", p.cfg.Name, "err", err)
		} else if w.disk != nil {
			w.disk.Add(line)
		}
	}
	w.mu.Unlock()
	c := admin.Clock{Wall: time.Now(), Now: now}
	w.events.Changed(c, p.cfg.Name, was, states)
	w.events.Decided(c, p.cfg.Name, before, after)
	for i := range after.Classes {
		if c, was := &after.Classes[i], &before.Classes[i]; c.OK != was.OK || c.Path != was.Path {
			w.log.Info("class moves", "peer", p.cfg.Name, "class", c.Class, "to", c.To.Name, "why", c.Reason(now))
		}
	}
}

// openDecisions opens the log of decisions on disk.
func openDecisions(node string, c journal.Config, log *slog.Logger) (*journal.Journal, error) {
	c.Name = node + ".decisions"
	c.OnError = func(err error) { log.Error("decisions are not kept on disk", "dir", c.Dir, "err", err) }
	j, err := journal.Open(c)
	switch {
	case errors.Is(err, journal.ErrConfig): // no restart mends it
		return nil, hint.With(cli.Usage(fmt.Errorf("decision log: %w", err)), "change --decisions-size or --decisions-keep")
	case err != nil:
		return nil, hint.With(fmt.Errorf("decision log: %w", err), "give a directory that the program may write to with --decisions, or --decisions off")
	}
	return j, nil
}

// writeDecisions writes the log of decisions.
func (w *watch) writeDecisions(to io.Writer) error {
	var b bytes.Buffer // a slow reader must not hold up decisions
	w.mu.Lock()
	_, err := w.decisions.WriteTo(&b)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = b.WriteTo(to)
	return err
}

// obey tells the bond which paths each class uses.
func (p *peerWatch) obey(now time.Duration, states []pathsel.PathState, d *pathsel.Decision) {
	for i := range d.Classes {
		order := p.order(now, &d.Classes[i], states)
		if slices.Equal(order, p.orders[i]) {
			continue
		}
		// Classes have the same numbers in both packages (TestClasses). It fails only for numbers that no path of a bond has.
		if p.bond.SetClassPaths(bond.Class(i), order) == nil {
			p.mu.Lock()
			p.orders[i] = order
			p.mu.Unlock()
		}
	}
}

// order is a class's paths as the bond is to use them: those of the decision and, last, those it leaves out although the
// bond's own packets get through there or probes never did: they may be what a firewall drops. None means all.
func (p *peerWatch) order(now time.Duration, c *pathsel.Choice, states []pathsel.PathState) []uint8 {
	if len(c.Order) == 0 {
		return nil
	}
	out := make([]uint8, 0, len(states))
	for _, o := range c.Order {
		out = append(out, o.Path)
	}
	for i := range states {
		id := states[i].ID
		silent := states[i].Heard == 0
		if !slices.Contains(out, id) && (silent || now-p.counted[id].delivered < deliveredWithin) {
			out = append(out, id)
		}
	}
	return out
}

// snapshot returns the latest states and decision, and when they were taken.
func (p *peerWatch) snapshot() (now time.Duration, states []pathsel.PathState, d *pathsel.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, slices.Clone(p.states), p.decision.Clone()
}
