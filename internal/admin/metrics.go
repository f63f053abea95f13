package admin

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// collector turns a snapshot into metrics when asked; nothing is counted twice.
type collector struct{ Source }

var (
	pathLabels = []string{"peer", "path"}

	descInfo     = desc("node_info", "Always 1; the labels say who answers.", "node", "role", "version")
	descStart    = desc("node_start_time_seconds", "When the node started, in Unix time.")
	descPeerUp   = desc("peer_up", "1 while the bond with the peer is up.", "peer")
	descPeerRTT  = desc("peer_rtt_seconds", "Round trip over the bond, as QUIC sees it.", "peer")
	descPeerCap  = desc("peer_capacity_bits_per_second", "Estimated rate over all paths to the peer.", "peer")
	descLanes    = desc("lanes", "QUIC connections of a bond.", "peer", "class", "state")
	descState    = desc("path_state", "1 for the state the path is in.", "peer", "path", "state")
	descRTT      = desc("path_rtt_seconds", "Round trip of the path.", pathLabels...)
	descLoss     = desc("path_loss_ratio", "Packets lost, before repair.", "peer", "path", "direction")
	descRate     = desc("path_rate_bits_per_second", "Rate in use.", "peer", "path", "direction")
	descCapacity = desc("path_capacity_bits_per_second", "The rate controller's estimate.", pathLabels...)
	descShare    = desc("path_share_ratio", "Share of the bytes being sent to the peer.", pathLabels...)
	descQueue    = desc("path_queue_seconds", "Estimated standing queue in the network.", pathLabels...)
	descDelay    = desc("path_extra_delay_seconds", "One-way delay to the peer over its least of the last 10 s.", pathLabels...)
	descFloor    = desc("path_loss_floor_ratio", "The part of the loss to the peer that belongs to the path.", pathLabels...)
	descPacing   = desc("path_pacing_bits_per_second", "The rate that the rate controller lets out.", pathLabels...)
	descRepaired = desc("peer_repaired_packets", "Received packets that FEC brought back in this session.", "peer")
	descPackets  = desc("path_packets_total", "Packets on the path.", "peer", "path", "kind")
	descBytes    = desc("path_bytes_total", "Bytes on the path.", "peer", "path", "direction")
	descFlows    = desc("flows_active", "Open flows.")
	descFlowEnds = desc("flows_total", "Flows since the start: opened, and of those failed and refused.", "event")
	descFlowByte = desc("flow_bytes_total", "Payload carried for flows.", "direction")
	descBuffered = desc("buffered_bytes", "Flow bytes held in memory.")
	descBudget   = desc("buffer_budget_bytes", "The limit of buffered_bytes.")
	descDrops    = desc("drops_total", "Packets and flows dropped.", "reason")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("landbridge_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descStart, descPeerUp, descPeerRTT, descPeerCap, descLanes, descState, descRTT, descLoss, descRate,
		descCapacity, descShare, descQueue, descPackets, descBytes, descFlows, descFlowEnds, descFlowByte, descBuffered,
		descBudget, descDrops, descDelay, descFloor, descPacing, descRepaired,
	} {
		ch <- d
	}
	for _, d := range pathDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.Status().finite()
	put := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		for i, l := range labels {
			labels[i] = strings.ToValidUTF8(l, "?")
		}
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { put(d, prometheus.GaugeValue, v, labels...) }
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		put(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descInfo, 1, s.Node, s.Role, s.Version)
	gauge(descStart, float64(s.Started.UnixMilli())/1e3)
	for _, p := range s.Peers {
		gauge(descPeerUp, truth(p.State == PathUp), p.Name)
		gauge(descPeerRTT, p.RTTMs/1e3, p.Name)
		gauge(descPeerCap, p.CapacityMbit*1e6, p.Name)
		gauge(descRepaired, float64(p.Repaired), p.Name)
		lanes := make(map[[2]string]int)
		for _, l := range p.Lanes {
			lanes[[2]string{l.Class, l.State}]++
		}
		for k, n := range lanes {
			gauge(descLanes, float64(n), p.Name, k[0], k[1])
		}
		for _, q := range p.Paths {
			for _, state := range []string{PathOpening, PathUp, PathSuspect, PathDown} {
				gauge(descState, truth(q.State == state), p.Name, q.Name, state)
			}
			gauge(descRTT, q.RTTMs/1e3, p.Name, q.Name)
			gauge(descLoss, q.LossTx, p.Name, q.Name, "tx")
			gauge(descLoss, q.LossRx, p.Name, q.Name, "rx")
			gauge(descRate, q.RateTxMbit*1e6, p.Name, q.Name, "tx")
			gauge(descRate, q.RateRxMbit*1e6, p.Name, q.Name, "rx")
			gauge(descCapacity, q.CapacityMbit*1e6, p.Name, q.Name)
			gauge(descShare, q.Share, p.Name, q.Name)
			gauge(descQueue, q.QueueMs/1e3, p.Name, q.Name)
			gauge(descDelay, q.ExtraDelayMs/1e3, p.Name, q.Name)
			gauge(descFloor, q.LossFloor, p.Name, q.Name)
			gauge(descPacing, q.PacingMbit*1e6, p.Name, q.Name)
			counter(descPackets, q.SentPackets, p.Name, q.Name, "sent")
			counter(descPackets, q.RecvPackets, p.Name, q.Name, "received")
			counter(descPackets, q.LostPackets, p.Name, q.Name, "lost")
			counter(descPackets, q.RepairSent, p.Name, q.Name, "repair_sent")
			counter(descPackets, q.Retransmits, p.Name, q.Name, "retransmitted")
			counter(descBytes, q.SentBytes, p.Name, q.Name, "tx")
			counter(descBytes, q.RecvBytes, p.Name, q.Name, "rx")
		}
	}
	gauge(descFlows, float64(s.Flows.Active))
	counter(descFlowEnds, s.Flows.Failed, "failed")
	counter(descFlowEnds, s.Flows.Refused, "refused")
	counter(descFlowEnds, s.Flows.Total, "opened")
	counter(descFlowByte, s.Flows.BytesIn, "in")
	counter(descFlowByte, s.Flows.BytesOut, "out")
	gauge(descBuffered, float64(s.Flows.Buffered))
	gauge(descBudget, float64(s.Flows.Budget))
	for reason, n := range s.Drops {
		counter(descDrops, n, reason)
	}
	c.paths(put)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
