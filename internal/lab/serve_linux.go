package lab

import (
	"context"
	"fmt"
	"net"
)

// Serve is the origin's web server process of a lab that is up; it runs on the origin, on port 80.
func Serve(ctx context.Context, via string) error {
	w, err := wayNamed(via)
	if err != nil {
		return err
	}
	lc := net.ListenConfig{Control: congestion(w.congestion)}
	lc.SetMultipathTCP(w.multipath)
	l, err := lc.Listen(ctx, "tcp", ":80")
	if err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	return serveHTTP(ctx, l, originHandler())
}
