package capture

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settle is how long the watcher waits for more news before it looks: links
// come up with a burst of messages.
const settle = 20 * time.Millisecond

// nics keeps a program attached to interfaces that may come and go, and its
// tries free of the host's own addresses.
//
// Stages: netlink socket -> receive (goroutine) -> news (latest wins) -> watch
// (goroutine, on a thread in the namespace) -> reconcile.
type nics struct {
	ns     *namespace
	prog   program
	log    *slog.Logger
	method bpf.Method
	names  []string

	news chan struct{} // capacity 1: something changed
	done chan struct{}
	wg   sync.WaitGroup
	sock *nl.NetlinkSocket

	mu       sync.Mutex
	attached map[string]attachment
	gone     []int // indexes of deleted links, not yet looked at
	wanted   map[netip.Prefix]bpf.Action
	local    []netip.Addr
}

type attachment struct {
	index int
	*bpf.Attachment
}

// start attaches to the interfaces, of which one must be there, in the
// namespace of the calling thread.
func (n *nics) start() error {
	n.attached = make(map[string]attachment)
	n.news, n.done = make(chan struct{}, 1), make(chan struct{})
	if len(n.names) == 0 {
		return errors.New("no interfaces given: at least one is needed")
	}
	var missing []error
	for _, name := range n.names {
		if err := findInterface(name); err != nil {
			missing = append(missing, err)
			n.log.Warn("interface is missing, not capturing there until it is there", "interface", name)
		}
	}
	if len(missing) == len(n.names) {
		return errors.Join(missing...)
	}
	// Subscribe before looking, so that no change falls in between.
	var err error
	n.sock, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("subscribe to interface changes: %w", err)
	}
	n.wg.Add(2)
	go n.receive()
	go n.watch()
	if err := n.reconcile(true); err != nil {
		return errors.Join(err, n.stop())
	}
	return nil
}

func findInterface(name string) error {
	_, err := net.InterfaceByName(name)
	if err == nil {
		return nil
	}
	var there []string
	if all, err := net.Interfaces(); err == nil {
		for _, i := range all {
			there = append(there, i.Name)
		}
	}
	return &bpf.Error{Op: "interface " + name, Err: err,
		Advice: "this network namespace has " + strings.Join(there, ", ")}
}

// receive ends when the socket is closed.
func (n *nics) receive() {
	defer n.wg.Done()
	for {
		msgs, _, err := n.sock.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		n.mu.Lock()
		for _, m := range msgs {
			if m.Header.Type == unix.RTM_DELLINK && len(m.Data) >= unix.SizeofIfInfomsg {
				n.gone = append(n.gone, int(nl.DeserializeIfInfomsg(m.Data).Index))
			}
		}
		n.mu.Unlock()
		// ENOBUFS, news were lost, is news too.
		select {
		case n.news <- struct{}{}:
		default:
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			select { // do not spin on an error nobody expects
			case <-time.After(time.Second):
			case <-n.done:
				return
			}
		}
	}
}

func (n *nics) watch() {
	defer n.wg.Done()
	err := n.ns.enter(func() error {
		for {
			select {
			case <-n.news:
			case <-n.done:
				return nil
			}
			select {
			case <-time.After(settle):
			case <-n.done:
				return nil
			}
			if err := n.reconcile(false); err != nil {
				n.log.Warn("capture is incomplete", "err", err)
			}
		}
	})
	if err != nil {
		n.log.Error("interfaces are not watched any more", "err", err)
	}
}

// reconcile makes attachments and tries agree with the interfaces and addresses
// that exist now, in the namespace of the calling thread.
func (n *nics) reconcile(first bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for name, a := range n.attached {
		nic, err := net.InterfaceByIndex(a.index)
		if err == nil && nic.Name == name && !slices.Contains(n.gone, a.index) {
			continue
		}
		// An index may have been given to another link since; without the link
		// there is nothing to detach from.
		if err == nil && nic.Name != name || a.Method() == bpf.TCX {
			errs = append(errs, a.Close())
		}
		delete(n.attached, name)
		n.log.Warn("interface is gone, not capturing there until it is back", "interface", name)
	}
	n.gone = n.gone[:0]
	for _, name := range n.names {
		if _, ok := n.attached[name]; ok {
			continue
		}
		nic, err := net.InterfaceByName(name)
		if err != nil {
			continue // the log has said so
		}
		a, err := n.prog.Attach(nic.Index, n.method)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		n.attached[name] = attachment{nic.Index, a}
		n.log.Info("capturing on interface", "interface", name, "method", a.Method(), "again", !first)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list addresses: %w", err))...)
	}
	n.local = n.local[:0]
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			n.local = append(n.local, ip.Unmap())
		}
	}
	return errors.Join(append(errs, n.writePrefixes())...)
}

// setPrefixes replaces what is captured.
func (n *nics) setPrefixes(wanted map[netip.Prefix]bpf.Action) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = wanted
	return n.writePrefixes()
}

// neverCaptured is what belongs to this host or link whatever is configured,
// unless configured as such.
var neverCaptured = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/127"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// writePrefixes is called with mu held.
func (n *nics) writePrefixes() error {
	set := make(map[netip.Prefix]bpf.Action, len(n.wanted)+len(neverCaptured)+len(n.local))
	for _, p := range neverCaptured {
		set[p] = bpf.Pass
	}
	for p, a := range n.wanted {
		set[p] = a
	}
	for _, a := range n.local {
		set[netip.PrefixFrom(a, a.BitLen())] = bpf.Pass
	}
	return n.prog.SetPrefixes(set)
}

// interfaces returns the names of those the program is attached to, sorted.
func (n *nics) interfaces() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name := range n.attached {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// stop detaches everywhere, in the namespace of the calling thread.
func (n *nics) stop() error {
	if n.sock == nil {
		return nil
	}
	close(n.done)
	n.sock.Close()
	n.wg.Wait()
	var errs []error
	for name, a := range n.attached {
		errs = append(errs, a.Close())
		delete(n.attached, name)
	}
	n.sock = nil
	return errors.Join(errs...)
}
