package tunnel

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// waitingIn returns a function that tells how many bytes can be read from the connection at once: 0 if it has no socket.
func waitingIn(c Conn) func() int {
	none := func() int { return 0 }
	sc, ok := tcpOf(c).(syscall.Conn)
	if !ok {
		return none
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return none
	}
	n := 0
	ask := func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil {
			n = 0
		}
	}
	return func() int {
		if rc.Control(ask) != nil {
			return 0
		}
		return n
	}
}
