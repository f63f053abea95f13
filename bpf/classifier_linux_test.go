package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const testMark, testMask = 0x4c00, 0xff00

// rehearsal is for test runs: no sockets are assigned.
var rehearsal = ClassifierConfig{Config: Config{Mark: testMark, Mask: testMask, rehearsal: 1}}

func loadTestReturn(t testing.TB) *Program {
	t.Helper()
	requireRoot(t)
	p, err := LoadReturn(Config{Mark: testMark, Mask: testMask, rehearsal: 1})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	return p
}

func loadTestClassifier(t testing.TB, cfg ClassifierConfig) *Classifier {
	t.Helper()
	requireRoot(t)
	if cfg.Mark == 0 {
		cfg.Mark, cfg.Mask = testMark, testMask
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = 4096
	}
	c, err := LoadClassifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

func closeAtEnd(t testing.TB, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// skbContext is the beginning of struct __sk_buff.
type skbContext struct {
	Len, PktType, Mark uint32
	Rest               [45]uint32
}

// run shows the program one frame and returns the verdict it counted. It checks
// what comes with it: return code, mark, and that the frame is untouched.
func run(t testing.TB, p *Program, frame []byte) Verdict {
	t.Helper()
	const markBefore = 0xabcd1234
	before, err := p.Verdicts()
	if err != nil {
		t.Fatal(err)
	}
	opts := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1,
		Context: &skbContext{Mark: markBefore}, ContextOut: &skbContext{},
	}
	code, err := p.ether.Run(&opts)
	if err != nil {
		t.Fatalf("run %x: %v", frame, err)
	}
	after, err := p.Verdicts()
	if err != nil {
		t.Fatal(err)
	}
	verdict := numVerdicts
	for v := range after {
		switch after[v] - before[v] {
		case 0:
		case 1:
			if verdict != numVerdicts {
				t.Fatalf("%x counted as %v and %v", frame, verdict, Verdict(v))
			}
			verdict = Verdict(v)
		default:
			t.Fatalf("%x counted %d times as %v", frame, after[v]-before[v], Verdict(v))
		}
	}
	if verdict == numVerdicts {
		t.Fatalf("%x not counted", frame)
	}
	wantCode, wantMark := int32(-1), uint32(markBefore) // TC_ACT_UNSPEC: on to the next program
	switch verdict {
	case Captured, CapturedNew:
		wantCode, wantMark = 0, markBefore&^testMask|testMark
	case Denied, DeniedUnparsed, NoPath:
		wantCode = 2 // TC_ACT_SHOT
	}
	if mark := opts.ContextOut.(*skbContext).Mark; int32(code) != wantCode || mark != wantMark {
		t.Errorf("%v: code %d, mark %#x; want %d, %#x", verdict, int32(code), mark, wantCode, wantMark)
	}
	if !bytes.Equal(opts.DataOut[:len(frame)], frame) {
		t.Errorf("%v: frame changed to %x from %x", verdict, opts.DataOut, frame)
	}
	return verdict
}

func listenTCP(t testing.TB, network, addr string) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var testSet = map[netip.Prefix]Action{
	netip.MustParsePrefix("10.0.0.0/8"):         Capture,
	netip.MustParsePrefix("10.1.0.0/16"):        Pass,
	netip.MustParsePrefix("10.1.1.0/24"):        Capture,
	netip.MustParsePrefix("10.2.0.0/16"):        Drain,
	netip.MustParsePrefix("2001:db8::/32"):      Capture,
	netip.MustParsePrefix("2001:db8:1::/48"):    Pass,
	netip.MustParsePrefix("2001:db8:1:1::/64"):  Capture,
	netip.MustParsePrefix("2001:db8:2::/48"):    Drain,
	netip.MustParsePrefix("127.0.0.1/32"):       Capture,
	netip.MustParsePrefix("::1/128"):            Capture,
	netip.MustParsePrefix("fd00:ffff::/32"):     Pass,
	netip.MustParsePrefix("192.0.2.128/25"):     Pass,
	netip.MustParsePrefix("198.51.100.255/32"):  Drain,
	netip.MustParsePrefix("2001:db8:ffff::/64"): Pass,
}

var (
	client4, origin4 = ap("192.0.2.1:40000"), ap("10.9.9.9:443")
	client6, origin6 = ap("[fd00::1]:40000"), ap("[2001:db8:9::9]:443")
)

// frames are named packets with the verdict of the parser, or CapturedNew.
func frames() map[string]struct {
	frame []byte
	want  Verdict
} {
	set := map[string]struct {
		frame []byte
		want  Verdict
	}{}
	add := func(name string, want Verdict, frame []byte, change ...func([]byte)) {
		for _, f := range change {
			f(frame)
		}
		set[name] = struct {
			frame []byte
			want  Verdict
		}{frame, want}
	}
	at := func(off int, b ...byte) func([]byte) { return func(f []byte) { copy(f[off:], b) } }
	ip := func(off int, b ...byte) func([]byte) { return at(etherLen+off, b...) }
	v4 := func() []byte { return packet(client4, origin4, flagSYN) }
	v6 := func(exts ...extHeader) []byte { return packet(client6, origin6, flagSYN, exts...) }

	add("v4 syn", CapturedNew, v4())
	add("v4 data", CapturedNew, packet(client4, origin4, flagACK))
	add("v4 answer", Unasked, packet(client4, origin4, flagSYN|flagACK))
	add("v4 pass", Excluded, packet(client4, ap("10.1.2.3:443"), flagSYN))
	add("v4 captured inside pass", CapturedNew, packet(client4, ap("10.1.1.3:443"), flagSYN))
	add("v4 drain", Excluded, packet(client4, ap("10.2.1.3:443"), flagSYN))
	add("v4 elsewhere", NotCaptured, packet(client4, ap("11.0.0.1:443"), flagSYN))
	add("v4 don't fragment", CapturedNew, v4(), ip(6, 0x40))
	add("v4 first fragment", Fragment, v4(), ip(6, 0x20))
	add("v4 later fragment", Fragment, v4(), ip(7, 2))
	add("v4 fragment over the TCP header", Unparsed, v4(), ip(7, 1))
	add("v4 loose source route", Unparsed, append(v4(), make([]byte, 4)...), ip(0, 0x46), ip(3, 44), ip(20, 131, 3, 4, 0), ip(24+12, 0x50))
	add("v4 strict source route", Unparsed, append(v4(), make([]byte, 4)...), ip(0, 0x46), ip(3, 44), ip(20, 1, 137, 3, 4), ip(24+12, 0x50))
	add("v4 truncated options", Unparsed, v4()[:etherLen+38], ip(0, 0x4f))
	add("v4 truncated udp", Unparsed, udp(v4())[:etherLen+27])
	add("v4 sctp", NotTCP, v4(), ip(9, protoSCTP))
	add("v4 truncated sctp", Unparsed, v4()[:etherLen+31], ip(9, protoSCTP))
	add("v4 udp", NotTCP, udp(v4()))
	add("v4 icmp", NotTCP, v4(), ip(9, 1))
	add("v4 version", Unparsed, v4(), ip(0, 0x55))
	add("v4 header length 4", Unparsed, v4(), ip(0, 0x44))
	add("v4 options", CapturedNew, append(v4(), make([]byte, 4)...), ip(0, 0x46), ip(3, 44), ip(24+12, 0x50))
	add("v4 options past the end", Unparsed, v4(), ip(0, 0x4f), ip(3, 80))
	add("v4 total length", Unparsed, v4(), ip(3, 39))
	add("v4 total length 0", Unparsed, v4(), ip(3, 0))
	add("v4 total length of half a UDP header", Unparsed, udp(v4()), ip(3, 27))
	add("v4 total length of half an SCTP header", Unparsed, v4(), ip(9, protoSCTP), ip(3, 31))
	add("v4 data offset 4", Unparsed, v4(), ip(20+12, 0x40))
	add("v4 truncated tcp", Unparsed, v4()[:etherLen+39])
	add("v4 other host", OtherHost, v4(), at(0, 2, 1, 1, 1, 1, 1))
	add("v4 multicast", OtherHost, v4(), at(0, 1, 0, 0x5e))
	add("v4 broadcast", OtherHost, v4(), at(0, 255, 255, 255, 255, 255, 255))
	add("arp", NotIP, v4(), at(12, 0x08, 0x06))
	add("inline vlan", VLAN, withVLAN(v4(), 0x81000005))
	add("priority tag", CapturedNew, withVLAN(v4(), 0x8100e000))
	add("QinQ", VLAN, withVLAN(v6(), 0x88a80006, 0x81000005))
	add("QinQ of priorities", CapturedNew, withVLAN(v6(), 0x88a82000, 0x81002000))
	add("old QinQ", VLAN, withVLAN(v6(), 0x91000006, 0x81000005))
	add("old priority tag", VLAN, withVLAN(v4(), 0x9100e000))
	add("three tags", VLAN, withVLAN(v4(), 0x88a80006, 0x81000005, 0x81000005))
	add("three priority tags", Unparsed, withVLAN(v4(), 0x8100e000, 0x8100e000, 0x8100e000))
	add("tagged arp", VLAN, withVLAN(v4(), 0x81000005), at(16, 0x08, 0x06))
	add("v6 as v4", Unparsed, v6(), at(12, 0x08, 0x00))
	add("v4 as v6", Unparsed, v4(), at(12, 0x86, 0xdd))

	add("v6 syn", CapturedNew, v6())
	add("v6 answer", Unasked, packet(client6, origin6, flagSYN|flagACK))
	add("v6 pass", Excluded, packet(client6, ap("[2001:db8:1::3]:443"), flagSYN))
	add("v6 captured inside pass", CapturedNew, packet(client6, ap("[2001:db8:1:1::3]:443"), flagSYN))
	add("v6 drain", Excluded, packet(client6, ap("[2001:db8:2::3]:443"), flagSYN))
	add("v6 elsewhere", NotCaptured, packet(client6, ap("[2001:db9::]:443"), flagSYN))
	add("v6 udp", NotTCP, udp(v6()))
	add("v6 esp", NotTCP, v6(), ip(6, esp))
	add("v6 no next header", NotTCP, v6(), ip(6, noNext))
	add("v6 version", Unparsed, v6(), ip(0, 0x50))
	add("v6 truncated tcp", Unparsed, v6()[:etherLen+59])
	add("v6 data offset 4", Unparsed, v6(), ip(40+12, 0x40))
	add("v6 payload length", Unparsed, v6(), ip(5, 19))
	add("v6 payload length 0", Unparsed, v6(), ip(5, 0))
	add("v6 payload length of half a UDP header", Unparsed, udp(v6()), ip(5, 7))
	add("v6 payload length of the options alone", Unparsed, v6(options(destOptions, 1)), ip(5, 8))
	add("v6 payload length of half the options", Unparsed, v6(options(destOptions, 2), options(destOptions, 1)), ip(5, 16))
	add("v6 ICMP behind the payload length", Unparsed, v6(options(destOptions, 2)), ip(5, 8), ip(40, 58))
	add("v6 first fragment with ports in the padding", Unparsed, v6(ext(fragment, 0, 0, 1, 0, 0, 0, 0)), ip(5, 8))
	add("v6 hop by hop", CapturedNew, v6(options(hopByHop, 1)))
	add("v6 long options", CapturedNew, v6(options(destOptions, 3), options(hopByHop, 2)))
	add("v6 authentication", CapturedNew, v6(ext(authHeader, append([]byte{4}, make([]byte, 22)...)...)))
	add("v6 routed to the end", CapturedNew, v6(options(routing, 1)))
	add("v6 routing not at the end", Unparsed, v6(options(routing, 1)), ip(40+3, 1))
	add("v6 atomic fragment", CapturedNew, v6(ext(fragment, make([]byte, 7)...)))
	add("v6 first fragment", Fragment, v6(ext(fragment, 0, 0, 1, 0, 0, 0, 0)))
	add("v6 later fragment", Fragment, v6(ext(fragment, 0, 0, 16, 0, 0, 0, 0)))
	add("v6 later fragment of options", Fragment, v6(ext(fragment, 0, 0, 16, 0, 0, 0, 0), options(destOptions, 1)))
	add("v6 fragment over the TCP header", Unparsed, v6(ext(fragment, 0, 0, 8, 0, 0, 0, 0)))
	add("v6 fragment in a fragment", Unparsed, v6(ext(fragment, 0, 0, 1, 0, 0, 0, 0), ext(fragment, 0, 0, 1, 0, 0, 0, 0)))
	add("v6 mobility, HIP, shim6", CapturedNew, v6(options(mobility, 1), options(hip, 1), options(shim6, 1)))
	add("v6 far fragment", Fragment, v6(ext(fragment, 0, 0x80, 0, 0, 0, 0, 0)))
	add("v6 eight options", CapturedNew, v6(slices.Repeat([]extHeader{options(destOptions, 1)}, 8)...))
	add("v6 nine options", Unparsed, v6(slices.Repeat([]extHeader{options(destOptions, 1)}, 9)...))
	add("v6 options past the end", Unparsed, v6(options(destOptions, 1)), ip(41, 200))
	add("v6 truncated options", Unparsed, v6(options(destOptions, 1))[:etherLen+43])
	add("v6 truncated fragment header", Unparsed, v6(ext(fragment, make([]byte, 7)...))[:etherLen+47])
	return set
}

func newCapture(t testing.TB) *Classifier {
	t.Helper()
	p := loadTestClassifier(t, rehearsal)
	if err := p.SetPrefixes(testSet); err != nil {
		t.Fatal(err)
	}
	if err := p.SetListeners(listenTCP(t, "tcp4", "127.0.0.1:0"), listenTCP(t, "tcp6", "[::1]:0")); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVerdicts(t *testing.T) {
	p := newCapture(t)
	ret := loadTestReturn(t)
	if err := ret.SetPrefixes(testSet); err != nil {
		t.Fatal(err)
	}
	for name, f := range frames() {
		t.Run(name, func(t *testing.T) {
			if got := run(t, p.Program, f.frame); got != f.want {
				t.Errorf("%v, want %v", got, f.want)
			}
			want := f.want
			if want == CapturedNew || want == Unasked || strings.Contains(name, "drain") {
				want = NoSocket
			}
			if got := run(t, ret, f.frame); got != want {
				t.Errorf("return: %v, want %v", got, want)
			}
		})
	}
}

// TestConnections: what belongs to a connection goes there, also while
// draining; listening sockets are no connections.
func TestConnections(t *testing.T) {
	p := newCapture(t)
	ret := loadTestReturn(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		l := listenTCP(t, "tcp", net.JoinHostPort(host, "0"))
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server := ap(l.Addr().String())
		client := ap(c.LocalAddr().String())
		stranger := netip.AddrPortFrom(client.Addr(), 1)
		self := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
		for _, tt := range []struct {
			name     string
			action   Action
			src, dst netip.AddrPort
			lan, ret Verdict
		}{
			{"to server", Capture, client, server, Captured, Captured},
			{"to client", Capture, server, client, Captured, Captured},
			{"stranger", Capture, stranger, server, CapturedNew, NoSocket},
			{"drain", Drain, client, server, Captured, Captured},
			{"drain stranger", Drain, stranger, server, Excluded, NoSocket},
			{"pass", Pass, client, server, Excluded, Excluded},
			{"none", 0, client, server, NotCaptured, NotCaptured},
		} {
			t.Run(host+" "+tt.name, func(t *testing.T) {
				set := map[netip.Prefix]Action{}
				if tt.action != 0 {
					set[self] = tt.action
				}
				if err := errors.Join(p.SetPrefixes(set), ret.SetPrefixes(set)); err != nil {
					t.Fatal(err)
				}
				frame := packet(tt.src, tt.dst, flagACK)
				if got := run(t, p.Program, frame); got != tt.lan {
					t.Errorf("capture: %v, want %v", got, tt.lan)
				}
				if got := run(t, ret, frame); got != tt.ret {
					t.Errorf("return: %v, want %v", got, tt.ret)
				}
			})
		}
	}
}

// TestNoListener: a listener that is missing or closed means pass, in its
// family alone. Without rehearsal the assignment fails, a test run being no
// ingress, and the packet passes too.
func TestNoListener(t *testing.T) {
	p := loadTestClassifier(t, ClassifierConfig{})
	if err := p.SetPrefixes(testSet); err != nil {
		t.Fatal(err)
	}
	expect := func(v4, v6 Verdict) {
		t.Helper()
		got4, got6 := run(t, p.Program, packet(client4, origin4, flagSYN)), run(t, p.Program, packet(client6, origin6, flagSYN))
		if got4 != v4 || got6 != v6 {
			t.Errorf("v4 %v, v6 %v; want %v, %v", got4, got6, v4, v6)
		}
	}
	expect(NoListener, NoListener)
	l4, l6 := listenTCP(t, "tcp4", "127.0.0.1:0"), listenTCP(t, "tcp6", "[::1]:0")
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set(p.SetListeners(l4, nil))
	expect(AssignFailed, NoListener)
	set(p.SetListeners(nil, l6))
	expect(NoListener, AssignFailed)
	set(p.SetListeners(l4, l6))
	expect(AssignFailed, AssignFailed)
	l4.Close()
	expect(NoListener, AssignFailed)
}

func TestLoadErrors(t *testing.T) {
	for _, cfg := range []Config{{}, {Mark: 1, Mask: 2}, {Mark: 1, MaxPrefixes: -1}, {Mark: 1, MaxPrefixes: 1 << 30}} {
		if p, err := LoadClassifier(ClassifierConfig{Config: cfg}); err == nil {
			p.Close()
			t.Errorf("loaded with %+v", cfg)
		}
	}
}

// TestMissingCapability: the error says what is missing and what to do.
func TestMissingCapability(t *testing.T) {
	// What the kernel can do is asked once in a process: by a thread without capabilities it would be told that there is no BTF,
	// and without that the classifier is too large for the verifier, in all tests that follow.
	loadTestClassifier(t, ClassifierConfig{})
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread has lost its capabilities
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&hdr, &(make([]unix.CapUserData, 2))[0]); err != nil {
			result <- fmt.Errorf("drop capabilities: %w", err)
			return
		}
		p, err := LoadClassifier(ClassifierConfig{Config: Config{Mark: 1}})
		if err == nil {
			p.Close()
		}
		result <- err
	}()
	err := <-result
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, os.ErrPermission) {
		t.Fatalf("error %v", err)
	}
	if !strings.HasPrefix(err.Error(), "make the live path table: missing capability: ") || !strings.Contains(e.Hint(), "CAP_BPF and CAP_NET_ADMIN") {
		t.Errorf("error %q, hint %q", err, e.Hint())
	}
}
