package bond

import (
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

func TestSetClassPathsErrors(t *testing.T) {
	b := newRig(t, 2, false).a.bond
	for _, tc := range []struct {
		name  string
		class Class
		order []uint8
		says  string
	}{
		{"class", numClasses, []uint8{0}, "allowed realtime to bulk"},
		{"number", Bulk, []uint8{maxPaths}, "below 16"},
		{"twice", Bulk, []uint8{1, 0, 1}, "once"},
		{"no such path yet", Bulk, []uint8{1, 7}, ""},
		{"none", Bulk, nil, ""},
	} {
		err := b.SetClassPaths(tc.class, tc.order)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.says)
		}
	}
}

// TestClassPathsPick asks for the path of one packet.
func TestClassPathsPick(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		link := func(d time.Duration) wan.Impairment { return wan.Impairment{Rate: 50e6, Delay: d} }
		w := newWorld(t, seed, link(40*time.Millisecond), link(50*time.Millisecond), link(80*time.Millisecond))
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		time.Sleep(5 * time.Second) // what finding the rates had put into queues is forgotten
		b := w.b.bond
		for _, tc := range []struct {
			name  string
			class Class
			how   pickMode
			order []uint8
			busy  time.Duration // p1's pacer
			down  []int
			want  string // "" for none now
		}{
			{"no order", Interactive, pickEarliest, nil, 0, nil, "p0"},
			{"preferred though later", Realtime, pickEarliest, []uint8{1, 0, 2}, 0, nil, "p1"},
			{"requests take the earliest", Interactive, pickEarliest, []uint8{1, 0, 2}, 0, nil, "p0"},
			{"too late for calls too", Realtime, pickEarliest, []uint8{2, 0, 1}, 0, nil, "p0"},
			{"second of the order", Realtime, pickEarliest, []uint8{2, 1, 0}, 0, nil, "p1"},
			{"waits for its pacer", Realtime, pickEarliest, []uint8{1, 0, 2}, time.Millisecond, nil, ""},
			{"busy", Realtime, pickEarliest, []uint8{1, 0, 2}, 5 * time.Millisecond, nil, "p0"},
			{"excluded", Interactive, pickEarliest, []uint8{2}, 0, nil, "p2"},
			{"excluded, sent again", Interactive, pickAgain, []uint8{1, 2}, 0, nil, "p1"},
			{"preferred is down", Interactive, pickEarliest, []uint8{1, 0}, 0, []int{1}, "p0"},
			{"all it allows are down", Interactive, pickEarliest, []uint8{1}, 0, []int{1}, "p0"},
			{"all it allows are down, sent again", Realtime, pickAgain, []uint8{1, 2}, 0, []int{1, 2}, "p0"},
			{"bulk on what is allowed", Bulk, pickSpread, []uint8{2}, 0, nil, "p2"},
			{"bulk is spread", Bulk, pickSpread, []uint8{1, 0}, 0, nil, "p0"},
			{"bulk, all it allows are down", Bulk, pickSpread, []uint8{2}, 0, []int{2}, "p0"},
			{"bulk, all it allows are left out", Bulk, pickSpread, []uint8{7}, 0, nil, "p0"},
		} {
			if err := b.SetClassPaths(tc.class, tc.order); err != nil {
				t.Fatal(err)
			}
			b.mu.Lock()
			_, at := b.host.now()
			for i, p := range b.paths {
				p.nextFree = at - stamp(10-i) // p0's pacer is free the longest
			}
			b.paths[1].nextFree += us(tc.busy)
			for _, i := range tc.down {
				sb.setState(at, b.paths[i], PathDown)
			}
			got := ""
			if p, _ := sb.pick(at, tc.class, tc.how, 1000, maxPaths); p != nil {
				got = p.name
			}
			if got != tc.want {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
			for _, i := range tc.down {
				sb.setState(at, b.paths[i], PathUp)
			}
			b.mu.Unlock()
			if err := b.SetClassPaths(tc.class, nil); err != nil {
				t.Fatal(err)
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		_, at := b.host.now()
		b.classes[Interactive] = classPaths{set: true}
		b.classes[Interactive].rank[1] = 1
		for _, p := range b.paths {
			p.nextFree = at
		}
		if q := sb.other(at, Interactive, 1<<b.paths[1].id, 1000); q != nil {
			t.Errorf("a copy may go on %s, which the class must not use", q.name)
		}
	})
}

// TestClassPathsTransfer: what a lane carries goes where its class may, and over the others when that fails.
func TestClassPathsTransfer(t *testing.T) {
	seed := testSeed(t)
	inBubble(t, func(t *testing.T) {
		link := wan.Impairment{Rate: 20e6, Delay: 30 * time.Millisecond}
		w := newWorld(t, seed, link, link, link)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		<-sb.Started()
		for _, b := range []*Bond{w.a.bond, w.b.bond} {
			for _, c := range []Class{Interactive, Bulk} {
				if err := b.SetClassPaths(c, []uint8{1, 2}); err != nil {
					t.Fatal(err)
				}
			}
		}
		p := w.lane(sa, sb, Bulk)
		defer p.close()
		before := w.b.bond.Stats()
		if r := p.transfer(t, seed, 3*time.Second); !r.ok {
			t.Fatal("payload damaged")
		}
		after := w.b.bond.Stats()
		var sent [3]uint64
		for i := range sent {
			sent[i] = after.Paths[i].SentBytes - before.Paths[i].SentBytes
		}
		// Probes and reports go everywhere.
		if sent[0] > 200_000 || sent[1] < 2_000_000 || sent[2] < 2_000_000 {
			t.Errorf("bytes sent by path %v, want next to none on the first and megabytes on the others", sent)
		}
		for i := 1; i < 3; i++ {
			w.links[i].Darken(true)
		}
		if r := p.transfer(t, seed, 3*time.Second); !r.ok {
			t.Fatal("payload damaged")
		}
		if got := w.b.bond.Stats().Paths[0].SentBytes - after.Paths[0].SentBytes; got < 2_000_000 {
			t.Errorf("%d bytes on the only path that works, want megabytes", got)
		}
	})
}
