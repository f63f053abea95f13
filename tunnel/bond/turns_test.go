package bond

import (
	"testing"
	"time"
)

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

// TestCopies: for a while after a pause each repetition of a bulk lane goes over two paths, later only the second, and that
// one over as many as make a third unlikely.
func TestCopies(t *testing.T) {
	for _, c := range []struct {
		class Class
		after time.Duration // since the lane's first packet of data
		paths int
		again int // repetitions before
		want  int // datagrams for a repetition
	}{
		{Bulk, startTime / 2, 2, 0, 2}, {Bulk, startTime, 2, 0, 1}, {Interactive, startTime / 2, 2, 0, 1},
		{Bulk, startTime / 2, 3, 0, 2}, {Bulk, startTime, 3, 0, 1}, {Bulk, startTime, 3, 1, 3}, {Interactive, startTime, 3, 1, 3},
	} {
		inBubble(t, func(t *testing.T) {
			r := newRig(t, c.paths, false)
			s, _ := r.establish(t)
			now, at := s.b.host.now()
			for _, p := range s.b.paths {
				p.acked, p.validated, p.lossShort = true, true, 0.02
				s.setState(at, p, PathUp)
			}
			l := s.addLane(laneID(c.class, 0))
			send := func(at stamp) int {
				for _, p := range s.b.paths {
					p.nextFree, p.inflight = 0, 0
				}
				s.b.out.n = 0
				if ok, _ := s.fillOne(now, at); !ok {
					t.Fatal("nothing sent")
				}
				return s.b.out.n
			}
			l.tx.queue.push(newPacketBuf(make([]byte, fullSize)))
			send(at)
			for range c.again {
				l.tx.sendAgain(0)
				send(at + us(c.after))
			}
			l.tx.sendAgain(0)
			if got := send(at + us(c.after)); got != c.want {
				t.Errorf("%+v: %d datagrams for a repetition, want %d", c, got, c.want)
			}
		})
	}
}
