package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"
)

// ringReplies is more than the ring for replies holds (REPLY_RING).
const ringReplies = 1 << 14

// TestReplies: an answer is taken once, from the right reflector, with the right
// tag; it is a sign of life and reaches user space.
func TestReplies(t *testing.T) {
	requireRoot(t)
	paths, err := NewPaths()
	must(t, err)
	closeAtEnd(t, paths)
	c := loadTestCarrier(t, CarrierConfig{Paths: paths})
	setSenders := func(session uint32) {
		t.Helper()
		must(t, c.SetSenders([]Sender{
			{Reflector: reflector4, LocalPort: senderPort, Path: 5, Session: session, Key: testKey},
			{Reflector: reflector6, LocalPort: senderPort, Path: 6, Plain: true},
		}))
	}
	setSenders(9)
	must(t, c.SetReflector(Reflector{SenderPorts: PortRange{From: senderPort, To: senderPort + 10}}))
	replies, err := c.Replies()
	must(t, err)
	defer replies.Close()

	// The reflector is another host: the same program, told to reflect.
	peer := loadTestCarrier(t, CarrierConfig{})
	must(t, peer.SetReflector(Reflector{Port: stampPort, Plain: true}), peer.SetSessions(map[uint32]Session{9: {Key: testKey}}))
	answer := func(src, dst netip.AddrPort, payload []byte) []byte {
		t.Helper()
		v, _, out := probeVerdict(t, peer, datagram(src, dst, payload))
		if v != ProbeReflected {
			t.Fatalf("not reflected: %v", v)
		}
		return out
	}
	send := func(frame []byte) {
		t.Helper()
		before, err := c.ProbeVerdicts()
		must(t, err)
		code, _, _ := runRaw(t, c.probeEgress, frame)
		after, err := c.ProbeVerdicts()
		must(t, err)
		if code != -1 || after[ProbeSent] != before[ProbeSent]+1 {
			t.Fatalf("code %d, %v, then %v", code, before, after)
		}
	}
	at := c.NTP(Monotonic())
	probe := func(n uint32) []byte { return appendProbe(nil, n, at+uint64(n), 9, testKey) }
	take := func(name string, frame []byte, want ProbeVerdict) {
		t.Helper()
		if v, code, _ := probeVerdict(t, c, frame); v != want || want != numProbeVerdicts && code != xdpDrop {
			t.Fatalf("%s: %v, code %d; want %v", name, v, code, want)
		}
	}
	sent := Monotonic()
	send(datagram(asker4, reflector4, probe(1)))
	first := answer(asker4, reflector4, probe(1))
	take("answer", first, ProbeReply)
	took := Monotonic()
	take("again", first, ProbeReplyLate)
	take("never sent", answer(asker4, reflector4, probe(2)), ProbeReplyLate)
	bad := answer(asker4, reflector4, probe(3))
	bad[len(bad)-1]++
	take("bad tag", bad, ProbeReplyBad)
	take("request instead of an answer", datagram(reflector4, asker4, probe(4)), ProbeReplyBad)
	take("plain", answer(asker4, reflector4, stampRequest(5, 1, 0, 0)), ProbeReplyBad)
	take("from elsewhere", answer(asker4, ap("198.51.100.2:862"), probe(6)), numProbeVerdicts)
	take("to another port", answer(ap("192.0.2.1:4601"), reflector4, probe(7)), numProbeVerdicts)
	take("to a port out of range", answer(ap("192.0.2.1:4700"), reflector4, probe(8)), numProbeVerdicts)

	r, err := replies.Read()
	must(t, err)
	if r.Path != 5 || r.Sequence != 1 || r.Reflected != 0 || r.TTLThere != 64 || r.TTLBack != 255 || r.SentNTP != at+1 ||
		r.Sent < sent || r.Received < r.Sent || r.Received > took || r.PeerTx < r.PeerRx || r.PeerTime() > took-sent {
		t.Errorf("reply %+v, sent %v, took %v", r, sent, took)
	}
	if d := ntpDuration(r.PeerRx - c.NTP(r.Sent)); d < -time.Millisecond || d > took-sent+time.Millisecond {
		t.Errorf("the reflector's clock is %v off", d)
	}
	replies.SetDeadline(time.Now())
	if r, err := replies.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more reply: %+v, %v", r, err)
	}
	l, err := paths.Live(5)
	must(t, err)
	if l.Reply != r.Received || l.Sent != r.Sent {
		t.Errorf("live %+v, reply %+v", l, r)
	}

	// Probes 5 ms apart over a round trip of 2.5 s: all of them are under way at once.
	const flying = 500
	for n := range uint32(flying) {
		send(datagram(asker4, reflector4, probe(20+n)))
	}
	replies.SetDeadline(time.Now().Add(waitLimit))
	for n := range uint32(flying) {
		take("one of many under way", answer(asker4, reflector4, probe(20+n)), ProbeReply)
		if r, err := replies.Read(); err != nil || r.Sequence != 20+n || r.Sent == 0 {
			t.Fatalf("reply %+v, %v, want number %d", r, err, 20+n)
		}
	}

	// The third of those without an answer is missed.
	left := map[uint32]time.Duration{0: 0}
	missed := func(what string, want uint32) {
		t.Helper()
		if l, err := paths.Live(5); err != nil || l.Missed != left[want] {
			t.Fatalf("%s: missed %v, %v, want that of number %d; they left at %v", what, l.Missed, err, want, left)
		}
	}
	missed("all answered", 0)
	for n := uint32(520); n <= 525; n++ {
		send(datagram(asker4, reflector4, probe(n)))
		l, err := paths.Live(5)
		must(t, err)
		left[n] = l.Sent
		missed(fmt.Sprintf("%d under way", n), map[bool]uint32{true: 522}[n >= 522])
	}
	for _, tt := range []struct{ n, missed uint32 }{{521, 524}, {520, 524}, {523, 0}, {525, 0}} {
		take("out of order", answer(asker4, reflector4, probe(tt.n)), ProbeReply)
		missed(fmt.Sprintf("%d answered", tt.n), tt.missed)
		if _, err := replies.Read(); err != nil {
			t.Fatal(err)
		}
	}

	// Another session begins anew with its numbers: what was missed in the one before is not missed in it.
	for n := uint32(1000); n < 1006; n++ {
		send(datagram(asker4, reflector4, probe(n)))
	}
	setSenders(5)
	setSenders(9)
	for n := uint32(1000); n < 1003; n++ {
		send(datagram(asker4, reflector4, probe(n)))
		take("same number in another session", answer(asker4, reflector4, probe(n)), ProbeReply)
		missed(fmt.Sprintf("%d answered in another session", n), 0)
		if _, err := replies.Read(); err != nil {
			t.Fatal(err)
		}
	}

	// A foreign reflector; nothing watches egress.
	for _, n := range []uint32{10, 11} {
		take("plain answer", answer(asker6, reflector6, stampRequest(n, 1, 2, 0)), ProbeReply)
	}
	take("old", answer(asker6, reflector6, stampRequest(10, 1, 2, 0)), ProbeReplyLate)
	take("short", datagram(reflector6, asker6, make([]byte, 43)), numProbeVerdicts)
	long := datagram(reflector6, asker6, make([]byte, 50))
	long[udpOffset(long)+5]++
	take("longer than its packet", long, ProbeMalformed)
	replies.SetDeadline(time.Now().Add(time.Second))
	for _, n := range []uint32{10, 11} {
		if r, err := replies.Read(); err != nil || r.Path != 6 || r.Sequence != n || r.Reflected != n || r.Sent != 0 || r.SentNTP != 1<<32|2 {
			t.Errorf("plain reply %+v, %v", r, err)
		}
	}

	// With nobody who reads, the ring fills up; what comes then is counted and lost.
	full := uint32(0)
	for n := uint32(2000); full == 0; n++ {
		if n > 2000+ringReplies {
			t.Fatalf("%d answers have room", ringReplies)
		}
		send(datagram(asker4, reflector4, probe(n)))
		v, code, _ := probeVerdict(t, c, answer(asker4, reflector4, probe(n)))
		if code != xdpDrop || v != ProbeReply && v != ProbeRingFull {
			t.Fatalf("answer %d to a reader that is slow: %v, code %d", n, v, code)
		}
		if v == ProbeRingFull {
			full = n
		}
	}
	replies.SetDeadline(time.Now().Add(waitLimit))
	for n := uint32(2000); n < full; n++ {
		if r, err := replies.Read(); err != nil || r.Sequence != n {
			t.Fatalf("reply %+v, %v, want number %d", r, err, n)
		}
	}
	send(datagram(asker4, reflector4, probe(full+1)))
	take("there is room again", answer(asker4, reflector4, probe(full+1)), ProbeReply)

	must(t, c.SetSenders(nil))
	take("no senders", answer(asker6, reflector6, stampRequest(12, 1, 2, 0)), numProbeVerdicts)
}
