package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// synTo is an IPv4 SYN from the client's port 1000 to a captured address.
func synTo(dst [4]byte) []byte {
	ip := make([]byte, 40)
	ip[0], ip[3], ip[8], ip[9] = 0x45, 40, 64, unix.IPPROTO_TCP
	copy(ip[12:], net.ParseIP(client4).To4())
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:20], 0))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 1000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	tcp[12], tcp[13], tcp[14] = 5<<4, 0x02, 0xff
	binary.BigEndian.PutUint16(tcp[16:], ^sum(ip[12:], unix.IPPROTO_TCP+20))
	return ip
}

// sum is the Internet checksum before it is complemented.
func sum(b []byte, s uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// inject sends frames from the client's NIC as they are.
func (topo *topology) inject(t testing.TB, frame []byte) {
	t.Helper()
	must(t, topo.client.do(func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: nic.Index})
	}))
}

// TestRealFrames: what only a real NIC shows the program.
func TestRealFrames(t *testing.T) {
	topo := newTopology(t)
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("192.0.2.0/24")}
	topo.startTransparent(t, tr, newFlowLog().handle)
	var mac net.HardwareAddr
	must(t, topo.gateway.do(func() error {
		nic, err := net.InterfaceByName("lan0")
		if err == nil {
			mac = nic.HardwareAddr
		}
		return err
	}))
	frame := func(etherType string, payload []byte) []byte {
		return append([]byte(string(mac)+"\x02\x00\x00\x00\x00\x01"+etherType), payload...)
	}
	syn := synTo([4]byte{192, 0, 2, 1})
	for _, tt := range []struct {
		name  string
		frame []byte
		want  bpf.Verdict
	}{
		{"plain", frame("\x08\x00", syn), bpf.CapturedNew},
		{"priority tag", frame("\x81\x00\xe0\x00\x08\x00", syn), bpf.CapturedNew},
		{"vlan 5", frame("\x81\x00\x00\x05\x08\x00", syn), bpf.VLAN},
		{"vlan 5 in vlan 6", frame("\x88\xa8\x00\x06\x81\x00\x00\x05\x08\x00", syn), bpf.VLAN},
		{"truncated IPv4", frame("\x08\x00", syn[:19]), bpf.Unparsed},
		{"truncated IPv6", frame("\x86\xdd", make([]byte, 39)), bpf.Unparsed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, err := tr.Verdicts()
			must(t, err)
			topo.inject(t, tt.frame)
			eventually(t, tt.want.String(), func() bool {
				now, err := tr.Verdicts()
				must(t, err)
				return now[tt.want] > before[tt.want]
			})
		})
	}
}

// TestLinkWithoutEthernet: on a TUN device IP begins at the first byte.
func TestLinkWithoutEthernet(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	var tun *netlink.Tuntap
	must(t, topo.gateway.do(func() error {
		tun = &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN,
			Flags: netlink.TUNTAP_NO_PI, Queues: 1}
		if err := netlink.LinkAdd(tun); err != nil {
			return err
		}
		return address("tun0", "10.77.3.1/24")
	}))
	dev := tun.Fds[0]
	defer dev.Close()
	must(t, topo.gateway.do(func() error { // replies to the client leave there
		l, err := netlink.LinkByName("tun0")
		if err != nil {
			return err
		}
		_, client, _ := net.ParseCIDR(client4 + "/32")
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: client})
	}))
	tr := &Transparent{Interfaces: []string{"tun0"}, Prefixes: prefixes("192.0.2.0/24")}
	topo.startTransparent(t, tr, log.handle)
	if _, err := dev.Write(synTo([4]byte{192, 0, 2, 1})); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 2048)
	timeout := time.AfterFunc(testTimeout, func() { dev.Close() })
	defer timeout.Stop()
	for { // the device sends other things, such as router solicitations
		n, err := dev.Read(reply)
		must(t, err)
		if n < 40 || reply[0] != 0x45 || reply[9] != unix.IPPROTO_TCP {
			continue
		}
		if src, flags := net.IP(reply[12:16]).String(), reply[33]; src != "192.0.2.1" || flags != 0x12 {
			t.Errorf("reply from %s with flags %#x, want SYN and ACK from 192.0.2.1", src, flags)
		}
		break
	}
	v, err := tr.Verdicts()
	must(t, err)
	if v[bpf.CapturedNew] != 1 {
		t.Errorf("verdicts %v", v)
	}
}

