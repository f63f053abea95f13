package bond

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// benchPacket is the largest lane packet over 1500-byte links.
const benchPacket = 1500 - 28 - Overhead

func BenchmarkSeal(b *testing.B) {
	r := newRig(b, 1, false)
	s, _ := r.establish(b)
	buf := make([]byte, headerSize+benchPacket, maxDatagram)
	var tag tagger
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seal(s.sealAEAD, tag.session(0, seq), buf)
		seq++
	}
}

func BenchmarkOpen(b *testing.B) {
	r := newRig(b, 1, false)
	sa, sb := r.establish(b)
	var tag tagger
	d := seal(sa.sealAEAD, tag.session(0, 7), make([]byte, headerSize+benchPacket, maxDatagram))
	buf := make([]byte, len(d))
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, d)
		if !verify(sb.verifyAEAD, tag.session(0, 7), buf) {
			b.Fatal("not authentic")
		}
	}
}

// usableRig is a rig whose paths are up, with a lane of the class from a to b.
func usableRig(t testing.TB, paths int, c Class) (r *rig, sa *Session, la *Lane) {
	t.Helper()
	r = newRig(t, paths, false)
	sa, sb := r.establish(t)
	for _, s := range []*Session{sa, sb} {
		_, at := s.b.host.now()
		s.startDone = true // no padding
		for i, p := range s.b.paths {
			s.setState(at, p, PathUp)
			p.onRTT(time.Duration(100+10*i) * time.Millisecond)
			p.owdRel = int64(5000 * i)
			p.search.size = p.search.top // as after a search
		}
	}
	la, err := sa.OpenLane(c)
	if err != nil {
		t.Fatal(err)
	}
	return r, sa, la
}

func BenchmarkPick(b *testing.B) {
	for _, paths := range []int{1, 3, 9} {
		for _, how := range []struct {
			name string
			mode pickMode
		}{{"earliest", pickEarliest}, {"spread", pickSpread}, {"again", pickAgain}} {
			b.Run(fmt.Sprintf("paths=%d/mode=%s", paths, how.name), func(b *testing.B) {
				_, s, _ := usableRig(b, paths, Bulk)
				_, at := s.b.host.now()
				at += us(time.Second) // the pacers are free
				b.ReportAllocs()
				for b.Loop() {
					if p, _ := s.pick(at, Interactive, how.mode, benchPacket, 0); p == nil {
						b.Fatal("no path")
					}
				}
			})
		}
	}
}

// acknowledge forgets what is on the way, as a report of all of it would.
func acknowledge(s *Session, l *Lane) {
	for _, p := range s.b.paths {
		for ; p.low < p.next; p.low++ {
			if r := p.rec(p.low); !r.resolved {
				p.resolve(r)
			}
		}
	}
	r := laneReport{cum: uint32(l.tx.next), high: uint32(l.tx.next)}
	l.tx.confirm(&r)
}

// BenchmarkLaneSend is a packet's way out: WriteTo, scheduler, header, tag and the copy into the socket.
func BenchmarkLaneSend(b *testing.B) {
	for _, c := range []Class{Interactive, Bulk} {
		b.Run("class="+c.String(), func(b *testing.B) {
			r, s, l := usableRig(b, 3, c)
			now, at := s.b.host.now()
			p := make([]byte, benchPacket)
			b.SetBytes(benchPacket)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.WriteTo(p, nil); err != nil {
					b.Fatal(err)
				}
				now, at = now.Add(20*time.Millisecond), at+us(20*time.Millisecond)
				s.fill(now, at)
				s.b.flush()
				for _, sock := range r.a.socks {
					sock.take()
				}
				acknowledge(s, l)
			}
			if l.tx.sent < uint64(b.N) {
				b.Fatalf("%d of %d packets were sent", l.tx.sent, b.N)
			}
		})
	}
}

