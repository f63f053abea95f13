package bond

import (
	"fmt"
)

// AddPath adds a path to a bond that may be running; lanes use it as soon as the peer has answered on it. The peer needs
// the path too if it has configured paths itself; the order in which the two sides add it does not matter.
func (b *Bond) AddPath(c PathConfig) error {
	h := b.host
	h.mu.Lock()
	defer h.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	for _, p := range b.paths {
		if p.name == c.Name && !p.removed {
			return fmt.Errorf("add path %q to %s: %w", c.Name, b.cfg.Name, ErrDuplicate)
		}
	}
	if err := b.addPath(h.uplinks, c); err != nil {
		return fmt.Errorf("add path %q to %s: %w", c.Name, b.cfg.Name, err)
	}
	b.wakeup()
	return nil
}

// RemovePath takes a path out of a bond; what it holds is sent again over the others. The last path of a bond stays: close
// the bond instead.
func (b *Bond) RemovePath(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	var path *pathTx
	others := 0
	for _, p := range b.paths {
		switch {
		case p.removed:
		case p.name == name:
			path = p
		default:
			others++
		}
	}
	if path == nil {
		return fmt.Errorf("remove path %q from %s: %w", name, b.cfg.Name, ErrUnknown)
	}
	if others == 0 {
		return fmt.Errorf("remove path %q from %s: it is the last one", name, b.cfg.Name)
	}
	b.removePath(path)
	return nil
}

// removePath leaves the path's place in the table, as numbers on the wire stand for places. Called with mu held.
func (b *Bond) removePath(p *pathTx) {
	p.removed, p.wantOpen = true, false
	s := b.sess
	if s == nil {
		return
	}
	_, at := b.host.now()
	s.setState(at, p, PathDown)
	for _, rx := range s.rx {
		if rx != nil && rx.pair == p {
			rx.pair = nil
		}
	}
	if s.probeRTT == p {
		s.probeRTT = nil
	}
	s.lost = p.giveUp(s.lost[:0])
	s.handleLost(at)
	b.wakeup()
}

// placePath puts a path into the table: at its end or, where the table is full, in the place of a removed one. Numbers of
// datagrams go on there, as the session's keys have used the lower ones. Called with mu held.
func (b *Bond) placePath(p *pathTx) error {
	_, at := b.host.now()
	p.stateSince = at
	if len(b.paths) < maxPaths {
		p.id = uint8(len(b.paths))
		b.paths = append(b.paths, p)
		return nil
	}
	for i, old := range b.paths {
		if old.removed {
			p.id = uint8(i)
			p.next, p.low, p.largest, p.acked = old.next, old.next, old.largest, old.acked
			b.paths[i] = p
			return nil
		}
	}
	return fmt.Errorf("%d paths, allowed up to %d", len(b.paths)+1, maxPaths)
}

// RemoveUplink closes an uplink's socket. Paths that bonds learned on it go with it; a configured one must be removed first.
func (h *Host) RemoveUplink(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	u := h.uplinks[name]
	if u == nil {
		return fmt.Errorf("remove uplink %q: %w", name, ErrUnknown)
	}
	for _, b := range h.bonds {
		if p := b.pathOver(u); b.configured && p != "" {
			return fmt.Errorf("remove uplink %q: path %q to %s is on it", name, p, b.cfg.Name)
		}
	}
	u.left.Store(true)
	for _, b := range h.bonds {
		b.mu.Lock()
		for _, p := range b.paths {
			if p.uplink == u && !p.removed {
				b.removePath(p)
			}
		}
		b.mu.Unlock()
	}
	delete(h.uplinks, name)
	return u.socket().Close()
}

// pathOver names a path over the uplink, if there is one.
func (b *Bond) pathOver(u *uplink) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.paths {
		if p.uplink == u && !p.removed {
			return p.name
		}
	}
	return ""
}
