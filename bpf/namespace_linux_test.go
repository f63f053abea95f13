package bpf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespaces without names: nothing stays behind, not even of a killed test.
//
//	client eth0 -- lan0 gateway ct0 -- ct origin     10.77.1, 10.77.2, 10.77.3
//	                            cu0 -- cu            fd77:1, fd77:2, fd77:3
//
// The origin has 10.99.0.1 and fd99::1 too, to which the gateway has no route
// that it would use: it does not forward.
type topology struct{ client, gateway, origin netns.NsHandle }

const waitLimit = 30 * time.Second

// within runs f on a thread in the namespace.
func within(t testing.TB, ns netns.NsHandle, f func() error) {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	must(t, <-result)
}

func newNamespace(t testing.TB) (ns netns.NsHandle) {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	within(t, here, func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0), netlink.LinkSetUp(lo))
	})
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func addresses(nic string, all ...string) error {
	l, err := netlink.LinkByName(nic)
	if err != nil {
		return err
	}
	errs := []error{netlink.LinkSetUp(l)}
	for _, a := range all {
		addr, err := netlink.ParseAddr(a)
		if err == nil {
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(l, addr)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func newTopology(t testing.TB) *topology {
	t.Helper()
	requireRoot(t)
	topo := &topology{newNamespace(t), newNamespace(t), newNamespace(t)}
	for _, v := range []struct {
		nic, peer string
		other     netns.NsHandle
		net       string
	}{{"lan0", "eth0", topo.client, "1"}, {"ct0", "ct", topo.origin, "2"}, {"cu0", "cu", topo.origin, "3"}} {
		within(t, topo.gateway, func() error {
			err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: v.nic}, PeerName: v.peer, PeerNamespace: netlink.NsFd(int(v.other))})
			return errors.Join(err, addresses(v.nic, "10.77."+v.net+".1/24", "fd77:"+v.net+"::1/64"))
		})
		within(t, v.other, func() error { return addresses(v.peer, "10.77."+v.net+".2/24", "fd77:"+v.net+"::2/64") })
	}
	within(t, topo.client, func() error {
		return errors.Join(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.77.1.1")}), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd77:1::1")}))
	})
	within(t, topo.origin, func() error {
		errs := []error{addresses("lo", "10.99.0.1/32", "fd99::1/128"),
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.77.2.1")}), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd77:2::1")})}
		for _, nic := range []string{"all", "default", "ct", "cu"} {
			errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/conf/"+nic+"/rp_filter", []byte("0"), 0))
		}
		return errors.Join(errs...)
	})
	return topo
}

// index is that of a NIC in a namespace.
func (topo *topology) index(t testing.TB, ns netns.NsHandle, nic string) (i int) {
	t.Helper()
	within(t, ns, func() error {
		l, err := netlink.LinkByName(nic)
		if err == nil {
			i = l.Attrs().Index
		}
		return err
	})
	return i
}

// socket is a UDP socket in a namespace, bound to a NIC if one is named.
func socket(t testing.TB, ns netns.NsHandle, nic, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	within(t, ns, func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			if nic == "" {
				return nil
			}
			var bindErr error
			err := raw.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), nic) })
			return errors.Join(err, bindErr)
		}}
		c, err = lc.ListenPacket(context.Background(), "udp", addr)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(waitLimit)))
	return c.(*net.UDPConn)
}

