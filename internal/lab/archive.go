package lab

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/landbridge/landbridge/internal/hint"
)

// archive is one file the demo moves.
type archive struct {
	Payload
	path string
}

// goSource finds the source tree of the Go that builds the project.
func goSource(ctx context.Context) (string, error) {
	root := os.Getenv("GOROOT")
	if out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(out))
	}
	src := filepath.Join(root, "src")
	if _, err := os.Stat(filepath.Join(src, "go.mod")); root == "" || err != nil {
		return "", hint.With(errors.New("the demo moves the Go source tree and finds none"),
			"put the go command into PATH, or set GOROOT")
	}
	return src, nil
}

// packTree writes a tar of the tree at src and the gzip of it into dir. The same tree gives the same bytes: order,
// times and owners do not depend on the machine.
func packTree(ctx context.Context, src, dir string) (plain, packed *archive, err error) {
	tarFile, err := newSummed(filepath.Join(dir, "go-src.tar"))
	if err != nil {
		return nil, nil, err
	}
	defer tarFile.file.Close()
	gzFile, err := newSummed(filepath.Join(dir, "go-src.tar.gz"))
	if err != nil {
		return nil, nil, err
	}
	defer gzFile.file.Close()
	// Compressing takes longest: it runs beside the rest.
	pr, pw := io.Pipe()
	zipped := make(chan error, 1)
	go func() {
		gz := gzip.NewWriter(gzFile)
		_, err := io.CopyBuffer(onlyWriter{gz}, pr, make([]byte, 256<<10))
		if err == nil {
			err = gz.Close()
		}
		pr.CloseWithError(err)
		zipped <- err
	}()
	buffered := bufio.NewWriterSize(io.MultiWriter(tarFile, pw), 256<<10)
	err = writeTar(ctx, buffered, src)
	if err == nil {
		err = buffered.Flush()
	}
	pw.CloseWithError(err)
	if e := <-zipped; err == nil {
		err = e
	}
	if err == nil {
		plain, err = tarFile.archive()
	}
	if err == nil {
		packed, err = gzFile.archive()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("pack %s: %w", src, err)
	}
	return plain, packed, nil
}

func writeTar(ctx context.Context, w io.Writer, src string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !d.Type().IsRegular() {
			return nil // directories follow from the names; the tree has no links
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{
			Name: "go/src/" + filepath.ToSlash(rel), Size: info.Size(), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}); err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// summed is a file that knows its SHA-256 and length.
type summed struct {
	file *os.File
	sum  hash.Hash
	n    int64
}

func newSummed(path string) (*summed, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("demo payload: %w", err)
	}
	return &summed{file: f, sum: sha256.New()}, nil
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func (s *summed) archive() (*archive, error) {
	if err := s.file.Close(); err != nil {
		return nil, err
	}
	return &archive{
		path:    s.file.Name(),
		Payload: Payload{Name: filepath.Base(s.file.Name()), Bytes: s.n, SHA256: fmt.Sprintf("%x", s.sum.Sum(nil))},
	}, nil
}

// repeated reads a file several times over, as one stream.
type repeated struct {
	path  string
	times int
	file  *os.File
}

func (r *repeated) Read(p []byte) (int, error) {
	for {
		if r.file == nil {
			if r.times == 0 {
				return 0, io.EOF
			}
			r.times--
			f, err := os.Open(r.path)
			if err != nil {
				return 0, err
			}
			r.file = f
		}
		n, err := r.file.Read(p)
		if errors.Is(err, io.EOF) {
			r.file.Close()
			r.file, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (r *repeated) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// sum is the SHA-256 of the first n bytes of the archive, times times over.
func (a *archive) sum(times int, n int64) (string, error) {
	src := &repeated{path: a.path, times: times}
	defer src.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, src, n); err != nil {
		return "", fmt.Errorf("check %s: %w", a.Name, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// hostWords describe the machine for the report.
func hostWords() (kernel, goVersion string, cpus int) {
	kernel = runtime.GOOS
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = "Linux " + strings.TrimSpace(string(b))
	}
	return kernel, runtime.Version(), runtime.NumCPU()
}
