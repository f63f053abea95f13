package wan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where `ip netns` keeps its names.
const namespaceDir = "/run/netns"

// maxNamespaceName keeps a name usable as a file name.
const maxNamespaceName = 255

// CreateNamespace makes a named network namespace, as `ip netns add` does, with
// its loopback up. Errors wrap ErrNamespace, and os.ErrExist if there is one.
func CreateNamespace(name string) error {
	if err := checkNamespace(name); err != nil {
		return err
	}
	path := filepath.Join(namespaceDir, name)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%w %q: %w", ErrNamespace, name, os.ErrExist)
	}
	return onThread(func() error {
		if err := shareNamespaceDir(); err != nil {
			return fmt.Errorf("%w %q: create: %w", ErrNamespace, name, err)
		}
		ns, err := netns.NewNamed(name)
		if err != nil {
			if !errors.Is(err, os.ErrExist) { // made by somebody else meanwhile
				os.Remove(path)
			}
			return fmt.Errorf("%w %q: create: %w", ErrNamespace, name, err)
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			netns.DeleteNamed(name)
			return fmt.Errorf("%w %q: bring loopback up: %w", ErrNamespace, name, err)
		}
		return nil
	})
}

// shareNamespaceDir makes the directory a shared mount of its own, as `ip netns
// add` does where it is not one yet. Were that left to somebody's first `ip netns
// add` after ours, it would mount the directory over our names, which nobody
// could remove any more.
func shareNamespaceDir() error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if err != unix.EINVAL { // not a mount point
		return err
	}
	if err := unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on itself: %w", namespaceDir, err)
	}
	return share()
}

// DeleteNamespace removes the name; the namespace goes with its last process
// and socket. Errors wrap ErrNamespace, and os.ErrNotExist if there is none.
func DeleteNamespace(name string) error {
	if err := checkNamespace(name); err != nil {
		return err
	}
	path := filepath.Join(namespaceDir, name)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%w %q: delete: %w", ErrNamespace, name, err)
	}
	// EINVAL: a name left behind without its mount.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		return fmt.Errorf("%w %q: unmount: %w", ErrNamespace, name, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("%w %q: delete: %w", ErrNamespace, name, err)
	}
	return nil
}

// InNamespace runs fn in a named namespace, on an OS thread of its own, and
// returns its error; "" is the caller's namespace. Sockets and processes that
// fn itself makes belong to the namespace for good, those of goroutines it
// starts do not.
func InNamespace(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	if err := checkNamespace(name); err != nil {
		return err
	}
	return onThread(func() error {
		ns, err := netns.GetFromName(name)
		if err != nil {
			return fmt.Errorf("%w %q: open: %w", ErrNamespace, name, err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("%w %q: enter: %w", ErrNamespace, name, err)
		}
		return fn()
	})
}

// DialIn dials from inside a namespace. The address must be an IP address and
// port: names resolve, and race, on other threads.
func DialIn(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial in namespace %q: %w", namespace, err)
	}
	var c net.Conn
	err := InNamespace(namespace, func() (err error) {
		var d net.Dialer
		d.SetMultipathTCP(false)
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// ListenIn listens for streams inside a namespace, on an IP address and port.
// The listener speaks plain TCP, not MPTCP.
func ListenIn(namespace, network, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen in namespace %q: %w", namespace, err)
	}
	var l net.Listener
	err := InNamespace(namespace, func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenUDPIn opens a UDP socket inside a namespace.
func ListenUDPIn(namespace string, at netip.AddrPort) (*net.UDPConn, error) {
	var c *net.UDPConn
	err := InNamespace(namespace, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return c, err
}

func checkNamespace(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxNamespaceName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w %q: want a name of 1..%d bytes without slashes", ErrNamespace, name, maxNamespaceName)
	}
	return nil
}

var errExited = errors.New("function left its goroutine")

// onThread runs fn on a locked thread that may change its namespace, and puts
// the thread back into its own. A thread that cannot go back ends with its
// goroutine instead of being used for others.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errExited // what a fn that calls runtime.Goexit (t.FailNow) leaves
		defer func() { result <- err }()
		runtime.LockOSThread()
		own, e := netns.Get()
		if e != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("%w of this thread: %w", ErrNamespace, e)
			return
		}
		defer func() {
			if netns.Set(own) == nil {
				runtime.UnlockOSThread()
			}
			own.Close()
		}()
		err = fn()
	}()
	return <-result
}