// TestDirect: packets cross a gateway that does not forward, out of the NIC of
// the path that is alive, from Ethernet and from TUN.
func TestDirect(t *testing.T) {
	topo := newTopology(t)
	paths, err := NewPaths()
	must(t, err)
	closeAtEnd(t, paths)
	c := loadTestClassifier(t, ClassifierConfig{Paths: paths})
	setPolicy(t, c, Policy{Rules: []Rule{{ID: 1, Action: Direct}}})
	tun, tunIndex := openTUN(t, topo.gateway, unix.IFF_TUN)
	minute := longAgo()
	for _, i := range []int{topo.index(t, topo.gateway, "lan0"), tunIndex} {
		within(t, topo.gateway, func() error {
			a, err := c.Attach(i, Auto)
			if err == nil {
				t.Cleanup(func() { _ = a.Close() })
			}
			return err
		})
	}
	for _, f := range []struct{ family, client, origin string }{
		{"4", "10.77.1.2:4000", "10.99.0.1:5000"},
		{"6", "[fd77:1::2]:4000", "[fd99::1]:5000"},
	} {
		t.Run("family="+f.family, func(t *testing.T) {
			hop := func(n string) netip.Addr {
				return netip.MustParseAddr(map[string]string{"4": "10.77." + n + ".2", "6": "fd77:" + n + "::2"}[f.family])
			}
			must(t, paths.Set(1, Path{Ifindex: topo.index(t, topo.gateway, "ct0"), NextHop: hop("2"), State: PathUp, MaxAge: 4 * minute}),
				paths.Set(2, Path{Ifindex: topo.index(t, topo.gateway, "cu0"), NextHop: hop("3"), State: PathUp, MaxAge: 4 * minute}),
				paths.SetCandidates(0, Interactive, []PathID{1, 2}))
			must(t, paths.Answered(1, Monotonic()), paths.Answered(2, Monotonic()))
			_, port, _ := net.SplitHostPort(f.origin)
			on := map[string]*net.UDPConn{"ct": socket(t, topo.origin, "ct", ":"+port), "cu": socket(t, topo.origin, "cu", ":"+port)}
			client := socket(t, topo.client, "", f.client)
			expect := func(nic, what, from string) {
				t.Helper()
				b := make([]byte, 100)
				n, src, err := on[nic].ReadFromUDPAddrPort(b)
				if err != nil || string(b[:n]) != what || netip.AddrPortFrom(src.Addr().Unmap(), src.Port()) != ap(from) {
					v, _ := c.Verdicts()
					t.Fatalf("%s: %q from %v, %v; want %q from %s (%v)", nic, b[:n], src, err, what, from, v)
				}
			}
			send := func(what string) {
				t.Helper()
				_, err := client.WriteToUDPAddrPort([]byte(what), ap(f.origin))
				must(t, err)
			}
			send("first path")
			expect("ct", "first path", f.client)
			// Silent: nobody but the kernel has to notice.
			must(t, paths.Answered(1, Monotonic()-8*minute))
			send("second path")
			expect("cu", "second path", f.client)
			must(t, paths.Answered(1, Monotonic()))
			send("stays")
			expect("cu", "stays", f.client)
			// IPv6 over a path whose router is IPv4 has its own.
			if f.family == "6" {
				must(t, paths.Set(2, Path{Ifindex: topo.index(t, topo.gateway, "cu0"), NextHop: netip.MustParseAddr("10.77.3.2"), NextHop6: hop("3"), State: PathUp, MaxAge: 4 * minute}))
				send("other router")
				expect("cu", "other router", f.client)
			}
			// The host's own routing table knows the next hop on the NIC.
			must(t, paths.Set(2, Path{Ifindex: topo.index(t, topo.gateway, "cu0"), State: PathUp, MaxAge: 4 * minute}))
			within(t, topo.gateway, func() error {
				dst := ap(f.origin).Addr()
				return netlink.RouteReplace(&netlink.Route{Gw: hop("3").AsSlice(), LinkIndex: topo.index(t, topo.gateway, "cu0"),
					Dst: &net.IPNet{IP: dst.AsSlice(), Mask: net.CIDRMask(dst.BitLen(), dst.BitLen())}})
			})
			send("by route")
			expect("cu", "by route", f.client)
			// Plain IP.
			from := map[string]string{"4": "10.77.9.9:4000", "6": "[fd77:9::9]:4000"}[f.family]
			_, err := tun.Write(datagram(ap(from), ap(f.origin), []byte("from tun"))[etherLen:])
			must(t, err)
			expect("ct", "from tun", from)
		})
	}
	if v, err := c.Verdicts(); err != nil || v[SentDirect] < 10 {
		t.Errorf("verdicts %v, %v", v, err)
	}
}