// TestListenerIsNotAProxy: connecting to the listener itself, from the host, does
// not make a flow that would dial itself.
func TestListenerIsNotAProxy(t *testing.T) {
	topo := newTopology(t)
	free := topo.gateway.listen(t, "127.0.0.1:0")
	port := addrPort(free.Addr()).Port()
	free.Close()
	log := newFlowLog()
	topo.startTransparent(t, &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("0.0.0.0/0"), ListenPort: port}, log.handle)
	c, err := topo.gateway.dial(hostPort("127.0.0.1", int(port)))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !isReset(err) {
		t.Errorf("connecting to the listener: %v, want a reset", err)
	}
	log.none(t)
	if c, err := topo.client.dial(hostPort(gateway4, int(port))); err == nil {
		c.Close()
		t.Error("the listener can be reached from outside")
	}
}

// TestAfterRestart: what belongs to a flow of a process that is gone is reset, so
// that the client connects again, and never goes to the origin by itself.
func TestAfterRestart(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24", "fd77:2::/64")}
	families(t, func(t *testing.T, _, _, origin string) {
		l := topo.origin.listen(t, hostPort(origin, 0))
		serveEcho(l)
		c, err := topo.client.dial(l.Addr().String()) // not captured yet
		must(t, err)
		defer c.Close()
		expect(t, c, "peer ")
		must(t, topo.gateway.do(func() error { return tr.Start(context.Background(), log.handle) }))
		defer tr.Close()
		send(t, c, "x")
		_, err = io.Copy(io.Discard, c)
		if !isReset(err) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// TestPortReuse: a client that comes back with the port of a flow that the
// gateway closed first, and remembers in TIME_WAIT, gets through.
func TestPortReuse(t *testing.T) {
	topo := newTopology(t)
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("192.0.2.0/24")}
	topo.startTransparent(t, tr, func(_ context.Context, f Flow) {
		_, _ = io.WriteString(f.Conn, "hello")
		_ = f.Conn.CloseWrite()
		_, _ = io.Copy(io.Discard, f.Conn)
	})
	for range 2 {
		must(t, topo.client.do(func() error {
			d := net.Dialer{Timeout: testTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(client4), Port: 20404}, Control: control(func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})}
			c, err := d.Dial("tcp", "192.0.2.1:80")
			// The client's own end of the first one is gone when its FIN has been acknowledged.
			for end := time.Now().Add(testTimeout); errors.Is(err, unix.EADDRNOTAVAIL) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
				c, err = d.Dial("tcp", "192.0.2.1:80")
			}
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(testTimeout))
			got, err := io.ReadAll(c)
			if string(got) != "hello" {
				return fmt.Errorf("read %q: %w", got, err)
			}
			return nil
		}))
	}
}

// TestTransparentNoLeaks: a thousand captured flows leave no goroutine and no
// descriptor, and a flow too many is reset.
func TestTransparentNoLeaks(t *testing.T) {
	const flows, atOnce, most = 1000, 20, 200 // a client may dial again before its last flow has gone
	topo := newTopology(t)
	before, fdsBefore := runtime.NumGoroutine(), openFiles()
	var n atomic.Int32
	hold := make(chan struct{})
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("192.0.2.0/24"), MaxFlows: most}
	must(t, topo.gateway.do(func() error {
		return tr.Start(t.Context(), func(_ context.Context, f Flow) {
			if f.Dst.Port() == 99 {
				_, _ = io.WriteString(f.Conn, "held")
				<-hold
			} else if n.Add(1)%2 == 0 {
				_ = f.Conn.Reset()
			}
		})
	}))
	errs := make(chan error, atOnce)
	for range atOnce {
		go func() {
			errs <- topo.client.do(func() error {
				for range flows / atOnce {
					c, err := net.DialTimeout("tcp", "192.0.2.1:80", testTimeout)
					if isReset(err) {
						continue // as quick as that
					}
					if err != nil {
						return err
					}
					_ = c.SetDeadline(time.Now().Add(testTimeout))
					if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						return err
					}
					_ = c.Close()
				}
				return nil
			})
		}()
	}
	for range atOnce {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n.Load() != flows {
		t.Errorf("%d flows, want %d", n.Load(), flows)
	}
	eventually(t, "the end of all flows", func() bool { return tr.Flows() == 0 })
	var clients []net.Conn
	for i := range most + 2 {
		c, err := topo.client.dial("192.0.2.1:99")
		if err == nil {
			clients = append(clients, c)
			_, err = c.Read(make([]byte, 1))
		}
		if (err == nil) != (i < most) || err != nil && !isReset(err) {
			t.Fatalf("flow %d of at most %d: %v", i+1, most, err)
		}
	}
	close(hold)
	must(t, tr.Close())
	for _, c := range clients {
		_ = c.Close()
	}
	for deadline := time.Now().Add(testTimeout); runtime.NumGoroutine() > before || openFiles() > fdsBefore; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("goroutines %d, were %d; descriptors %d, were %d", runtime.NumGoroutine(), before, openFiles(), fdsBefore)
		}
	}
}
