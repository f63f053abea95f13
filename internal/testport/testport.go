// Package testport gives tests ports of loopback that stay free until they are used: Take.
//
// A port that the system picked, and that is closed to be opened again, may be picked for another socket meanwhile. Those
// given here are outside the range that the system picks from, never given twice by one process, and claimed against other
// processes that use this package.
package testport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
)

const (
	// Span is how many ports in a row a caller gets: a node has the bond's, and for probes the two after it.
	Span = 3
	// stride is from one caller's first port to the next one's: the port after the Span is the claim.
	stride = Span + 1
	// Ports below first belong to known services, and Linux picks from 32768 up unless it is told otherwise.
	first, last = 10000, 32767

	rangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
)

// taker gives out the ports of one process.
type taker struct {
	mu     sync.Mutex
	next   int            // the block to try next
	claims []net.Listener // held until the process ends, which is what ends a claim
	picked func(port int) bool
}

var process = taker{next: rand.IntN(blocks), picked: systemPicks(rangeFile)}

const blocks = (last + 1 - first) / stride

// Take returns a port of 127.0.0.1 that, like the two after it, nobody has or gets, for UDP and for TCP. Safe for
// concurrent use.
func Take(t testing.TB) int {
	t.Helper()
	port, err := process.take()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (k *taker) take() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	why := errors.New("the system may pick all of them")
	for range blocks {
		port := first + k.next*stride
		k.next = (k.next + 1) % blocks
		if k.picked(port) || k.picked(port+Span) {
			continue
		}
		// Two processes cannot listen on one port, and the system forgets a claim with its process.
		claim, err := net.Listen("tcp4", address(port+Span))
		if err != nil {
			why = err
			continue
		}
		if err := free(port); err != nil { // somebody else's, who knows nothing of claims
			claim.Close()
			why = err
			continue
		}
		k.claims = append(k.claims, claim)
		return port, nil
	}
	return 0, fmt.Errorf("no %d ports in a row from %d to %d are free: %w", Span, first, last, why)
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// free tells whether ports can be had.
func free(port int) error {
	// A child that is forked meanwhile would keep the sockets open until it runs its program. On Linux they are made
	// without this lock.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for p := port; p < port+Span; p++ {
		u, err := net.ListenPacket("udp4", address(p))
		if err != nil {
			return err
		}
		u.Close()
		l, err := net.Listen("tcp4", address(p))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// systemPicks returns what tells whether the system may pick a port by itself; where it may pick all, there is no choice.
func systemPicks(file string) func(port int) bool {
	var from, to int
	if b, err := os.ReadFile(file); err == nil {
		_, _ = fmt.Sscan(string(b), &from, &to) // what is not there is no range
	}
	if from <= first+100*stride && to >= last {
		return func(int) bool { return false }
	}
	return func(port int) bool { return port >= from && port <= to }
}
