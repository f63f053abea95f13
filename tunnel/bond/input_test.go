package bond

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var stranger = netip.MustParseAddrPort("203.0.113.9:4500")

// state tells everything about a bond that a datagram may change. Called while nothing else runs.
func (s *rigSide) state() string {
	var w strings.Builder
	b := s.bond
	fmt.Fprintf(&w, "bonds %d epoch %d peer %d cand %p sess %p\n", len(s.host.bonds), b.epoch, b.peerEpoch, b.cand, b.sess)
	for _, p := range b.paths {
		fmt.Fprintf(&w, "path %s %v %v valid %v open %v next %d largest %d clean %d learned %d\n", p.name, p.remote, p.state, p.validated, p.wantOpen,
			p.next, p.largest, p.clean, p.learned)
	}
	for _, ses := range []*Session{b.sess, b.cand} {
		if ses == nil {
			continue
		}
		fmt.Fprintf(&w, "probed %v report %d\n", ses.probed(), ses.lastReportNo)
		for _, rx := range ses.rx {
			if rx != nil {
				fmt.Fprintf(&w, "rx %d %v %p largest %d packets %d\n", rx.id, rx.addr, rx.pair, rx.largest, rx.packets)
			}
		}
		for _, l := range ses.live {
			fmt.Fprintf(&w, "lane %d rx %d %d %d tx %d %d\n", l.id, l.rx.cum, l.rx.high, l.rx.duplicate, l.tx.base, l.tx.next)
		}
	}
	return w.String()
}

// inject hands one datagram to the host as if it came from the address, and returns which drop counter moved.
func (s *rigSide) inject(t testing.TB, u int, from netip.AddrPort, d []byte) string {
	t.Helper()
	before := s.host.Drops()
	s.host.receive(s.ups[u], []Message{{Buf: slices.Clone(d), N: len(d), Addr: from}})
	why := ""
	for k, v := range s.host.Drops() {
		if v != before[k] {
			if why != "" || v != before[k]+1 {
				t.Errorf("one datagram counted as %s and %s by %d", why, k, v-before[k])
			}
			why = k
		}
	}
	return why
}

// oneOfEach lets two nodes talk and holds one datagram of each kind from a to b back, by kind. All are valid and unseen.
func oneOfEach(t testing.TB, r *rig) map[kind][]byte {
	t.Helper()
	sa, _ := r.establish(t)
	held := map[kind][]byte{}
	lane, err := sa.OpenLane(Interactive)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		if i%20 == 5 {
			if _, err := lane.WriteTo(make([]byte, 300), nil); err != nil {
				t.Fatal(err)
			}
		}
		if i == 250 { // no more padding: the numbers of what is held back shall stay in the replay window
			sa.startDone, r.b.bond.sess.startDone = true, true
			r.a.bond.paths[0].wantOpen = true
		}
		if i == 395 {
			r.a.bond.mu.Lock()
			now, at := r.a.host.now()
			r.a.bond.sayClose(now, at)
			r.a.bond.mu.Unlock()
		}
		r.a.step()
		for j, sock := range r.a.socks {
			for _, m := range sock.take() {
				k := kind(m.Buf[0] & 15)
				if _, have := held[k]; !have && i >= 240 {
					held[k] = slices.Clone(m.Buf[:m.N])
					continue
				}
				if k != kindClose {
					r.b.host.receive(r.b.ups[j], []Message{m})
				}
			}
		}
		r.b.turn()
		time.Sleep(time.Millisecond)
	}
	for k := kind(1); k < kindEnd; k++ {
		if held[k] == nil {
			t.Fatalf("no datagram of kind %d was sent", k)
		}
	}
	return held
}

func (r *rig) from(d []byte) netip.AddrPort { return r.a.socks[d[1]].local }

