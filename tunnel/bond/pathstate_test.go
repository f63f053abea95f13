package bond

import (
	"testing"
	"time"
)

// TestSilenceSeenByReport: a path that is found silent when a report comes, between two ticks, hands its packets over
// like one found by the tick.
func TestSilenceSeenByReport(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 2, false)
		s, _ := r.establish(t)
		b := s.b
		now, at := b.host.now()
		for _, p := range b.paths {
			p.acked = true
			s.setState(at, p, PathUp)
			p.rtt = 100 * time.Millisecond
		}
		l := s.addLane(laneID(Bulk, 0))
		const packets = 20
		for i := range packets {
			l.tx.next++
			o := &l.tx.out[i]
			*o = outPacket{buf: newPacketBuf(make([]byte, 100))}
			s.transmit(now, at, l, uint64(i), o, b.paths[0])
		}
		now, at = now.Add(time.Second), at+us(time.Second)
		s.onReport(now, at, s.lastReportNo+1, &report{paths: []pathReport{{largest: uint32(b.paths[0].largest)}}})
		if st := b.paths[0].state; st != PathSuspect {
			t.Fatalf("path is %v after a second without an answer, want suspect", st)
		}
		if n := l.tx.again.len(); n != packets {
			t.Errorf("%d of the %d packets on the silent path are sent again", n, packets)
		}
		if b.paths[0].inflight != 0 {
			t.Errorf("%d bytes in flight on a path that was given up", b.paths[0].inflight)
		}
	})
}
