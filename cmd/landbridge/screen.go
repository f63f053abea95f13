package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/landbridge/landbridge/internal/admin"
)

// screen draws one picture over the other where the output is a terminal, and one after the other where it is not. Close it.
type screen struct {
	out      io.Writer
	terminal *os.File // nil: none
	drawn    int
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		if _, _, ok := terminalSize(f); ok {
			s.terminal = f
		}
	}
	return s
}

// size is the terminal's columns and lines, 0 for no limit.
func (s *screen) size() (columns, lines int) {
	if s.terminal != nil {
		columns, lines, _ = terminalSize(s.terminal)
	}
	return columns, lines
}

// draw shows what picture writes, in one write, so that nothing flickers (ECMA-48: cursor home, erase to the line's end,
// erase below). On a terminal, lines beyond its height are left out: they would scroll what was drawn before.
func (s *screen) draw(picture func(w io.Writer, columns int) error) error {
	columns, lines := s.size()
	var b bytes.Buffer
	if err := picture(&b, columns); err != nil {
		return err
	}
	s.drawn++
	if s.terminal == nil {
		if s.drawn > 1 {
			b = *bytes.NewBufferString("\n" + b.String())
		}
		_, err := s.out.Write(b.Bytes())
		return err
	}
	var t strings.Builder
	if s.drawn == 1 {
		t.WriteString("\x1b[?25l\x1b[2J") // without a cursor, on an empty screen
	}
	t.WriteString("\x1b[H")
	n := 0
	for line := range strings.Lines(b.String()) {
		if n++; lines > 0 && n >= lines {
			break
		}
		t.WriteString(strings.TrimRight(line, "\n") + "\x1b[K\n")
	}
	t.WriteString("\x1b[J")
	_, err := io.WriteString(s.out, t.String())
	return err
}

// close gives the terminal its cursor back.
func (s *screen) close() {
	if s.terminal != nil && s.drawn > 0 {
		fmt.Fprint(s.out, "\x1b[?25h")
	}
}

// marks are those of sparklines that the user's locale can show.
func marks() []rune {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} { // in the order of POSIX
		if v := strings.ToUpper(os.Getenv(name)); v != "" {
			if strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8") {
				return admin.Blocks
			}
			break
		}
	}
	return admin.Plain
}
