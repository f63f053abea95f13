// Package admin shows what a running node does: a status document over a Unix socket, as JSON and as Prometheus
// metrics.
//
//   - A node calls [Start] (or [Serve]) with a function that takes the snapshot.
//   - [Fetch] reads it from another process, a [Client] again and again; [Status.WriteText] prints it for people.
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
	Since        time.Time `json:"since,omitzero"`   // of State
	RTTMs        float64   `json:"rtt_ms"`           // what QUIC sees: the slowest active path's, equalised
	CapacityMbit float64   `json:"capacity_mbit"`    // over all paths
	Overhead     float64   `json:"overhead"`         // repair and retransmitted packets / lane packets, this session
	Repaired     uint64    `json:"repaired_packets"` // received packets that FEC brought back, this session
	Paths        []Path    `json:"paths"`
	Lanes        []Lane    `json:"lanes,omitempty"`
}

// Path is one path of a bond.
type Path struct {
	Name   string  `json:"name"`
	Uplink string  `json:"uplink,omitempty"`
	Local  string  `json:"local,omitempty"`
	Remote string  `json:"remote,omitempty"`
	State  string  `json:"state"`
	Note   string  `json:"note,omitempty"` // why it is not up
	RTTMs  float64 `json:"rtt_ms"`
	// LossTx is that of the last 500 packets or so on the way to the peer, before repair; LossFloor is the part of it that
	// the rate controller takes for the path's own and not for congestion. LossRx is LossTx on the way from the peer, with
	// what was sent into an outage.
	LossTx     float64 `json:"loss_tx"`
	LossFloor  float64 `json:"loss_floor_tx"`
	LossRx     float64 `json:"loss_rx"`
	RateTxMbit float64 `json:"rate_tx_mbit"` // being sent now
	RateRxMbit float64 `json:"rate_rx_mbit"`
	// Controller is what the rate controller is doing: Startup, Drain, Down, Refill, Cruise, Up or ProbeRTT, with
	// "/compete" while another flow holds the queue.
	Controller   string  `json:"controller,omitempty"`
	CapacityMbit float64 `json:"capacity_mbit"` // the rate controller's estimate of the bottleneck
	PacingMbit   float64 `json:"pacing_mbit"`   // what it lets out now
	InFlight     int64   `json:"in_flight_bytes"`
	Share        float64 `json:"share"` // of the bond's bytes now sent
	// ExtraDelayMs is the one-way delay to the peer over the least of the last 10 s, QueueMs the part of it that is no
	// jitter: the estimated standing queue in the network.
	ExtraDelayMs float64 `json:"extra_delay_ms"`
	QueueMs      float64 `json:"queue_ms"`
	SentPackets  uint64  `json:"sent_packets"`
	SentBytes    uint64  `json:"sent_bytes"` // with Ethernet, IP and UDP headers
	RecvPackets  uint64  `json:"received_packets"`
	RecvBytes    uint64  `json:"received_bytes"`
	LostPackets  uint64  `json:"lost_packets"`          // of SentPackets
	RepairSent   uint64  `json:"repair_sent_packets"`   // of SentPackets: FEC
	Retransmits  uint64  `json:"retransmitted_packets"` // of SentPackets: sent before, on this path or another
	MTU          int     `json:"mtu,omitempty"`
}

// Lane is one QUIC connection of a bond.
type Lane struct {
	ID            int     `json:"id"` // the same at both ends
	Class         string  `json:"class"`
	State         string  `json:"state"` // opening, warming, ready or draining
	RTTMs         float64 `json:"rtt_ms"`
	WindowPackets int     `json:"window_packets"` // QUIC's congestion window
	LostPackets   uint64  `json:"lost_packets"`   // that QUIC saw as lost, after repair
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
			fix(&q.RTTMs, &q.LossTx, &q.LossRx, &q.RateTxMbit, &q.RateRxMbit, &q.CapacityMbit, &q.Share, &q.QueueMs,
				&q.LossFloor, &q.PacingMbit, &q.ExtraDelayMs)
		}
		p.Lanes = append([]Lane(nil), p.Lanes...)
		for j := range p.Lanes {
			fix(&p.Lanes[j].RTTMs)
		}
	}
	return s
}
