package fec

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const benchPayload = 1400

func benchPacket(r *rand.Rand) []byte {
	p := make([]byte, benchPayload)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// BenchmarkEncode protects packets at 20 % overhead: one Add each, one Repair every five. Bytes are payload protected.
func BenchmarkEncode(b *testing.B) {
	for _, window := range []int{32, 64, 128, 200, 256, 512} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(benchPayload)
			payload := benchPacket(rand.New(rand.NewPCG(seed(b), 20)))
			e := NewEncoder(window, benchPayload)
			dst := make([]byte, 0, 2*benchPayload)
			seq := uint64(0)
			step := func() {
				e.Add(seq, payload)
				if seq++; seq%5 == 0 {
					first, n := e.Window()
					if _, err := e.Repair(dst, first, n, uint32(seq)); err != nil {
						b.Fatal(err)
					}
				}
			}
			for range window {
				step()
			}
			for b.Loop() {
				step()
			}
		})
	}
}

// BenchmarkDecode takes a lane at 20 % overhead and a window of 200: what it costs for each source packet sent, with
// this loss of sources and repairs. skew: two in three packets and repairs are that many packets behind the others.
func BenchmarkDecode(b *testing.B) {
	for _, skew := range []int{0, 300} {
		for _, loss := range []int{0, 1, 5, 10} {
			b.Run(fmt.Sprintf("loss=%d%%/skew=%d", loss, skew), func(b *testing.B) {
				benchmarkDecode(b, float64(loss)/100, skew)
			})
		}
	}
}

func benchmarkDecode(b *testing.B, loss float64, skew int) {
	const window, length = 200, 2000
	r := rand.New(rand.NewPCG(seed(b), 21))
	payload := benchPacket(r)
	type timed struct {
		at int
		arrival
	}
	// The lane is played again and again, from a higher sequence number each time.
	var lane []timed
	e := NewEncoder(window, benchPayload)
	send := func(at int, a arrival) {
		if r.Float64() >= loss {
			if r.IntN(3) != 0 {
				at += skew
			}
			lane = append(lane, timed{at, a})
		}
	}
	for seq := range length {
		e.Add(uint64(seq), payload)
		send(seq, arrival{first: uint64(seq), symbol: payload})
		if seq%5 == 4 {
			first, n := e.Window()
			symbol, err := e.Repair(nil, first, n, uint32(seq))
			if err != nil {
				b.Fatal(err)
			}
			send(seq, arrival{repair: true, first: first, n: n, key: uint32(seq), symbol: symbol})
		}
	}
	slices.SortStableFunc(lane, func(a, b timed) int { return a.at - b.at })

	b.ReportAllocs()
	b.SetBytes(benchPayload)
	d := NewDecoder(window, benchPayload)
	var out []Packet
	base, i, sent := uint64(0), 0, 0
	for b.Loop() {
		// As many arrivals as belong to one packet sent.
		for sent++; i < len(lane) && i*length < sent*len(lane); i++ {
			if a := &lane[i]; a.repair {
				var err error
				if out, err = d.Repair(base+a.first, a.n, a.key, a.symbol, out[:0]); err != nil {
					b.Fatal(err)
				}
			} else {
				out = d.Source(base+a.first, a.symbol, out[:0])
			}
		}
		if sent == length {
			base, i, sent = base+length, 0, 0
		}
	}
}

// BenchmarkResidual simulates a lane over three paths with this loss on each, in bursts of this mean length, at 20 %
// overhead with windows of at most 50 ms and 256 packets. residual-%: of packets, not there 60 ms after the slowest
// path would have brought them. repair-ms: of lost packets, from when they would have come until they were recovered.
func BenchmarkResidual(b *testing.B) {
	const packets, ratio = 20_000, 0.2
	for _, rate := range []float64{1000, 10_000} {
		for _, loss := range []float64{0.01, 0.05, 0.10} {
			for _, burst := range []float64{1, 8} {
				name := fmt.Sprintf("rate=%.0f/loss=%.0f%%/burst=%.0f", rate, 100*loss, burst)
				b.Run(name, func(b *testing.B) {
					sent, late, repairs := 0, 0, 0
					var delays []time.Duration
					next := seed(b)
					for b.Loop() {
						s := newSimulation(next, rate, burstyLoss(loss, burst))
						next++
						for range packets {
							s.step(b, ratio)
						}
						s.judge()
						sent, late, repairs = sent+s.sent, late+s.late, repairs+s.repairs
						delays = append(delays, s.delay...)
					}
					slices.Sort(delays)
					b.ReportMetric(100*float64(late)/float64(sent), "residual-%")
					b.ReportMetric(percentile(delays, 0.5), "repair-p50-ms")
					b.ReportMetric(percentile(delays, 0.99), "repair-p99-ms")
					b.ReportMetric(float64(repairs)/float64(b.N*packets), "overhead")
				})
			}
		}
	}
}

// percentile of sorted durations, in milliseconds.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]) / float64(time.Millisecond)
}
