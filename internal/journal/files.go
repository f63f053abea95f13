package journal

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	suffix           = ".jsonl"
	suffixCompressed = ".zst"
	suffixUnfinished = ".tmp"
)

// maxWindow bounds the memory that a compressed file may ask for: ours ask for 8 MiB.
const maxWindow = 64 << 20

// File is one file of a journal.
type File struct {
	Name string // of the journal
	path string

	number     uint64
	compressed bool
}

// Path is where it is.
func (f *File) Path() string { return f.path }

func fileName(name string, number uint64) string {
	return fmt.Sprintf("%s.%06d%s", name, number, suffix)
}

// parseName is the inverse of fileName, compressed or not.
func parseName(base string) (f File, ok bool) {
	base, f.compressed = strings.CutSuffix(base, suffixCompressed)
	base, ok = strings.CutSuffix(base, suffix)
	dot := strings.LastIndexByte(base, '.')
	if !ok || dot < 1 {
		return f, false
	}
	var err error
	f.Name = base[:dot]
	f.number, err = strconv.ParseUint(base[dot+1:], 10, 63)
	return f, err == nil && len(base[dot+1:]) >= 6
}

// Files lists the files of all journals of a directory, by journal and then in the order they were written. Of a file that
// a crash left in both forms, the compressed one counts.
func Files(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, e := range entries {
		if f, ok := parseName(e.Name()); ok && e.Type().IsRegular() {
			f.path = filepath.Join(dir, e.Name())
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.number, b.number), strings.Compare(b.path, a.path))
	})
	return slices.CompactFunc(out, func(a, b File) bool { return a.Name == b.Name && a.number == b.number }), nil
}

// OpenFile opens a file of lines, and unpacks it if its name ends in .zst.
func OpenFile(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil || !strings.HasSuffix(path, suffixCompressed) {
		return f, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &unpacked{z, f}, nil
}

type unpacked struct {
	*zstd.Decoder
	f *os.File
}

func (u *unpacked) Close() error {
	u.Decoder.Close()
	return u.f.Close()
}
