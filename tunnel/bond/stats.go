package bond

import (
	"net/netip"
	"time"
)

// Stats is a snapshot of a bond.
type Stats struct {
	Name        string
	Established bool
	Since       time.Duration // age of the session
	Capacity    int64         // bits/s as sent, all paths that are up
	RTT         time.Duration // of a bulk lane
	Paths       []PathStats
	Lanes       []LaneStats
	Repairs     uint64 // repair symbols sent in this session
	Resent      uint64 // packets sent again in this session
	Recovered   uint64 // received packets that FEC brought back in this session
}

// PathStats is a snapshot of a path. Counters start with the bond.
type PathStats struct {
	ID            uint8 // on the wire, in what we send
	Peer          int   // the peer's number of it; -1: it has sent nothing here
	Name          string
	Uplink        string
	Local, Remote netip.AddrPort
	State         PathState
	RTT           time.Duration
	Loss          float64       // of the last 500 packets or so sent, before repair; once the rate is found, since then
	LossFloor     float64       // the part that belongs to the path
	LossIn        float64       // of the last 500 packets or so that the peer sent
	Bandwidth     int64         // bits/s, estimated
	Pacing        int64         // bits/s to send at now
	InFlight      int64         // bytes sent whose fate is unknown
	ExtraDelay    time.Duration // one-way to the peer, over the least of the last 10 s
	Queue         time.Duration // the part of ExtraDelay that is no jitter
	Controller    string        // state of the rate controller, as rate.Controller.State says it
	// Filling: our rate controller looks for the path's rate, or drains the queue that made, so that delay and loss to
	// the peer are its own doing. FillingIn is the same of the peer's controller, and of what comes from there.
	Filling, FillingIn bool
	// Limiting: Bandwidth is what the path carries. Otherwise there was not enough to send lately to tell.
	Limiting      bool
	Sent, Lost    uint64 // datagrams
	Repairs       uint64 // of Sent: FEC repair symbols
	Resent        uint64 // of Sent: packets sent before
	SentBytes     uint64 // with Ethernet, IP and UDP headers
	Received      uint64
	ReceivedBytes uint64
	MTU           int // largest IP packet that is known to arrive; 0: not known yet
	// Out and In are what came of the datagrams of this session, both ways: not Sent and Received, which count datagrams
	// under way and whole lives.
	Out, In Fates
}

// Fates are datagrams of a path, in the order they were sent: Runs is the number of gaps that the lost ones make.
type Fates struct{ Packets, Lost, Runs uint64 }

// LaneStats is a snapshot of a lane.
type LaneStats struct {
	ID          int
	Class       Class
	Sent        uint64 // packets, without repetitions
	Resent      uint64
	Repairs     uint64
	Unconfirmed int
	Received    uint64
	Recovered   uint64
	Duplicate   uint64
	Late        uint64 // handed over after their time
	Overflow    uint64 // refused: outside the window
	Holds       uint64 // times that the line was held in order
	Backlog     int    // packets ready that QUIC has not read
	Delay       time.Duration
}

// Stats returns a snapshot.
func (b *Bond) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, at := b.host.now()
	st := Stats{Name: b.cfg.Name}
	s := b.sess
	for _, p := range b.paths {
		if p.removed {
			continue
		}
		ps := PathStats{
			ID: p.id, Peer: -1, Out: p.fates, Name: p.name, Uplink: p.uplink.name, Local: p.uplink.socket().LocalAddr(), Remote: p.remote, State: p.state, RTT: p.rtt,
			Loss: p.lossFound, LossFloor: p.ctrl.LossFloor(), Bandwidth: p.ctrl.Bandwidth(), Queue: p.ctrl.QueueDelay(),
			Controller: p.ctrl.State(), Filling: p.ctrl.Filling(), Limiting: p.ctrl.Limiting(), Pacing: p.ctrl.PacingRate(), InFlight: p.inflight, ExtraDelay: p.ctrl.ExtraDelay(),
			Sent: p.sent, Lost: p.lost, Repairs: p.repairs, Resent: p.resent, SentBytes: p.sentBytes,
			Received: p.recv, ReceivedBytes: p.recvBytes,
		}
		if p.search.known {
			ps.MTU = p.search.size
		}
		if s == nil {
			ps.State = PathOpening
		} else {
			for _, rx := range s.rx {
				if rx != nil && rx.pair == p {
					ps.LossIn = max(ps.LossIn, min(rx.lossShort, 1))
					ps.In = rx.fates()
					ps.Peer = int(rx.id)
					ps.FillingIn = rx.filling
				}
			}
		}
		st.Paths = append(st.Paths, ps)
	}
	if s == nil {
		return st
	}
	st.Established, st.Since = true, (at - s.since).duration()
	st.Capacity, st.RTT = s.capacity()
	for _, l := range s.live {
		ls := LaneStats{
			ID: int(l.id), Class: l.Class(), Sent: l.tx.sent, Resent: l.tx.resent, Repairs: l.tx.repairs,
			Unconfirmed: int(l.tx.next - l.tx.base), Received: l.rx.received, Recovered: l.rx.recovered, Duplicate: l.rx.duplicate,
			Late: l.rx.lateCount, Overflow: l.rx.overflow, Holds: l.rx.holds, Backlog: l.rx.ready.len(),
			Delay: time.Duration(l.rx.common) * time.Microsecond,
		}
		st.Repairs += ls.Repairs
		st.Resent += ls.Resent
		st.Recovered += ls.Recovered
		st.Lanes = append(st.Lanes, ls)
	}
	return st
}
