package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

const (
	runDir = "/run/landbridge"
	suffix = ".sock"

	// maxSocketPath is sun_path less its terminating zero (unix(7)).
	maxSocketPath = 107
	// maxStatus bounds what a client reads: a node at all limits stays below it.
	maxStatus = 64 << 20
	// ioTimeout bounds one request, so that a stuck client holds no goroutine for ever.
	ioTimeout = 10 * time.Second
)

// ErrRunning marks a socket path on which another process answers.
var ErrRunning = errors.New("another process answers on the status socket")

// Dir returns the directory of the status sockets: /run/landbridge for root and wherever that directory exists, else
// one of the user's own.
func Dir() string {
	if st, err := os.Stat(runDir); os.Geteuid() == 0 || err == nil && st.IsDir() {
		return runDir
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "landbridge")
	}
	return filepath.Join(os.TempDir(), "landbridge-"+strconv.Itoa(os.Geteuid()))
}

// DefaultSocket returns the path of a node's status socket.
func DefaultSocket(node string) string { return filepath.Join(Dir(), node+suffix) }

// Sockets lists the status sockets in Dir, by name.
func Sockets() ([]string, error) {
	entries, err := os.ReadDir(Dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list status sockets: %w", err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && e.Type()&fs.ModeSocket != 0 {
			out = append(out, filepath.Join(Dir(), e.Name()))
		}
	}
	return out, nil
}

// Server is a running status server. Close it once.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Source is what a node shows of itself. Status must be set; what is nil of the rest is answered with 404. All functions
// are called from several goroutines at once.
type Source struct {
	Status  func() Status
	Paths   func() Paths // a copy for each call
	Events  *EventLog
	Explain func(FlowQuery) (Explanation, error) // an error that wraps ErrNoFlow where there is none
	// Decisions writes the log of decisions, one pathsel.Record a line.
	Decisions func(io.Writer) error
}

// Start listens on a Unix socket, which only the own user (and root) can open, and serves what [Handler] does. A socket
// file nobody answers on is a crashed process's and is replaced; one that answers is ErrRunning.
func Start(path string, source Source) (*Server, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("status socket: path of %d bytes, the limit is %d: %s", len(path), maxSocketPath, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		ln, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("status socket: %w", err)
	}
	s := &Server{done: make(chan struct{}), http: &http.Server{
		Handler: Handler(source), ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, MaxHeaderBytes: 8 << 10,
	}}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(ln) // ends with ErrServerClosed; the listener's file goes with it
	}()
	return s, nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("status socket: %w", err)
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return hint.With(fmt.Errorf("status socket: %s exists and is no socket", path), "remove it, or name another one with --socket")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return hint.With(fmt.Errorf("status socket %s: %w", path, ErrRunning), "stop it, or give this one another name with --socket")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("status socket: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("status socket: %w", err)
	}
	return nil
}

// Close stops the server and removes the socket.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// Serve is Start until ctx ends.
func Serve(ctx context.Context, path string, source Source) error {
	s, err := Start(path, source)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}