// TestBadDatagrams: what is not authentic, whole and of this version is dropped, counted under its reason, and changes
// nothing; the datagram it was made of is good.
func TestBadDatagrams(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 2, false)
		held := oneOfEach(t, r)
		other := testKey(9)
		shared, err := other.Shared(r.b.host.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		wrong := secret{shared: shared, local: other.Public(), peer: r.b.host.key.Public()}
		wrongKey := wrong.sessionAEAD(other.Public(), r.b.bond.epoch, r.b.bond.peerEpoch)

		for _, k := range slices.Sorted(maps.Keys(held)) {
			d := held[k]
			bad := func(name string, d []byte, want ...string) {
				t.Helper()
				for _, from := range []netip.AddrPort{r.from(d2(d)), stranger} {
					before := r.b.state()
					if got := r.b.inject(t, 0, from, d); !slices.Contains(want, got) {
						t.Fatalf("kind %d %s from %v: counted as %q, want %q", k, name, from, got, want)
					}
					if after := r.b.state(); after != before {
						t.Fatalf("kind %d %s from %v: state changed\nbefore\n%safter\n%s", k, name, from, before, after)
					}
				}
			}
			with := func(i int, v byte) []byte {
				c := slices.Clone(d)
				c[i] = v
				return c
			}
			for n := range len(d) {
				bad(fmt.Sprintf("cut to %d of %d bytes", n, len(d)), d[:n], "malformed", "bad_tag")
			}
			for bit := range 8 * len(d) {
				if bit > 8*headerSize && bit < 8*(len(d)-tagSize) && bit%13 != 0 && k != kindReport {
					continue
				}
				bad(fmt.Sprintf("with bit %d flipped", bit), with(bit/8, d[bit/8]^1<<(bit%8)), "malformed", "bad_tag", "unknown_bond")
			}
			bad("of version 0", with(0, byte(k)), "malformed")
			bad("of the version before", with(0, (wireVersion-1)<<4|byte(k)), "malformed")
			bad("of a later version", with(0, (wireVersion+1)<<4|byte(k)), "malformed")
			bad("of kind 0", with(0, wireVersion<<4), "malformed")
			bad("of an unknown kind", with(0, wireVersion<<4|byte(kindEnd)), "malformed")
			bad("on an impossible path", with(1, maxPaths), "malformed")
			bad("for another bond", with(2, d[2]^0x55), "unknown_bond")
			bad("with a byte more", append(slices.Clone(d), 0), "bad_tag", "malformed")
			bad("of the longest size", append(slices.Clone(d), make([]byte, maxDatagram-len(d))...), "bad_tag", "malformed")
			body := slices.Clone(d[:len(d)-tagSize])
			var tag tagger
			nonce := tag.session(d[1], uint64(uint24(d[6:])))
			aead := wrongKey
			if k == kindOpen {
				nonce = tag.open(binary.BigEndian.Uint64(d[headerSize:]), uint24(d[6:]))
				aead = wrong.openAEAD(other.Public())
			}
			bad("under another key", seal(aead, nonce, body), "bad_tag")
		}
		for _, k := range []kind{kindOpen, kindSource, kindRepair, kindReport, kindProbe, kindPadding, kindClose} {
			before := r.b.state()
			if got := r.b.inject(t, int(held[k][1]), r.from(held[k]), held[k]); got != "" {
				t.Errorf("good datagram of kind %d dropped as %s", k, got)
			}
			if k != kindOpen && r.b.state() == before {
				t.Errorf("good datagram of kind %d changed nothing: nothing was shown", k)
			}
		}
		if got := r.b.inject(t, 0, stranger, held[kindSource]); got != "no_session" {
			t.Errorf("datagram of a closed session counted as %q", got)
		}
	})
}

// d2 keeps a datagram's path inside the rig's, for its address.
func d2(d []byte) []byte {
	if len(d) < 2 || d[1] > 1 {
		return []byte{0, 0}
	}
	return d
}

