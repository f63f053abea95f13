package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalSize reports whether f is a terminal, and its size.
func terminalSize(f *os.File) (columns, lines int, ok bool) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	return int(ws.Col), int(ws.Row), true
}
