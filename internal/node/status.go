package node

import (
	"maps"
	"os"
	"sync"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// rates turns counters into rates between snapshots; several readers share it, so it keeps its own pace.
type rates struct {
	mu   sync.Mutex
	at   time.Time
	last map[string][2]uint64
	rate map[string][2]float64
}

// ratePeriod is the least time over which a rate is taken.
const ratePeriod = 500 * time.Millisecond

func (r *rates) update(now time.Time, count map[string][2]uint64) map[string][2]float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := now.Sub(r.at); d >= ratePeriod || r.last == nil {
		r.rate = make(map[string][2]float64, len(count))
		for k, c := range count {
			if was, ok := r.last[k]; ok && d > 0 {
				r.rate[k] = [2]float64{float64(c[0]-was[0]) * 8 / d.Seconds() / 1e6, float64(max(c[1], was[1])-was[1]) * 8 / d.Seconds() / 1e6}
			}
		}
		r.last, r.at = count, now
	}
	return r.rate
}

// Status takes a snapshot.
func (n *Node) Status() admin.Status {
	now := time.Now()
	ts := n.tunnel.Stats()
	notes := n.uplinkNotes()
	n.mu.Lock()
	cfg, peers := n.cfg, maps.Clone(n.peers)
	n.mu.Unlock()
	st := admin.Status{
		Node: cfg.Name, Role: n.opts.Role, Version: cli.Version(), PID: os.Getpid(), Started: n.started, Taken: now,
		Flows: flows(ts), Drops: n.host.Drops(),
	}
	st.Flows.Refused += n.refused.Load()
	count := map[string][2]uint64{}
	bonds := map[string]bond.Stats{}
	for name, p := range peers {
		bs := p.bond.Stats()
		bonds[name] = bs
		for _, ps := range bs.Paths {
			count[name+" "+ps.Name] = [2]uint64{ps.SentBytes, ps.ReceivedBytes}
		}
	}
	rate := n.rates.update(now, count)
	for _, c := range cfg.Peers {
		if peers[c.Name] == nil {
			continue
		}
		p := peerStatus(now, c.Name, c.Kind.String(), bonds[c.Name], rate)
		for i := range p.Paths {
			p.Paths[i].Note = notes[p.Paths[i].Uplink]
		}
		for _, t := range ts.Peers {
			if t.Name == c.Name {
				lanes(&p, t)
			}
		}
		st.Peers = append(st.Peers, p)
	}
	return st
}

func flows(ts tunnel.Stats) admin.Flows {
	f := admin.Flows{
		Active: ts.ActiveFlows, Total: uint64(ts.Flows), BytesIn: ts.BytesIn, BytesOut: ts.BytesOut,
		Buffered: ts.StalledBytes, Budget: ts.WindowLimit,
	}
	for reason, n := range ts.Resets {
		switch reason {
		case tunnel.CodeRefused.String(), tunnel.CodeDenied.String(), tunnel.CodeNoRoute.String():
			f.Refused += n
		default:
			f.Failed += n
		}
	}
	return f
}

func peerStatus(now time.Time, name, kind string, bs bond.Stats, rate map[string][2]float64) admin.Peer {
	p := admin.Peer{Name: name, Kind: kind, State: "connecting", RTTMs: ms(bs.RTT), CapacityMbit: float64(bs.Capacity) / 1e6}
	if bs.Established {
		p.Since = now.Add(-bs.Since)
		p.State = "down"
	}
	var all float64
	for _, ps := range bs.Paths {
		all += rate[name+" "+ps.Name][0]
	}
	for _, ps := range bs.Paths {
		if ps.State == bond.PathUp {
			p.State = "up"
		}
		r := rate[name+" "+ps.Name]
		share := 0.0
		if all > 0 {
			share = r[0] / all
		}
		p.Paths = append(p.Paths, admin.Path{
			Name: ps.Name, Uplink: ps.Uplink, Local: ps.Local.String(), Remote: ps.Remote.String(), State: ps.State.String(),
			RTTMs: ms(ps.RTT), LossTx: ps.Loss, LossFloor: ps.LossFloor, LossRx: ps.LossIn, RateTxMbit: r[0], RateRxMbit: r[1],
			Controller: ps.Controller, CapacityMbit: float64(ps.Bandwidth) / 1e6, PacingMbit: float64(ps.Pacing) / 1e6,
			InFlight: ps.InFlight, Share: share, ExtraDelayMs: ms(ps.ExtraDelay), QueueMs: ms(ps.Queue),
			SentPackets: ps.Sent, SentBytes: ps.SentBytes, RecvPackets: ps.Received, RecvBytes: ps.ReceivedBytes,
			LostPackets: ps.Lost, RepairSent: ps.Repairs, Retransmits: ps.Resent, MTU: ps.MTU,
		})
	}
	p.Repaired = bs.Recovered
	var sent uint64
	for _, l := range bs.Lanes {
		sent += l.Sent
	}
	if sent > 0 {
		p.Overhead = float64(bs.Repairs+bs.Resent) / float64(sent)
	}
	return p
}

func lanes(p *admin.Peer, t tunnel.PeerStats) {
	for _, l := range t.Lanes {
		state := "ready"
		switch {
		case l.Draining:
			state = "draining"
		case !l.Ready:
			state = "warming"
		}
		p.Lanes = append(p.Lanes, admin.Lane{
			ID: l.ID, Class: l.Class, State: state, RTTMs: ms(l.RTT), WindowPackets: int(l.Window / 1400), LostPackets: l.Lost,
			Flows: l.Directions,
		})
	}
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }
