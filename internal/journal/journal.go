// Package journal keeps a log of lines on disk: in numbered files of a bounded size, of which the oldest go, and all but
// the newest compressed. It can be read while it is written.
//
//   - [Open] starts or goes on with a journal; [Journal.Add] takes lines, and never waits for the disk.
//   - [Files] lists the files of a directory in the order they were written, and [OpenFile] reads one.
//
// A file is NAME.NUMBER.jsonl or, once it is complete, NAME.NUMBER.jsonl.zst. No file is renamed but to its final name, so
// that a reader that lists first and opens then misses at most what is dropped meanwhile. After a crash the last line of
// the newest file may be cut short: Open takes that part away, and a reader finds it without its newline.
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Config of a journal.
type Config struct {
	Dir  string // made if it is not there
	Name string // of the files; a file name without a dot at its end
	// FileBytes is the size from which a new file is begun, 0 for DefaultFileBytes; Keep is how many files there are with
	// the newest, 0 for DefaultKeep.
	FileBytes int64
	Keep      int
	// OnError is told once when the disk does not take lines, and again after it did, and of files that are not compressed
	// or dropped; may be nil. From Open, and from the journal's goroutine.
	OnError func(error)
}

// Defaults and limits.
const (
	// DefaultFileBytes and DefaultKeep hold a month of one peer's decisions in less than 100 MB: JSON lines shrink to a
	// twentieth.
	DefaultFileBytes = 16 << 20
	DefaultKeep      = 64

	MinFileBytes = 64 << 10
	MaxFileBytes = 1 << 30
	MinKeep      = 2
	MaxKeep      = 10_000

	// backlog bounds the lines that wait for the disk, some seconds of a border that flaps; more are lost, and counted.
	backlog = 256
)

// ErrConfig is wrapped by errors about a Config's values.
var ErrConfig = errors.New("invalid journal")

// Journal is one that is being written. Safe for concurrent use.
type Journal struct {
	cfg   Config
	lines chan []byte
	lost  atomic.Uint64
	done  sync.WaitGroup

	mu     sync.Mutex
	closed bool

	// Of the writing goroutine.
	file   *os.File
	number uint64
	size   int64
	failed bool
}

// Open makes the directory, mends what a crash left, and goes on with the newest file.
func Open(cfg Config) (*Journal, error) {
	if cfg.FileBytes == 0 {
		cfg.FileBytes = DefaultFileBytes
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	switch {
	case cfg.Name == "" || cfg.Name != filepath.Base(cfg.Name):
		return nil, fmt.Errorf("%w: name %q, want that of a file", ErrConfig, cfg.Name)
	case cfg.FileBytes < MinFileBytes || cfg.FileBytes > MaxFileBytes:
		return nil, fmt.Errorf("%w: files of %d bytes outside %d to %d", ErrConfig, cfg.FileBytes, MinFileBytes, MaxFileBytes)
	case cfg.Keep < MinKeep || cfg.Keep > MaxKeep:
		return nil, fmt.Errorf("%w: %d files outside %d to %d", ErrConfig, cfg.Keep, MinKeep, MaxKeep)
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{cfg: cfg, lines: make(chan []byte, backlog)}
	if err := j.resume(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j.done.Go(j.write)
	return j, nil
}

// resume opens the newest file, without the line that a crash cut short, and finishes what was left undone.
func (j *Journal) resume() error {
	files, err := j.own()
	if err != nil {
		return err
	}
	for i, f := range files {
		var err error
		switch {
		case f.compressed: // and complete: it has its name
			if err = os.Remove(strings.TrimSuffix(f.path, suffixCompressed)); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		case i < len(files)-1:
			err = compress(f.path)
		}
		if err != nil { // no room, most likely: what there is of it is for new lines
			j.complain(err)
		}
	}
	if entries, err := os.ReadDir(j.cfg.Dir); err == nil { // half a compressed file is none
		for _, e := range entries {
			if base, ok := strings.CutSuffix(e.Name(), suffixUnfinished); ok {
				if f, ok := parseName(base); ok && f.Name == j.cfg.Name {
					_ = os.Remove(filepath.Join(j.cfg.Dir, e.Name()))
				}
			}
		}
	}
	if n := len(files); n > 0 {
		j.number = files[n-1].number
		if !files[n-1].compressed {
			return j.open(os.O_RDWR)
		}
	}
	j.number++
	return j.open(os.O_RDWR | os.O_CREATE | os.O_EXCL)
}

func (j *Journal) own() (mine []File, err error) {
	all, err := Files(j.cfg.Dir)
	for _, f := range all {
		if f.Name == j.cfg.Name {
			mine = append(mine, f)
		}
	}
	return mine, err
}

func (j *Journal) open(flags int) error {
	f, err := os.OpenFile(filepath.Join(j.cfg.Dir, fileName(j.cfg.Name, j.number)), flags, 0o640)
	if err != nil {
		return err
	}
	end, err := lastNewline(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return err
	}
	j.file, j.size = f, end
	return nil
}

// lastNewline returns the offset behind the last newline.
func lastNewline(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for end := st.Size(); end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Add takes a line, without its newline and without keeping it. It does not wait: a line that the disk is too slow for is
// lost, and counted by Lost.
func (j *Journal) Add(line []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	select {
	case j.lines <- append(append(make([]byte, 0, len(line)+1), line...), '\n'):
	default:
		j.lost.Add(1)
	}
}

// Lost is how many lines did not get to the disk.
func (j *Journal) Lost() uint64 { return j.lost.Load() }

// Close writes what waits and ends the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	close(j.lines)
	j.mu.Unlock()
	j.done.Wait()
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

func (j *Journal) write() {
	for line := range j.lines {
		err := j.append(line)
		if err != nil {
			j.lost.Add(1)
			if !j.failed {
				j.complain(err)
			}
		}
		j.failed = err != nil
	}
}

func (j *Journal) complain(err error) {
	if j.cfg.OnError != nil {
		j.cfg.OnError(fmt.Errorf("journal: %w", err))
	}
}

// append writes a line whole or not at all.
func (j *Journal) append(line []byte) error {
	if j.file != nil && j.size > 0 && j.size+int64(len(line)) > j.cfg.FileBytes {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	if j.file == nil { // the last attempt to begin a file failed
		if err := j.open(os.O_RDWR | os.O_CREATE); err != nil {
			return err
		}
	}
	n, err := j.file.Write(line)
	if err == nil {
		j.size += int64(n)
		return nil
	}
	// The disk is full, most likely: what was written of the line goes.
	_, serr := j.file.Seek(j.size, io.SeekStart)
	return errors.Join(err, j.file.Truncate(j.size), serr)
}

// rotate ends the file, begins the next, and drops the oldest. It fails only if there is no next.
func (j *Journal) rotate() error {
	old := j.file.Name()
	err := j.file.Close()
	j.file = nil
	j.number++
	if err != nil {
		return err
	}
	if err := j.open(os.O_RDWR | os.O_CREATE); err != nil {
		return err
	}
	err = compress(old)
	files, lerr := j.own()
	for len(files) > j.cfg.Keep {
		err = errors.Join(err, os.Remove(files[0].path))
		files = files[1:]
	}
	if err = errors.Join(err, lerr); err != nil {
		j.complain(err)
	}
	return nil
}

// compress replaces a file by its compressed form, which gets its name when it is complete.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path+suffixCompressed+suffixUnfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(z, in)
		err = errors.Join(err, z.Close(), out.Sync())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err = os.Rename(out.Name(), path+suffixCompressed); err != nil {
		return err
	}
	return os.Remove(path)
}
