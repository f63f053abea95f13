package wan

import "time"

// pipe is one direction of a link: a Shaper and the frames on their way. It is
// what the in-memory network and the TAP emulator share. Not safe for
// concurrent use; times are since the link's start.
type pipe[F any] struct {
	shaper *Shaper
	// inOrder holds frames by arrival, late (a binary heap) those outside the
	// order: reordered ones and ones that bypass the model.
	inOrder ring[flying[F]]
	late    []flying[F]
	// maxFlying bounds both together; what exceeds it is dropped, counted Overflow.
	maxFlying int

	inFlight uint64 // copies of modelled frames in both
	arrived  uint64 // bytes of modelled frames popped alive
	seq      uint64
	other    uint64
	overflow uint64
	outage   uint64 // lost while darkened
	// dark lists the periods in which the link was switched off, oldest first;
	// the last may be open (to < 0). A frame dies if it left the queue in one.
	dark []period
}

type period struct{ from, to time.Duration }

type flying[F any] struct {
	frame      F
	at, depart time.Duration
	corrupt    uint64
	seq        uint64
	size       int // Ethernet bytes
	copies     int
	bypass     bool
}

// offer takes a frame of so many Ethernet bytes. The caller keeps the frame if
// it returns false (dropped or lost).
func (p *pipe[F]) offer(now time.Duration, frameBytes int, f F) bool {
	d := p.shaper.Offer(now, frameBytes)
	if d.Copies == 0 {
		return false
	}
	if p.full() {
		p.overflow += uint64(d.Copies)
		return false
	}
	p.inFlight += uint64(d.Copies)
	p.add(flying[F]{frame: f, at: d.At, depart: d.Depart, corrupt: d.Corrupt, size: frameBytes, copies: d.Copies}, d.Late)
	return true
}

// bypass sends a frame around the model: only the delay applies, not the rate,
// loss, outages or darkness.
func (p *pipe[F]) bypass(now time.Duration, f F) bool {
	if p.full() {
		return false
	}
	p.other++
	p.add(flying[F]{frame: f, at: now + p.shaper.imp.Delay, depart: now, copies: 1, bypass: true}, true)
	return true
}

func (p *pipe[F]) full() bool { return p.inOrder.len()+len(p.late) >= p.maxFlying }

func (p *pipe[F]) add(x flying[F], late bool) {
	p.seq++
	x.seq = p.seq
	if !late {
		p.inOrder.push(x)
		return
	}
	p.pushLate(x)
}

func (p *pipe[F]) pushLate(x flying[F]) {
	p.late = append(p.late, x)
	for i := len(p.late) - 1; i > 0; {
		up := (i - 1) / 2
		if !before(&p.late[i], &p.late[up]) {
			break
		}
		p.late[i], p.late[up] = p.late[up], p.late[i]
		i = up
	}
}

func before[F any](a, b *flying[F]) bool {
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

// next returns when the next frame is due.
func (p *pipe[F]) next() (time.Duration, bool) {
	switch {
	case p.inOrder.len() == 0 && len(p.late) == 0:
		return 0, false
	case p.inOrder.len() == 0:
		return p.late[0].at, true
	case len(p.late) == 0 || before(p.inOrder.at(0), &p.late[0]):
		return p.inOrder.at(0).at, true
	}
	return p.late[0].at, true
}

// pop removes the next frame due by now. Copies is 0 for a frame that died in
// the dark: its owner only takes the buffer back.
func (p *pipe[F]) pop(now time.Duration) (x flying[F], ok bool) {
	at, ok := p.next()
	if !ok || at > now {
		return x, false
	}
	if len(p.late) == 0 || p.inOrder.len() > 0 && before(p.inOrder.at(0), &p.late[0]) {
		x = p.inOrder.pop()
	} else {
		x = p.popLate()
	}
	if x.bypass {
		return x, true
	}
	p.inFlight -= uint64(x.copies)
	if len(p.dark) > 0 && p.diedInDark(x.depart, now) {
		p.outage += uint64(x.copies)
		x.copies = 0
	}
	p.arrived += uint64(x.copies * x.size)
	return x, true
}

func (p *pipe[F]) popLate() flying[F] {
	x := p.late[0]
	last := len(p.late) - 1
	p.late[0] = p.late[last]
	p.late[last] = flying[F]{}
	p.late = p.late[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && before(&p.late[c+1], &p.late[c]) {
			c++
		}
		if !before(&p.late[c], &p.late[i]) {
			break
		}
		p.late[i], p.late[c] = p.late[c], p.late[i]
		i = c
	}
	return x
}

// darken switches the link off or on from now on. Frames that are past the
// queue arrive, queued ones die as they leave it.
func (p *pipe[F]) darken(now time.Duration, off bool) {
	n := len(p.dark)
	isOff := n > 0 && p.dark[n-1].to < 0
	switch {
	case off && !isOff:
		p.dark = append(p.dark, period{from: now, to: -1})
	case !off && isOff:
		p.dark[n-1].to = now
	}
}

func (p *pipe[F]) diedInDark(depart, now time.Duration) bool {
	// A period that ended longer ago than anything flies concerns nobody.
	for len(p.dark) > 0 && p.dark[0].to >= 0 && now-p.dark[0].to > 4*maxTime {
		p.dark = p.dark[1:]
	}
	for _, d := range p.dark {
		if depart >= d.from && (d.to < 0 || depart < d.to) {
			return true
		}
	}
	return false
}

// setImpairment changes the model and moves what is still in the queue.
func (p *pipe[F]) setImpairment(now time.Duration, imp Impairment) {
	moved := p.shaper.SetImpairment(now, imp)
	shift := func(x *flying[F]) {
		if !x.bypass {
			d := moved(x.depart)
			x.at += d - x.depart
			x.depart = d
		}
	}
	var last time.Duration
	for i := range p.inOrder.len() {
		x := p.inOrder.at(i)
		shift(x)
		x.at = max(x.at, last)
		last = x.at
	}
	late := p.late
	p.late = nil
	for _, x := range late {
		shift(&x)
		p.pushLate(x)
	}
	p.shaper.lastAt = max(p.shaper.lastAt, last)
}

func (p *pipe[F]) counters(now time.Duration) Counters {
	c := p.shaper.Counters()
	c.Queue, c.Dark = p.shaper.Backlog(now), p.shaper.dark(now)
	c.InFlight = p.inFlight
	c.Delivered -= p.inFlight + p.overflow + p.outage
	c.Overflow = p.overflow
	c.Outage += p.outage
	c.Other = p.other
	c.DeliveredBytes = p.arrived
	if n := len(p.dark); n > 0 && p.dark[n-1].to < 0 {
		c.Dark = true
	}
	return c
}