// BenchmarkLaneHandOver is a packet's way from its path to QUIC: slot, release and ReadFrom.
func BenchmarkLaneHandOver(b *testing.B) {
	_, s, l := usableRig(b, 1, Bulk)
	p, buf := make([]byte, benchPacket), make([]byte, maxPacket)
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		_, at := s.b.host.now()
		l.rx.source(at, seq, p, at)
		seq++
		if n, _, err := l.ReadFrom(buf); n != benchPacket || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkReport is a report of three paths and a lane with 40 holes, made and read.
func BenchmarkReport(b *testing.B) {
	_, s, l := usableRig(b, 3, Bulk)
	for i := range uint64(2000) {
		if i%50 != 17 {
			l.rx.source(1, i, make([]byte, 100), 1)
		}
	}
	var rxs []*pathRx
	for i := range uint8(3) {
		rx := newPathRx(i)
		for seq := range uint64(700) {
			if seq%20 != 3 {
				rx.accept(stamp(seq), seq, 100, 1500, true)
			}
		}
		rxs = append(rxs, rx)
	}
	build := func() []byte {
		r := &s.scratch
		r.reset()
		s.bitmap = s.bitmap[:0]
		for _, rx := range rxs {
			var pr pathReport
			pr, s.bitmap = rx.section(s.bitmap)
			r.paths = append(r.paths, pr)
		}
		var lr laneReport
		lr, r.ranges = l.rx.section(1, r.ranges)
		r.lanes = append(r.lanes, lr)
		s.body = r.append(s.body[:0], 1400)
		return s.body
	}
	b.Run("build", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			build()
		}
		b.ReportMetric(float64(len(s.body)), "B/report")
	})
	b.Run("parse", func(b *testing.B) {
		body := build()
		b.ReportAllocs()
		for b.Loop() {
			if err := s.in.parse(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLoopback is one stream on a bulk lane over three paths of real UDP sockets on the loopback interface, without
// emulation: the baseline for speed per core. Both ends run here.
func BenchmarkLoopback(b *testing.B) {
	const paths, chunk = 3, 1 << 20
	if runtime.GOOS != "linux" {
		b.Skip("the uplink socket is Linux's")
	}
	ka, kb := testKey(1), testKey(2)
	if ka.Public().Compare(kb.Public()) > 0 {
		ka, kb = kb, ka
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var hosts [2]*Host
	var locals [2][paths]netip.AddrPort
	for i, key := range []HostConfig{{Key: ka, Log: log}, {Key: kb, Log: log}} {
		h, err := NewHost(key)
		if err != nil {
			b.Fatal(err)
		}
		defer h.Close()
		hosts[i] = h
		for j := range paths {
			sock, err := ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"), "")
			if err != nil {
				b.Fatal(err)
			}
			locals[i][j] = sock.LocalAddr()
			if err := h.AddUplink(Uplink{Name: fmt.Sprint(j), Socket: sock}); err != nil {
				b.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	var ses [2]*Session
	for i, peer := range []PeerConfig{{Name: "b", Key: kb.Public()}, {Name: "a", Key: ka.Public()}} {
		for j := range paths {
			peer.Paths = append(peer.Paths, PathConfig{Name: fmt.Sprint(j), Uplink: fmt.Sprint(j), Remote: locals[1-i][j]})
		}
		bond, err := hosts[i].Bond(peer)
		if err != nil {
			b.Fatal(err)
		}
		defer bond.Close()
	}
	for i, h := range hosts {
		h.mu.Lock()
		for _, bond := range h.bonds {
			h.mu.Unlock()
			s, err := bond.AcceptSession(ctx)
			if err != nil {
				b.Fatal(err)
			}
			ses[i] = s
			h.mu.Lock()
		}
		h.mu.Unlock()
	}
	<-ses[0].Started()
	la, err := ses[0].OpenLane(Bulk)
	if err != nil {
		b.Fatal(err)
	}
	clientTLS, _, err := ka.TLS(kb.Public())
	if err != nil {
		b.Fatal(err)
	}
	_, serverTLS, err := kb.TLS(ka.Public())
	if err != nil {
		b.Fatal(err)
	}
	conf := quicConfig(la)
	conf.InitialPacketSize = uint16(la.MaxPacketSize())
	received := make(chan int64, 1)
	failed := make(chan error, 1)
	go func() {
		lb, err := ses[1].AcceptLane(ctx)
		if err != nil {
			failed <- err
			return
		}
		ln, err := (&quic.Transport{Conn: lb}).Listen(serverTLS, conf)
		if err != nil {
			failed <- err
			return
		}
		c, err := ln.Accept(ctx)
		if err != nil {
			failed <- err
			return
		}
		lb.SetConn(c)
		for {
			s, err := c.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, s)
			if err != nil {
				return
			}
			received <- n
		}
	}()
	c, err := (&quic.Transport{Conn: la}).Dial(ctx, la.RemoteAddr(), clientTLS, conf)
	if err != nil {
		b.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	la.SetConn(c)
	buf := make([]byte, chunk)
	// send writes chunks while more says so, and waits until all have arrived.
	send := func(more func() bool) (n int64) {
		s, err := c.OpenUniStreamSync(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for more() {
			if _, err := s.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
		select {
		case n = <-received:
		case err := <-failed:
			b.Fatal(err)
		case <-ctx.Done():
			b.Fatal("not all arrived: ", ctx.Err())
		}
		return n
	}
	warm := time.Now()
	send(func() bool { return time.Since(warm) < 2*time.Second })
	sent := func() uint64 {
		la.s.b.mu.Lock()
		defer la.s.b.mu.Unlock()
		return la.tx.sent
	}
	before := sent()
	b.SetBytes(chunk)
	b.ReportAllocs()
	start := time.Now()
	n := send(b.Loop)
	took := time.Since(start)
	b.ReportMetric(float64(n)*8/took.Seconds()/1e6, "Mbit/s")
	b.ReportMetric(float64(took.Nanoseconds())/float64(sent()-before), "ns/pkt")
}
