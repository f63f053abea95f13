package wan

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
)

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