// openTUN makes a TUN or TAP device in a namespace; it goes with its file.
func openTUN(t testing.TB, ns netns.NsHandle, kind uint16) (f *os.File, index int) {
	t.Helper()
	within(t, ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		req.SetUint16(kind | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		f = os.NewFile(uintptr(fd), "tun") // pollable only now
		return errors.Join(err, addresses("tun0"))
	})
	t.Cleanup(func() { _ = f.Close() })
	within(t, ns, func() error {
		link, err := netlink.LinkByName("tun0")
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	return f, index
}

// TestReflectorOnTAP: the lab's carriers are TAP devices; driver mode works there
// too.
func TestReflectorOnTAP(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	tap, index := openTUN(t, ns, unix.IFF_TAP)
	c := loadTestCarrier(t, CarrierConfig{})
	within(t, ns, func() error {
		a, err := c.Attach(index, XDPDriver, Auto)
		if err == nil {
			t.Cleanup(func() { _ = a.Close() })
		}
		return err
	})
	must(t, c.SetReflector(Reflector{Port: stampPort}), c.SetSessions(map[uint32]Session{9: {Key: testKey}}))
	frame := datagram(asker4, reflector4, appendProbe(nil, 5, 1<<32, 9, testKey))
	_, err := tap.Write(frame)
	must(t, err, tap.SetReadDeadline(time.Now().Add(waitLimit)))
	for b := make([]byte, 2000); ; {
		n, err := tap.Read(b)
		if err != nil {
			v, _ := c.ProbeVerdicts()
			t.Fatalf("no answer: %v; %v", err, v)
		}
		if n == len(frame) && b[12] == 8 { // the kernel says things of its own there
			if r := decodeStamp(checkAnswer(t, frame, b[:n])); r.senderSequence != 5 {
				t.Errorf("answer %+v", r)
			}
			return
		}
	}
}

// TestProbesOverVeth: probes from a socket are reflected at the peer's NIC and
// their answers taken at ours, in driver and in generic mode.
func TestProbesOverVeth(t *testing.T) {
	for _, mode := range []XDPMode{XDPAuto, XDPGeneric} {
		for _, method := range []Method{Auto, Clsact} {
			t.Run("mode="+mode.String()+"/method="+method.String(), func(t *testing.T) {
				topo := newTopology(t)
				paths, err := NewPaths()
				must(t, err)
				closeAtEnd(t, paths)
				here, there := loadTestCarrier(t, CarrierConfig{Paths: paths}), loadTestCarrier(t, CarrierConfig{})
				for _, side := range []struct {
					c   *Carrier
					ns  netns.NsHandle
					nic string
				}{{here, topo.gateway, "ct0"}, {there, topo.origin, "ct"}} {
					index := topo.index(t, side.ns, side.nic)
					within(t, side.ns, func() error {
						a, err := side.c.Attach(index, mode, method)
						if err != nil {
							return err
						}
						want := XDPGeneric
						if mode == XDPAuto {
							want = XDPDriver
						}
						if a.Mode() != want {
							t.Errorf("mode %v, want %v", a.Mode(), want)
						}
						t.Cleanup(func() { within(t, side.ns, a.Close) })
						return nil
					})
				}
				must(t, there.SetReflector(Reflector{Port: stampPort, Plain: true}), there.SetSessions(map[uint32]Session{9: {Key: testKey}}),
					there.SetGuard(Guard{Mode: GuardEnforce}), // the guard is no obstacle
					here.SetGuard(Guard{Mode: GuardEnforce}),
					here.SetReflector(Reflector{SenderPorts: PortRange{From: senderPort}}))
				replies, err := here.Replies()
				must(t, err)
				defer replies.Close()
				replies.SetDeadline(time.Now().Add(waitLimit))
				for i, f := range []struct{ local, remote string }{{"10.77.2.1:4600", "10.77.2.2:862"}, {"[fd77:2::1]:4600", "[fd77:2::2]:862"}} {
					path := PathID(i + 1)
					must(t, here.SetSenders([]Sender{{Reflector: ap(f.remote), LocalPort: senderPort, Path: path, Session: 9, Key: testKey}}))
					s := socket(t, topo.gateway, "ct0", f.local)
					for n := range uint32(3) {
						before := Monotonic()
						_, err := s.WriteToUDPAddrPort(appendProbe(nil, uint32(i)*10+n, here.NTP(before), 9, testKey), ap(f.remote))
						must(t, err)
						r, err := replies.Read()
						if err != nil {
							a, _ := here.ProbeVerdicts()
							b, _ := there.ProbeVerdicts()
							t.Fatalf("no reply: %v; here %v, there %v", err, a, b)
						}
						if r.Path != path || r.Sequence != uint32(i)*10+n || r.Sent < before || r.Received <= r.Sent || r.PeerTime() > r.Received-r.Sent || r.PeerTime() < 0 {
							t.Errorf("reply %+v", r)
						}
					}
					if l, err := paths.Live(path); err != nil || l.Reply == 0 || l.Sent == 0 {
						t.Errorf("live %+v, %v", l, err)
					}
				}
				// Without senders the answer goes to the socket, through the kernel's
				// checks: a plain STAMP sender is served.
				must(t, here.SetSenders(nil))
				s := socket(t, topo.gateway, "ct0", "10.77.2.1:4700")
				_, err = s.WriteToUDPAddrPort(stampRequest(77, 1, 2, 0), ap("10.77.2.2:862"))
				must(t, err)
				b := make([]byte, 200)
				n, from, err := s.ReadFromUDPAddrPort(b)
				must(t, err)
				if r := decodeStamp(b[:n]); n != 44 || from != ap("10.77.2.2:862") || r.senderSequence != 77 || r.senderTime != 1<<32|2 {
					t.Errorf("%d bytes from %v: %+v", n, from, r)
				}
				// What nobody asked for is dropped on both sides.
				o := socket(t, topo.origin, "ct", "10.77.2.2:5001")
				_, err = o.WriteToUDPAddrPort([]byte("junk"), ap("10.77.2.1:4800"))
				must(t, err)
				deadline := time.Now().Add(waitLimit)
				for {
					v, err := here.GuardVerdicts()
					must(t, err)
					if v[GuardUnwanted] > 0 {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("junk was not counted: %v", v)
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
	}
}
