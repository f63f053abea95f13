package bond

import (
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// Defects that the simulated suite found, each with a small test of its own.

// A path that carries no bulk has no say in what a bulk lane needs: in the scenario skewed, the round trip and the loss of
// the third carrier, which is left out, kept lanes sheltered for good.
func TestLeftOutPathHasNoSay(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, seed, worldConfig{links: simLinks("skewed")})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		time.Sleep(time.Second)
		rate, rtt := sb.Capacity()
		if want := int64(120_000_000); rate > want*102/100 || rate < want*9/10 {
			t.Errorf("capacity %d bit/s, want that of the two paths that carry bulk, %d", rate, want)
		}
		if most := 500 * time.Millisecond; rtt > most {
			t.Errorf("round trip of a bulk lane %v, want that over the two paths, under %v", rtt, most)
		}
		w.a.bond.mu.Lock()
		defer w.a.bond.mu.Unlock()
		_, at := w.a.host.now()
		l := newLaneRx(laneID(Bulk, 1), Bulk)
		sa.equalise(at, l)
		base := sa.rx[0].delay.base()
		if d := time.Duration(l.common-base) * time.Microsecond; d < 90*time.Millisecond || d > 260*time.Millisecond {
			t.Errorf("common delay of a young lane %v above the first path's, want the second's 90 ms and the margin", d)
		}
	})
}

// Bare acknowledgements are sheltered only while the peer's window grows: that of a node that only receives never does, and
// each of its packets went twice for good.
func TestShelterOfAcknowledgementsEnds(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, seed, worldConfig{links: simLinks("heavy")})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		w.a.bond.mu.Lock()
		defer w.a.bond.mu.Unlock()
		for _, tc := range []struct {
			received uint64
			size     int
			debt     float64
		}{{0, 60, 1}, {shelterAcks, 60, 1}, {shelterAcks + 1, 60, 0}, {shelterAcks + 1, shelterLeast - 1, 0}, {shelterAcks + 1, shelterLeast, 1}} {
			l := p.la
			l.rx.received, l.tx.debt = tc.received, 0
			sa.setShelter(l)
			if l.tx.shelter != 1 {
				t.Fatalf("shelter %v with a window as it began, want 1", l.tx.shelter)
			}
			l.tx.onSource(1, l.tx.next, make([]byte, tc.size), 0)
			if l.tx.debt != tc.debt {
				t.Errorf("after %d packets one of %d bytes owes %v repairs, want %v", tc.received, tc.size, l.tx.debt, tc.debt)
			}
		}
	})
}

// While no path is up, a suspect one carries the lanes; with another one up it does not.
func TestSuspectPathCarriesWhileNoneIsUp(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, seed, worldConfig{links: simLinks("clean")[:2]})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		time.Sleep(time.Second) // what finding the rate had in flight is answered
		b := w.b.bond
		b.mu.Lock()
		defer b.mu.Unlock()
		_, at := b.host.now()
		p, q := b.paths[0], b.paths[1]
		for _, tc := range []struct {
			p, q PathState
			want string
		}{{PathUp, PathSuspect, p.name}, {PathSuspect, PathUp, q.name}, {PathSuspect, PathDown, p.name}, {PathDown, PathDown, ""}, {PathDown, PathUp, q.name}} {
			sb.setState(at, p, tc.p)
			sb.setState(at, q, tc.q)
			p.nextFree, q.nextFree = at, at
			for _, how := range []pickMode{pickEarliest, pickSpread, pickAgain} {
				got := ""
				if path, _ := sb.pick(at, Interactive, how, 1000, maxPaths); path != nil {
					got = path.name
				}
				if got != tc.want {
					t.Errorf("pick %d with paths %v and %v: %q, want %q", how, tc.p, tc.q, got, tc.want)
				}
			}
		}
	})
}

// A lesson is as long as the lane's round trip, not as what a receiving node remembers of a handshake that went badly.
func TestLessonAfterASlowHandshake(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, seed, worldConfig{links: simLinks("clean", 0)})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		time.Sleep(time.Second)
		imp := w.links[0].Impairment(wan.AtoB)
		slow := imp
		slow.Delay += 300 * time.Millisecond
		if err := w.links[0].SetImpairment(wan.AtoB, slow); err != nil {
			t.Fatal(err)
		}
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		time.Sleep(time.Second) // its first sample comes after the handshake
		if err := w.links[0].SetImpairment(wan.AtoB, imp); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.a.bond.mu.Lock()
		defer w.a.bond.mu.Unlock()
		_, own := sa.capacity()
		if srtt := p.ca.ConnectionStats().SmoothedRTT; srtt <= own*5/4 {
			t.Fatalf("the handshake left an estimate of %v, want well over the lane's %v for this test", srtt, own)
		}
		if most := time.Duration(lessonWait * float64(own)); p.la.rx.lesson.wait == 0 || p.la.rx.lesson.wait > most {
			t.Errorf("a lesson takes %v, want at most %v", p.la.rx.lesson.wait, most)
		}
	})
}

// The repetition of a lane's last packet keeps its time too, though no later packet tells when it was sent: the sample of a
// lost end of a handshake was 40 ms short, and ended the slow start of one heavy lane in thirty.
func TestLastPacketRepeatedKeepsItsTime(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		w := newWorldOf(t, seed, worldConfig{links: simLinks("clean")})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		const packets, lost = 8, 5
		for i := range packets {
			for _, l := range w.links {
				l.Darken(i == lost)
			}
			if _, err := la.WriteTo(stampPacket(make([]byte, 1200), uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			for _, l := range w.links {
				l.Darken(false)
			}
			time.Sleep(time.Second)
		}
		resent := w.a.bond.Stats().Lanes[0].Resent
		got := stop()
		exactlyOnce(t, got, packets)
		if resent == 0 {
			t.Error("nothing was repeated: nothing was shown")
		}
		if at, late := got[lost-1].latency, got[lost].latency; late < at-coalesceBulk {
			t.Errorf("the repeated packet took %v, the one before %v", late, at)
		}
	})
}
