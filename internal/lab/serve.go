package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// maxServed bounds one answer of the origin's web server: what a person may ask for by mistake.
const maxServed = 1 << 40

// originHandler is the origin's web server for people: /bytes/N is N incompressible bytes, /sha256/N their SHA-256.
// "?seed=S" picks another stream.
func originHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "Landbridge lab, origin\n  /bytes/N   N incompressible bytes\n  /sha256/N  the SHA-256 of the same\n")
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, seed, ok := asked(w, r)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		if n > 0 {
			sendStream(w, request{Seed: seed, Length: n}) // fails when the client has gone
		}
	})
	mux.HandleFunc("GET /sha256/{n}", func(w http.ResponseWriter, r *http.Request) {
		if n, seed, ok := asked(w, r); ok {
			fmt.Fprintf(w, "%x\n", StreamSum(seed, 0, n))
		}
	})
	return mux
}

func asked(w http.ResponseWriter, r *http.Request) (n int64, seed uint64, ok bool) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err == nil && (n < 0 || n > maxServed) {
		err = fmt.Errorf("%d bytes, want 0 to %d", n, int64(maxServed))
	}
	if s := r.URL.Query().Get("seed"); err == nil && s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return 0, 0, false
	}
	return n, seed, true
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("origin: %w", err)
	}
	return nil
}
