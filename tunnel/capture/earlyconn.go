package capture

import "io"

// earlyConn is a connection of which some bytes were read too early, together
// with the proxy request. Reading is for one goroutine at a time.
type earlyConn struct {
	*tcpConn
	early []byte
}

// withEarly returns c itself when nothing was read too early.
func withEarly(c *tcpConn, early []byte) Conn {
	if len(early) == 0 {
		return c
	}
	return &earlyConn{tcpConn: c, early: early}
}

// Read implements net.Conn.
func (c *earlyConn) Read(b []byte) (int, error) {
	if len(c.early) == 0 || len(b) == 0 {
		return c.tcpConn.Read(b)
	}
	n := copy(b, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// WriteTo hides that of net.TCPConn, which io.Copy would prefer to Read.
func (c *earlyConn) WriteTo(w io.Writer) (int64, error) {
	var done int64
	if len(c.early) > 0 {
		n, err := w.Write(c.early)
		done = int64(n)
		if c.early = c.early[n:]; err != nil {
			return done, err
		}
		c.early = nil
	}
	n, err := c.tcpConn.WriteTo(w)
	return done + n, err
}
