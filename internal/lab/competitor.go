package lab

import "github.com/landbridge/landbridge/bench/wan"

// CompetitorResult is what one TCP bulk flow between the gateways took of a carrier beside the workload.
type CompetitorResult struct {
	Via         string  `json:"via"`
	Carrier     string  `json:"carrier"`
	GoodputMbit float64 `json:"goodput_mbit"`
	// Share is the competitor's part of the bytes that arrived over the carrier in the direction of the payload,
	// WorkloadShare the rest: the workload's, repair and headers included.
	Share         float64 `json:"share"`
	WorkloadShare float64 `json:"workload_share"`
}

// setBytes divides what arrived over the carrier. A full TCP segment with time stamps is 1514 bytes for 1448.
func (c *CompetitorResult) setBytes(payload int64, before, after []wan.LinkStats, upload bool) {
	arrived := func(stats []wan.LinkStats) uint64 {
		for _, l := range stats {
			switch {
			case l.Name != c.Carrier:
			case upload:
				return l.AtoB.DeliveredBytes
			default:
				return l.BtoA.DeliveredBytes
			}
		}
		return 0
	}
	all := float64(arrived(after) - arrived(before))
	if all <= 0 {
		return
	}
	c.Share = round(min(1, float64(payload)*1514/1448/all), 3)
	c.WorkloadShare = round(1-c.Share, 3)
}
