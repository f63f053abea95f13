package wan

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNamespaceBesideIP does what somebody's first `ip netns add` does to the
// directory while one of our namespaces exists, on mounts of its own.
func TestNamespaceBesideIP(t *testing.T) {
	requireRoot(t)
	const child = "WAN_TEST_OWN_MOUNTS"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNamespaceBesideIP$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mount("", "/", "none", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("wanip%d", os.Getpid())
	if err := CreateNamespace(name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		if err := unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := DeleteNamespace(name); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(namespaceDir + "/" + name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
}

func TestNamespaces(t *testing.T) {
	requireRoot(t)
	for _, name := range []string{"", ".", "..", "a/b", strings.Repeat("x", 300)} {
		if err := CreateNamespace(name); !errors.Is(err, ErrNamespace) {
			t.Errorf("create %q: %v", name, err)
		}
	}
	name := fmt.Sprintf("wane%d", os.Getpid())
	if err := DeleteNamespace(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("delete none: %v", err)
	}
	if err := InNamespace(name, func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("enter none: %v", err)
	}
	if err := CreateNamespace(name); err != nil {
		t.Fatal(err)
	}
	defer DeleteNamespace(name)
	if err := CreateNamespace(name); !errors.Is(err, os.ErrExist) {
		t.Errorf("create twice: %v", err)
	}
	own, _ := os.Readlink("/proc/thread-self/ns/net")
	inside := ""
	err := InNamespace(name, func() (err error) {
		inside, _ = os.Readlink("/proc/thread-self/ns/net")
		ifs, err := net.Interfaces()
		if err == nil && (len(ifs) != 1 || ifs[0].Flags&net.FlagUp == 0) {
			err = fmt.Errorf("interfaces %+v, want lo, up", ifs)
		}
		return err
	})
	if err != nil || inside == "" || inside == own {
		t.Errorf("inside %q, outside %q, %v", inside, own, err)
	}
	if err := InNamespace(name, func() error { return io.ErrNoProgress }); err != io.ErrNoProgress {
		t.Errorf("error of the function: %v", err)
	}
	if err := InNamespace(name, func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that exits its goroutine is no error")
	}
	// No thread may be left behind inside, whichever the next goroutines get.
	for range 50 {
		done := make(chan string)
		go func() {
			runtime.LockOSThread()
			ns, _ := os.Readlink("/proc/thread-self/ns/net")
			done <- ns
		}()
		if ns := <-done; ns != own {
			t.Fatalf("a thread was left in %s", ns)
		}
	}
	if _, err := DialIn(t.Context(), name, "tcp", "localhost:1"); err == nil {
		t.Error("dialled a name")
	}
}
