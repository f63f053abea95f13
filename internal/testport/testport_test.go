package testport

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// takesEnv makes the test binary a process that takes as many ports, prints them, and holds them until its input ends.
const takesEnv = "LANDBRIDGE_TEST_TAKES"

func TestMain(m *testing.M) {
	n, _ := strconv.Atoi(os.Getenv(takesEnv))
	if n == 0 {
		os.Exit(m.Run())
	}
	process.next = 0 // as bad as it gets: all begin at the same one
	for range n {
		port, err := process.take()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(port)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// open takes all that a port stands for.
func open(t *testing.T, port int) {
	t.Helper()
	for p := port; p < port+Span; p++ {
		u, err := net.ListenPacket("udp4", address(p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		l, err := net.Listen("tcp4", address(p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
}

// TestTake: ports are free, nobody's twice, and not what the system picks for others.
func TestTake(t *testing.T) {
	const callers, each = 4, 25
	ports := make(chan int, callers*each)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				ports <- Take(t)
			}
		})
	}
	wg.Wait()
	close(ports)
	seen, picks := map[int]bool{}, systemPicks(rangeFile)
	for p := range ports {
		open(t, p)
		for i := range Span {
			if seen[p+i] || picks(p+i) {
				t.Errorf("port %d is given twice, or the system may pick it", p+i)
			}
			seen[p+i] = true
		}
	}
}

// TestProcesses: processes that take ports at the same time get different ones.
func TestProcesses(t *testing.T) {
	const processes, each = 4, 30
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	owner := map[int]int{}
	var running, reading sync.WaitGroup
	running.Add(processes)
	done := make(chan struct{})
	for i := range processes {
		reading.Go(func() {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", takesEnv, each))
			cmd.Stderr = os.Stderr
			in, err1 := cmd.StdinPipe()
			out, err2 := cmd.StdoutPipe()
			if err1 != nil || err2 != nil || cmd.Start() != nil {
				t.Errorf("process %d does not start", i)
				running.Done()
				return
			}
			lines := bufio.NewScanner(out)
			for n := range each {
				if !lines.Scan() {
					t.Errorf("process %d took %d ports, want %d", i, n, each)
					break
				}
				port, err := strconv.Atoi(lines.Text())
				mu.Lock()
				if other, ok := owner[port]; ok || err != nil {
					t.Errorf("processes %d and %d have port %q", i, other, lines.Text())
				}
				owner[port] = i
				mu.Unlock()
			}
			running.Done()
			<-done // all hold theirs until all have read
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	running.Wait()
	close(done)
	reading.Wait()
}

// TestInTheWay: a port that somebody has is not given, nor are its neighbours, and none that the system may pick.
func TestInTheWay(t *testing.T) {
	k := &taker{next: process.next, picked: func(int) bool { return false }}
	for i := range Span {
		for _, tc := range []struct{ network, host string }{{"udp4", "127.0.0.1"}, {"tcp4", "127.0.0.1"}, {"udp", ""}, {"tcp", ""}} {
			for c := io.Closer(nil); c == nil; {
				at := first + k.next*stride
				where := net.JoinHostPort(tc.host, strconv.Itoa(at+i))
				var err error
				if tc.network[:3] == "udp" {
					c, err = net.ListenPacket(tc.network, where)
				} else {
					c, err = net.Listen(tc.network, where)
				}
				if err != nil { // somebody else is there already
					c, k.next = nil, (k.next+1)%blocks
					continue
				}
				if got, err := k.take(); err != nil || got == at {
					t.Errorf("with %s on %s: %d, %v, want another than %d", tc.network, where, got, err, at)
				}
				c.Close()
			}
		}
	}
	k.next, k.picked = 0, func(port int) bool { return port < first+100*stride-1 }
	if got, err := k.take(); err != nil || k.picked(got) {
		t.Errorf("%d, %v, want one that the system does not pick", got, err)
	}
	k.picked = func(int) bool { return true }
	if got, err := k.take(); err == nil {
		t.Errorf("%d, where the system may pick all", got)
	}
	for _, c := range k.claims {
		c.Close()
	}
}

// TestSystemPicks: what of the system's range is kept clear of.
func TestSystemPicks(t *testing.T) {
	for _, tc := range []struct {
		text string
		want map[int]bool
	}{
		{"32768\t60999\n", map[int]bool{first: false, last: false, 32768: true, 60999: true}},
		{"20000 60999", map[int]bool{first: false, 19999: false, 20000: true, last: true}},
		{"5000 12000", map[int]bool{first: true, 12000: true, 12001: false, last: false}},
		{"1024 65535", map[int]bool{first: false, last: false}}, // no choice
		{"", map[int]bool{first: false, last: false}},
	} {
		file := filepath.Join(t.TempDir(), "range")
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		picks := systemPicks(file)
		for port, want := range tc.want {
			if got := picks(port); got != want {
				t.Errorf("%q: port %d: %v, want %v", tc.text, port, got, want)
			}
		}
	}
}