// TestReplayedDatagrams: each datagram counts once, wherever its copy comes from.
func TestReplayedDatagrams(t *testing.T) {
	for _, learn := range []bool{false, true} {
		t.Run(fmt.Sprintf("learn=%v", learn), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, 2, learn)
				held := oneOfEach(t, r)
				for _, k := range []kind{kindOpen, kindSource, kindRepair, kindReport, kindProbe, kindPadding} {
					d := held[k]
					if got := r.b.inject(t, int(d[1]), r.from(d), d); got != "" {
						t.Fatalf("datagram of kind %d dropped as %s", k, got)
					}
					before := r.b.state()
					for _, from := range []netip.AddrPort{r.from(d), stranger} {
						if got := r.b.inject(t, int(d[1]), from, d); got != "replayed" {
							t.Errorf("copy of a datagram of kind %d from %v counted as %q", k, from, got)
						}
					}
					if after := r.b.state(); after != before {
						t.Errorf("copy of a datagram of kind %d changed state\nbefore\n%safter\n%s", k, before, after)
					}
				}
			})
		})
	}
}

// handshake makes an authentic handshake datagram from a.
func (s *rigSide) handshake(epoch, echo uint64, seq uint32) []byte {
	b := s.bond
	d := make([]byte, headerSize+openBodySize, maxDatagram)
	h := header{kind: kindOpen, bond: b.id, seq: seq & seqMask, aux: uint8(seq >> 24)}
	h.put(d)
	putOpen(d[headerSize:], epoch, echo)
	var tag tagger
	return seal(b.openSeal, tag.open(epoch, seq), d)
}

// TestOldHandshake: a handshake of an earlier life of the peer is refused; one of a later life makes keys, but ends no
// session until the peer has shown that it lives.
func TestOldHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 1, false)
		_, sb := r.establish(t)
		from := r.a.socks[0].local
		before := r.b.state()
		if got := r.b.inject(t, 0, from, r.a.handshake(r.b.bond.peerEpoch-1, r.b.bond.epoch, 7)); got != "replayed" {
			t.Errorf("handshake of an old epoch counted as %q", got)
		}
		if after := r.b.state(); after != before {
			t.Errorf("handshake of an old epoch changed state\nbefore\n%safter\n%s", before, after)
		}
		if got := r.b.inject(t, 0, from, r.a.handshake(r.b.bond.peerEpoch+1000, 0, 0)); got != "" {
			t.Errorf("handshake of a new epoch dropped as %s", got)
		}
		if got := r.b.inject(t, 0, from, r.a.handshake(r.b.bond.peerEpoch, 0, 5<<24)); got != "" {
			t.Errorf("a handshake whose number is over the 24 bits of a header dropped as %s", got)
		}
		if r.b.bond.sess != sb || r.b.bond.cand == nil {
			t.Error("a handshake that proves nothing ended the session, or made no keys")
		}
		select {
		case <-sb.Done():
			t.Error("a handshake that proves nothing ended the session")
		default:
		}
	})
}

// TestHandshakeFlood: copies of a handshake cost nothing but a check; a peer that floods us with its own gets an answer
// each openReplyInterval at the most, and no more paths than maxPaths.
func TestHandshakeFlood(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 1, true)
		b := r.b
		d := r.a.handshake(1000, 0, 0)
		answers := func() int {
			b.step()
			n := 0
			for _, m := range b.socks[0].take() {
				if kind(m.Buf[0]&15) == kindOpen {
					n++
				}
			}
			return n
		}
		time.Sleep(time.Second)
		b.inject(t, 0, stranger, d)
		_ = answers() // one, and b's own attempts
		b.bond.lastOpen = 1 << 60
		b.bond.lastReply = 0
		for range 5000 {
			if got := b.inject(t, 0, stranger, d); got != "replayed" {
				t.Fatalf("copy of a handshake counted as %q", got)
			}
		}
		if n := answers(); n != 0 {
			t.Errorf("%d answers to copies of a handshake", n)
		}
		n := 0
		for i := range 2000 { // more addresses than there are paths
			from := netip.AddrPortFrom(stranger.Addr(), uint16(1000+i%100))
			b.inject(t, 0, from, r.a.handshake(1000, 0, uint32(i+1)))
			n += answers()
			time.Sleep(time.Millisecond / 2)
		}
		if most := int(time.Second/openReplyInterval) + 1; n == 0 || n > most {
			t.Errorf("%d answers in a second, want 1 to %d", n, most)
		}
		if len(b.bond.paths) > maxPaths || b.bond.sess != nil {
			t.Errorf("%d paths, session %v", len(b.bond.paths), b.bond.sess)
		}
		// The peer itself still gets through.
		time.Sleep(learnedFor + time.Second)
		b.bond.lastOpen = 0
		r.a.bond.epoch = 2000
		r.establish(t)
	})
}

