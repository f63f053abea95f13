package bond

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/identity"
)

// testSeed is printed by failing tests; TEST_SEED sets it.
func testSeed(t testing.TB) uint64 {
	seed := uint64(1)
	if v := os.Getenv("TEST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

func testKey(i byte) identity.PrivateKey { return identity.FromSeed([32]byte{i}) }

// side is one node of a test.
type side struct {
	key  identity.PrivateKey
	host *Host
	bond *Bond
}

// world is two nodes joined by links over an in-memory network. It must be made inside a synctest bubble.
type world struct {
	t     testing.TB
	net   *wan.Network
	links []*wan.Link
	names []string
	used  int   // links that the nodes use
	a, b  *side // a has the lesser key: it opens the lanes
	cfg   worldConfig
}

func addrs(i int) (a, b netip.AddrPort) {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), 4500),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 2}), 4500)
}

func newWorld(t testing.TB, seed uint64, links ...wan.Impairment) *world {
	return newWorldOf(t, seed, worldConfig{links: bothWays(links...)})
}

// worldLink is what a link does to each direction; downloads go from b to a.
type worldLink struct{ aToB, bToA wan.Impairment }

func bothWays(imps ...wan.Impairment) []worldLink {
	var ls []worldLink
	for _, imp := range imps {
		ls = append(ls, worldLink{imp, imp})
	}
	return ls
}

// worldConfig is what a world may have beside links.
type worldConfig struct {
	links          []worldLink
	later          int // so many of the links, the last ones, are used only after join
	clockA, clockB skew

	mtu   int                                    // of the uplinks; 0: 1500
	learn bool                                   // b is told no addresses and learns a's
	wrap  func(isA bool, i int, s Socket) Socket // around the uplinks' sockets
	quic  func(isA bool, c *quic.Config)         // changes the configuration of QUIC connections
}

// skew is how a node's clock differs from the world's.
type skew struct {
	ahead    time.Duration
	driftPPM float64
}

func (k skew) clock() func() time.Time {
	start := time.Now()
	return func() time.Time {
		run := time.Since(start)
		return start.Add(run + k.ahead + time.Duration(float64(run)*k.driftPPM/1e6))
	}
}

func newWorldOf(t testing.TB, seed uint64, cfg worldConfig) *world {
	w := &world{t: t, net: wan.NewNetwork(seed), cfg: cfg}
	ka, kb := testKey(1), testKey(2)
	if ka.Public().Compare(kb.Public()) > 0 {
		ka, kb = kb, ka
	}
	for _, l := range cfg.links {
		w.connect(l)
	}
	w.used = len(w.links) - cfg.later
	w.a = w.start(ka, kb.Public(), true, cfg.clockA)
	w.b = w.start(kb, ka.Public(), false, cfg.clockB)
	return w
}

// join lets both nodes use the next link, b some time after a; leave takes a link from them.
func (w *world) join(apart time.Duration) error {
	i := w.used
	w.used++
	for _, s := range []*side{w.a, w.b} {
		c, err := w.uplink(s.host, i, s == w.a)
		if err != nil {
			return err
		}
		if err := s.bond.AddPath(c); err != nil {
			return err
		}
		time.Sleep(apart)
	}
	return nil
}

func (w *world) leave(i int, apart time.Duration) error {
	for _, s := range []*side{w.a, w.b} {
		if err := s.bond.RemovePath(w.names[i]); err != nil {
			return err
		}
		if err := s.host.RemoveUplink(w.names[i]); err != nil {
			return err
		}
		time.Sleep(apart)
	}
	return nil
}

// uplink opens a host's end of a link.
func (w *world) uplink(h *Host, i int, isA bool) (PathConfig, error) {
	a, b := addrs(i)
	if !isA {
		a, b = b, a
	}
	c, err := w.net.Listen(a)
	if err != nil {
		return PathConfig{}, err
	}
	sock := NewPacketSocket(c, a)
	if w.cfg.wrap != nil {
		sock = w.cfg.wrap(isA, i, sock)
	}
	return PathConfig{Name: w.names[i], Uplink: w.names[i], Remote: b},
		h.AddUplink(Uplink{Name: w.names[i], Socket: sock, MTU: w.cfg.mtu})
}

// connect adds a link to the network; hosts that run already do not use it by themselves.
func (w *world) connect(l worldLink) {
	i := len(w.links)
	a, b := addrs(i)
	link, err := w.net.Connect(a.Addr(), b.Addr(), l.aToB, l.bToA)
	if err != nil {
		w.t.Fatal(err)
	}
	w.links = append(w.links, link)
	w.names = append(w.names, fmt.Sprintf("p%d", i))
}

func (w *world) start(key identity.PrivateKey, peer identity.PublicKey, isA bool, k skew) *side {
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	h, err := NewHost(HostConfig{Key: key, Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: level}))})
	if err != nil {
		w.t.Fatal(err)
	}
	if k != (skew{}) {
		h.clock = k.clock() // the base stays the world's: the nodes' time stamps differ like their clocks
	}
	cfg := PeerConfig{Name: "peer", Key: peer}
	for i := range w.used {
		c, err := w.uplink(h, i, isA)
		if err != nil {
			w.t.Fatal(err)
		}
		if w.cfg.learn && !isA {
			continue
		}
		cfg.Paths = append(cfg.Paths, c)
	}
	bd, err := h.Bond(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return &side{key: key, host: h, bond: bd}
}

func (w *world) close() {
	w.a.host.Close()
	w.b.host.Close()
}

