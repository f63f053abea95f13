// Package admin shows what a running node does: a status document over a Unix socket, as JSON and as Prometheus
// metrics.
//
//   - A node calls [Start] (or [Serve]) with a function that takes the snapshot.
//   - [Fetch] reads it from another process; [Status.WriteText] prints it for people.
//   - [DefaultSocket] and [Sockets] say where.
//
// A Status is a copy: whoever holds it owns it. The snapshot function is called from several goroutines at once.
package admin

import (
	"math"
	"time"
)

// Path states.
const (
	PathOpening = "opening"
	PathUp      = "up"
	PathSuspect = "suspect"
	PathDown    = "down"
)

// Status is a snapshot of one node. Fields with an Ms suffix are milliseconds, Mbit is 10^6 bits a second, losses and
// shares are fractions from 0 to 1, and counters start with the process.
type Status struct {
	Node    string            `json:"node"`
	Role    string            `json:"role"` // gateway or agent
	Version string            `json:"version"`
	PID     int               `json:"pid"`
	Started time.Time         `json:"started"`
	Taken   time.Time         `json:"taken"` // when the snapshot was taken
	Peers   []Peer            `json:"peers"`
	Flows   Flows             `json:"flows"`
	Drops   map[string]uint64 `json:"drops,omitempty"` // what was dropped, by reason
}

// Peer is one bond.
type Peer struct {
	Name         string    `json:"name"`
	Kind         string    `json:"kind"`  // gateway or agent
	State        string    `json:"state"` // up, connecting or down
	Session      string    `json:"session,omitempty"`
	Since        time.Time `json:"since,omitzero"` // of State
	RTTMs        float64   `json:"rtt_ms"`         // what QUIC sees: the slowest active path's, equalised
	CapacityMbit float64   `json:"capacity_mbit"`  // over all paths
	Overhead     float64   `json:"overhead"`       // repair and retransmitted bytes / payload bytes
	Paths        []Path    `json:"paths"`
	Lanes        []Lane    `json:"lanes,omitempty"`
}

// Path is one path of a bond.
type Path struct {
	Name         string  `json:"name"`
	Uplink       string  `json:"uplink,omitempty"`
	Local        string  `json:"local,omitempty"`
	Remote       string  `json:"remote,omitempty"`
	State        string  `json:"state"`
	Note         string  `json:"note,omitempty"` // why it is not up
	RTTMs        float64 `json:"rtt_ms"`
	LossTx       float64 `json:"loss_tx"` // on the way to the peer, before repair
	LossRx       float64 `json:"loss_rx"`
	RateTxMbit   float64 `json:"rate_tx_mbit"` // being sent now
	RateRxMbit   float64 `json:"rate_rx_mbit"`
	CapacityMbit float64 `json:"capacity_mbit"` // the rate controller's estimate
	Share        float64 `json:"share"`         // of the bond's bytes now sent
	QueueMs      float64 `json:"queue_ms"`      // estimated standing queue in the network
	SentPackets  uint64  `json:"sent_packets"`
	SentBytes    uint64  `json:"sent_bytes"`
	RecvPackets  uint64  `json:"received_packets"`
	RecvBytes    uint64  `json:"received_bytes"`
	LostPackets  uint64  `json:"lost_packets"` // of SentPackets
	RepairSent   uint64  `json:"repair_sent_packets"`
	Retransmits  uint64  `json:"retransmitted_packets"`
	Repaired     uint64  `json:"repaired_packets"` // received packets that FEC brought back
	MTU          int     `json:"mtu,omitempty"`
}

// Lane is one QUIC connection of a bond.
type Lane struct {
	ID            uint64  `json:"id"`
	Class         string  `json:"class"`
	State         string  `json:"state"` // opening, warming, ready or draining
	RTTMs         float64 `json:"rtt_ms"`
	WindowPackets int     `json:"window_packets"`
	Flows         int     `json:"flows"`
}

// Flows sums up the customer's flows at this node.
type Flows struct {
	Active   int64  `json:"active"`
	Total    uint64 `json:"total"`
	Failed   uint64 `json:"failed"`  // ended by an error
	Refused  uint64 `json:"refused"` // not authorised, no route, or the destination refused
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
	Buffered int64  `json:"buffered_bytes"`
	Budget   int64  `json:"buffer_budget_bytes"`
}

// finite replaces what JSON cannot carry: a rate over an empty interval is no reason to answer nothing at all. It
// copies what it changes, because the snapshot may share its slices with another reader.
func (s Status) finite() Status {
	fix := func(fs ...*float64) {
		for _, f := range fs {
			if math.IsNaN(*f) || math.IsInf(*f, 0) {
				*f = 0
			}
		}
	}
	s.Peers = append([]Peer{}, s.Peers...)
	for i := range s.Peers {
		p := &s.Peers[i]
		fix(&p.RTTMs, &p.CapacityMbit, &p.Overhead)
		p.Paths = append([]Path{}, p.Paths...)
		for j := range p.Paths {
			q := &p.Paths[j]
			fix(&q.RTTMs, &q.LossTx, &q.LossRx, &q.RateTxMbit, &q.RateRxMbit, &q.CapacityMbit, &q.Share, &q.QueueMs)
		}
		p.Lanes = append([]Lane(nil), p.Lanes...)
		for j := range p.Lanes {
			fix(&p.Lanes[j].RTTMs)
		}
	}
	return s
}