// TestGarbageCostsNothing: dropping what is not ours allocates nothing.
func TestGarbageCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 1, false)
		held := oneOfEach(t, r)
		forged := slices.Clone(held[kindSource])
		forged[len(forged)-1] ^= 1
		open := slices.Clone(held[kindOpen])
		open[len(open)-1] ^= 1
		other := slices.Clone(forged)
		other[3] ^= 1
		for name, d := range map[string][]byte{"noise": make([]byte, 200), "short": {1, 2, 3}, "forged": forged, "forged handshake": open, "other bond": other} {
			ms := []Message{{Buf: d, N: len(d), Addr: stranger}}
			if n := testing.AllocsPerRun(1000, func() { r.b.host.receive(r.b.ups[0], ms) }); n != 0 {
				t.Errorf("%s: %.0f allocations a datagram", name, n)
			}
		}
	})
}

// TestStrangerAddress: only an authentic datagram that is the newest of its path moves a peer, and never one whose
// addresses are configured.
func TestStrangerAddress(t *testing.T) {
	for _, learn := range []bool{false, true} {
		t.Run(fmt.Sprintf("learn=%v", learn), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, 1, learn)
				r.establish(t)
				for range 300 {
					r.a.turn()
					r.b.turn()
					time.Sleep(time.Millisecond)
				}
				p := r.b.bond.paths[0]
				home := p.remote
				if home != r.a.socks[0].local {
					t.Fatalf("b's path leads to %v", home)
				}
				var probes [][]byte
				for len(probes) < 3 {
					r.a.step()
					for _, m := range r.a.socks[0].take() {
						probes = append(probes, slices.Clone(m.Buf[:m.N]))
					}
					time.Sleep(10 * time.Millisecond)
				}
				r.b.inject(t, 0, home, probes[1])
				if got := r.b.inject(t, 0, stranger, probes[0]); got != "" || p.remote != home {
					t.Errorf("an older datagram from elsewhere: dropped as %q, path leads to %v", got, p.remote)
				}
				r.b.inject(t, 0, stranger, probes[2])
				switch {
				case !learn && (p.remote != home || len(r.b.bond.paths) != 1):
					t.Errorf("a configured peer was moved to %v", p.remote)
				case learn && (p.remote != stranger || p.validated || len(r.b.bond.paths) != 1):
					t.Errorf("a peer whose NAT changed is at %v, validated %v, %d paths", p.remote, p.validated, len(r.b.bond.paths))
				}
				if learn { // the answer to a probe of the old address says nothing of the new one
					_, at := r.b.host.now()
					p.onEcho(at, uint32(p.next-1))
					if p.validated {
						t.Error("an answer to a probe of the old address validated the new one")
					}
					r.b.step()
					time.Sleep(time.Second)
					r.b.step()
					p.onEcho(at, uint32(p.next-1))
					if !p.validated {
						t.Error("an answer to a probe of the new address did not validate it")
					}
				}
			})
		})
	}
}