// quicConfig keeps to packets of 1280 bytes, or the lane's largest: with larger ones and no MTU discovery quic-go's pacer thinks in the smaller
// size and its run loop spins until the clock has moved, which it never does in virtual time.
func quicConfig(l *Lane) *quic.Config {
	size := 1280
	if l != nil {
		size = min(size, l.MaxPacketSize())
	}
	return &quic.Config{
		InitialStreamReceiveWindow: 64 << 20, MaxStreamReceiveWindow: 64 << 20,
		InitialConnectionReceiveWindow: 128 << 20, MaxConnectionReceiveWindow: 128 << 20,
		DisablePathMTUDiscovery: true, InitialPacketSize: uint16(size), MaxIdleTimeout: 30 * time.Second,
	}
}

// lanePair is one lane with a QUIC connection over it.
type lanePair struct {
	la, lb *Lane
	ca, cb *quic.Conn
	ta, tb *quic.Transport
}

func (w *world) sessions() (*Session, *Session) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	sa, err := w.a.bond.AcceptSession(ctx)
	if err != nil {
		w.t.Fatal("session of a:", err)
	}
	sb, err := w.b.bond.AcceptSession(ctx)
	if err != nil {
		w.t.Fatal("session of b:", err)
	}
	return sa, sb
}

func (w *world) quicConfig(l *Lane, isA bool) *quic.Config {
	c := quicConfig(l)
	if w.cfg.quic != nil {
		w.cfg.quic(isA, c)
	}
	return c
}

// rawLane opens a lane without QUIC on it.
func (w *world) rawLane(sa, sb *Session, c Class) (la, lb *Lane) {
	w.t.Helper()
	la, err := sa.OpenLane(c)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := la.WriteTo(make([]byte, 100), nil); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	if lb, err = sb.AcceptLane(ctx); err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := lb.ReadFrom(make([]byte, maxPacket)); err != nil {
		w.t.Fatal(err)
	}
	return la, lb
}

func (w *world) lane(sa, sb *Session, c Class) *lanePair {
	t := w.t
	la, err := sa.OpenLane(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &lanePair{la: la}
	clientTLS, _, err := w.a.key.TLS(w.b.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, serverTLS, err := w.b.key.TLS(w.a.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		lb, err := sb.AcceptLane(t.Context())
		if err != nil {
			done <- err
			return
		}
		p.lb, p.tb = lb, &quic.Transport{Conn: lb}
		ln, err := p.tb.Listen(serverTLS, w.quicConfig(lb, false))
		if err == nil {
			p.cb, err = ln.Accept(t.Context())
		}
		done <- err
	}()
	p.ta = &quic.Transport{Conn: la}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if p.ca, err = p.ta.Dial(ctx, la.RemoteAddr(), clientTLS, w.quicConfig(la, true)); err != nil {
		t.Fatal("dial:", err)
	}
	if err := <-done; err != nil {
		t.Fatal("accept:", err)
	}
	la.SetConn(p.ca)
	p.lb.SetConn(p.cb)
	return p
}

func (p *lanePair) close() {
	p.ca.CloseWithError(0, "")
	p.cb.CloseWithError(0, "")
	time.Sleep(500 * time.Millisecond)
	p.la.Close()
	p.lb.Close()
	p.ta.Close()
	p.tb.Close()
}

// transferResult is what a transfer over one stream achieved.
type transferResult struct {
	bytes   int64
	elapsed time.Duration
	first   time.Duration
	stall   time.Duration
	perSec  []int64
	ok      bool
}

func (r transferResult) mbit() float64 { return float64(r.bytes) * 8 / r.elapsed.Seconds() / 1e6 }

// transfer sends incompressible bytes from b to a (as a download) for d and checks them.
func (p *lanePair) transfer(t testing.TB, seed uint64, d time.Duration) transferResult {
	var res transferResult
	start := time.Now()
	sent := make(chan [32]byte, 1)
	go func() {
		s, err := p.cb.OpenUniStreamSync(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		var key [32]byte
		key[0] = byte(seed)
		src := rand.NewChaCha8(key)
		h := sha256.New()
		buf := make([]byte, 32<<10)
		for time.Since(start) < d {
			_, _ = src.Read(buf)
			h.Write(buf)
			if _, err := s.Write(buf); err != nil {
				t.Error("send:", err)
				return
			}
		}
		s.Close()
		sent <- [32]byte(h.Sum(nil))
	}()
	s, err := p.ca.AcceptUniStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	buf := make([]byte, 64<<10)
	last := time.Now()
	for {
		n, err := s.Read(buf)
		now := time.Now()
		if res.bytes == 0 {
			res.first = now.Sub(start)
		} else {
			res.stall = max(res.stall, now.Sub(last))
		}
		last = now
		h.Write(buf[:n])
		res.bytes += int64(n)
		sec := int(now.Sub(start) / time.Second)
		for len(res.perSec) <= sec {
			res.perSec = append(res.perSec, 0)
		}
		res.perSec[sec] += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal("receive:", err)
		}
	}
	res.elapsed = time.Since(start)
	res.ok = [32]byte(h.Sum(nil)) == <-sent
	return res
}

// inBubble runs f in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func scenario(t testing.TB, name string) ([]wan.Impairment, float64) {
	sc, err := wan.ScenarioNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	var imps []wan.Impairment
	for _, c := range sc.Carriers {
		imps = append(imps, c.Impairment)
	}
	return imps, wan.Limit(imps...)
}
