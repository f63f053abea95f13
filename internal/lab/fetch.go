package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// archivePort is where the origin's web server offers the demo's archive.
const archivePort = 8080

// fetched is what a client got of an archive.
type fetched struct {
	bytes int64
	took  time.Duration // from the request on
	stall time.Duration
	sum   string // SHA-256 of it
	err   error  // nil also when the time was up
}

// fetch gets an archive over HTTP, in one flow, for at most the limit.
func fetch(ctx context.Context, nw Network, a *archive, times int, rec *recorder, limit time.Duration) (got fetched) {
	l, err := nw.Listen(archivePort)
	if err != nil {
		return fetched{err: fmt.Errorf("origin: %w", err)}
	}
	serving, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serveHTTP(serving, l, archiveHandler(a, times)) }()
	defer func() {
		stopServing()
		if err := <-served; err != nil && got.err == nil {
			got.err = err
		}
	}()

	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return nw.Dial(ctx, archivePort) },
		DisableCompression: true,
		ReadBufferSize:     256 << 10,
	}
	defer transport.CloseIdleConnections()
	h := sha256.New()
	begin := time.Now()
	defer func() {
		got.took, got.sum = time.Since(begin), fmt.Sprintf("%x", h.Sum(nil))
		got.stall = rec.stallMax(time.Now())
		if errors.Is(got.err, context.DeadlineExceeded) {
			got.err = nil
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://origin/archive", nil)
	if err != nil {
		got.err = err
		return got
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		got.err = err
		return got
	}
	defer resp.Body.Close()
	if want := a.Bytes * int64(times); resp.StatusCode != http.StatusOK || resp.ContentLength != want {
		got.err = fmt.Errorf("origin answered %s with %d bytes, want %d", resp.Status, resp.ContentLength, want)
		return got
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			rec.add(0, n, time.Now())
			h.Write(buf[:n])
			got.bytes += int64(n)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				got.err = fmt.Errorf("after %d bytes: %w", got.bytes, err)
			}
			return got
		}
	}
}

// archiveHandler serves an archive, several times over as one body. A gzip file stays one that way.
func archiveHandler(a *archive, times int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(a.Bytes*int64(times), 10))
		src := &repeated{path: a.path, times: times}
		defer src.Close()
		io.CopyBuffer(onlyWriter{w}, src, make([]byte, 256<<10)) // fails when the client has seen enough
	})
}
