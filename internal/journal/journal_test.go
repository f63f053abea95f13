package journal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readAll reads all lines of a directory, in the order of its files.
func readAll(t *testing.T, dir string) (lines []string) {
	t.Helper()
	files, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		in, err := OpenFile(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(in)
		for sc.Scan() {
			lines = append(lines, sc.Text())
		}
		if err := sc.Err(); err != nil {
			t.Fatal(err)
		}
		in.Close()
	}
	return lines
}

// fill writes lines n to m-1 of 1,000 bytes, closing the journal from time to time so that none waits.
func fill(t *testing.T, cfg Config, n, m int) {
	t.Helper()
	for n < m {
		j, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; n < m && i < backlog; i++ {
			j.Add(fmt.Appendf(nil, "%06d%s", n, strings.Repeat("x", 994)))
			n++
		}
		if err := errors.Join(j.Close(), j.Close()); err != nil || j.Lost() > 0 {
			t.Fatalf("%v, %d lost", err, j.Lost())
		}
	}
}

// TestRotation: files stay below their size and number, the oldest go, all but the newest are compressed, and what is left
// is the end of what was written, in order.
func TestRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	cfg := Config{Dir: dir, Name: "sha.decisions", FileBytes: MinFileBytes, Keep: 3}
	const written = 700
	fill(t, cfg, 0, written)
	files, err := Files(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v, want 3", len(files), err)
	}
	for i, f := range files {
		if f.compressed != (i < 2) || f.Name != cfg.Name {
			t.Errorf("file %d: %+v", i, f)
		}
	}
	lines := readAll(t, dir)
	if len(lines) < 2*64 || len(lines) > 3*65 {
		t.Errorf("%d lines are left", len(lines))
	}
	for i, line := range lines {
		if want := fmt.Sprintf("%06d", written-len(lines)+i); !strings.HasPrefix(line, want) {
			t.Fatalf("line %d is %s, want %s", i, line[:6], want)
		}
	}
	// Another journal of the directory is let alone.
	fill(t, Config{Dir: dir, Name: "sha", FileBytes: MinFileBytes, Keep: 2}, 0, 300)
	if got := readAll(t, dir); len(got) < len(lines)+64 || got[len(got)-1] != lines[len(lines)-1] {
		t.Errorf("%d lines of both", len(got))
	}
}

// TestCrash: what a crash left is mended: a line that was cut short goes, a file that was being compressed is compressed,
// and of one in both forms one goes.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Name: "n", FileBytes: MinFileBytes}
	fill(t, cfg, 0, 150)
	newest := filepath.Join(dir, fileName("n", 3))
	f, err := os.OpenFile(newest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"cut`)
	f.Close()
	first := filepath.Join(dir, fileName("n", 1))
	for path, text := range map[string]string{first: "both forms", first + ".zst.tmp": "half"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if lines := readAll(t, dir); len(lines) != 151 || lines[150] != `{"cut` {
		t.Errorf("before: %d lines", len(lines))
	}
	fill(t, cfg, 150, 152)
	lines := readAll(t, dir)
	if len(lines) != 152 {
		t.Errorf("%d lines, want 152", len(lines))
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf("%06d", i)) {
			t.Fatalf("line %d is %q", i, line[:6])
		}
	}
	for _, gone := range []string{first, first + ".zst.tmp"} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	// A file that a crash left whole and uncompressed.
	if err := os.WriteFile(filepath.Join(dir, fileName("n", 4)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fill(t, cfg, 152, 153)
	if _, err := os.Stat(newest + ".zst"); err != nil || len(readAll(t, dir)) != 153 {
		t.Errorf("%v, %d lines", err, len(readAll(t, dir)))
	}
}

// TestDiskTrouble: lines that the disk does not take are counted and told of once, and the next ones are whole.
func TestDiskTrouble(t *testing.T) {
	dir := t.TempDir()
	var told []error
	j, err := Open(Config{Dir: dir, Name: "n", OnError: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	for range 3 {
		j.Add([]byte("lost"))
	}
	if j.Close(); j.Lost() != 3 || len(told) != 1 {
		t.Errorf("%d lost, told %v", j.Lost(), told)
	}
	j.Add([]byte("after the end"))
	if lines := readAll(t, dir); len(lines) != 0 {
		t.Errorf("%q", lines)
	}
}

// TestNoRoomToCompress: a file that cannot be compressed costs no line, and keeps no journal from being opened.
func TestNoRoomToCompress(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, fileName("n", 1)+suffixCompressed+suffixUnfinished)
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	told := 0
	cfg := Config{Dir: dir, Name: "n", FileBytes: MinFileBytes, OnError: func(error) { told++ }}
	fill(t, cfg, 0, 100)
	if told != 1 {
		t.Errorf("told %d times of a file that stays as it is", told)
	}
	fill(t, cfg, 100, 101)
	if lines := readAll(t, dir); len(lines) != 101 || told != 2 {
		t.Errorf("%d lines, told %d times", len(lines), told)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	fill(t, cfg, 101, 102)
	if files, err := Files(dir); err != nil || len(files) != 2 || !files[0].compressed || told != 2 {
		t.Errorf("%+v, %v, told %d times", files, err, told)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, cfg := range []Config{
		{Name: ""}, {Name: "a/b"}, {Name: "n", FileBytes: 1}, {Name: "n", FileBytes: MaxFileBytes + 1}, {Name: "n", Keep: 1}, {Name: "n", Keep: MaxKeep + 1},
	} {
		cfg.Dir = t.TempDir()
		if _, err := Open(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: file, Name: "n"}); err == nil {
		t.Error("a file taken for a directory")
	}
}

func TestParseName(t *testing.T) {
	for base, want := range map[string]string{
		"sha.decisions.000001.jsonl": "sha.decisions 1 false", "a.1234567.jsonl.zst": "a 1234567 true",
		"a.000001.jsonl.zst.tmp": "", "a.jsonl": "", ".000001.jsonl": "", "a.01.jsonl": "", "a.00000x.jsonl": "", "000001.jsonl": "",
	} {
		got := ""
		if f, ok := parseName(base); ok {
			got = fmt.Sprint(f.Name, " ", f.number, " ", f.compressed)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", base, got, want)
		}
	}
}
