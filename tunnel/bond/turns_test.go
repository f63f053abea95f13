package bond

import "testing"

// TestLanesTakeTurns: two lanes of a class that both have packets send equally many, whatever other lanes there are, and
// a class of higher priority leaves bulk its floor.
func TestLanesTakeTurns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 1, false)
		s, _ := r.establish(t)
		for _, p := range s.b.paths {
			_, at := s.b.host.now()
			p.acked = true
			s.setState(at, p, PathUp)
		}
		lanes := []*Lane{s.addLane(laneID(Interactive, 0)), s.addLane(laneID(Interactive, 1)), s.addLane(laneID(Bulk, 0)), s.addLane(laneID(Bulk, 1))}
		now, at := s.b.host.now()
		const packets = 600
		for range packets {
			for _, l := range lanes {
				for l.tx.queue.len() < 4 {
					l.tx.queue.push(newPacketBuf(make([]byte, 100)))
				}
			}
			for _, p := range s.b.paths {
				p.nextFree, p.inflight = 0, 0
			}
			if ok, _ := s.fillOne(now, at); !ok {
				t.Fatal("nothing sent")
			}
			s.b.out.n = 0
		}
		sent := func(i int) int { return int(lanes[i].tx.sent) }
		for _, pair := range [][2]int{{0, 1}, {2, 3}} {
			if d := sent(pair[0]) - sent(pair[1]); d < -1 || d > 1 {
				t.Errorf("%v lanes sent %d and %d packets", lanes[pair[0]].Class(), sent(pair[0]), sent(pair[1]))
			}
		}
		if bulk := sent(2) + sent(3); bulk != packets/(bulkFloor+1) {
			t.Errorf("bulk sent %d of %d packets beside interactive lanes, want 1 in %d", bulk, packets, bulkFloor+1)
		}
	})
}
