package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/tunnel/compress"
)

const (
	// firstWait is how long the flow header waits for the client's first bytes, to share a packet with them. A client
	// that waits for the server to speak first loses this much.
	firstWait = time.Millisecond
	// headerWait bounds how long a stream may stay open without its header.
	headerWait = 10 * time.Second
	// lingerWait is how long a connection is drained after everything for it was written, so that a reset for what it
	// still sends does not overtake that.
	lingerWait = 5 * time.Second
	// codecIdle is how long an idle flow keeps its compressor.
	codecIdle = 10 * time.Second
	// bulkElephantBytes moves flows of class bulk early: where they go is known.
	bulkElephantBytes = 16 << 10
)

// endFlow is a flow at one of its ends: a connection on one side, a hop on the other.
type endFlow struct {
	node   *Node
	hdr    Header
	conn   Conn
	hop    *hop
	began  time.Time
	finish sync.Once
	code   atomic.Uint32 // why it was aborted
	remote atomic.Bool   // the other end decided so
}

// abort ends the flow at once: the connection is reset and both directions of the hop cancelled.
func (f *endFlow) abort(c Code) {
	f.finish.Do(func() {
		f.code.Store(uint32(c))
		_ = f.conn.Reset() // its error is the end it asks for
		f.hop.send.cancel(c)
		f.hop.recv.cancel(c)
	})
}

func (f *endFlow) aborted() bool { return f.code.Load() != 0 }

// abortFor aborts for an error of the hop.
func (f *endFlow) abortFor(err error) {
	var re *ResetError
	if errors.As(err, &re) {
		f.remote.Store(re.Remote)
		f.abort(re.Code)
		return
	}
	f.node.log.Warn("flow broken", "flow", flowID(f.hdr.ID), "peer", f.hop.ses.peer.name, "error", err)
	f.abort(CodeProtocol)
}

// run copies both directions until they are over. It returns a *ResetError if the flow did not end in order.
func (f *endFlow) run() error {
	n := f.node
	n.track(f)
	defer n.untrack(f)
	stop := context.AfterFunc(n.ctx, func() { f.abort(CodeShutdown) })
	defer stop()
	down := make(chan error, 1)
	go func() { down <- f.download() }()
	stoppedEarly := f.upload()
	err := <-down
	if stoppedEarly && err == nil && !f.aborted() {
		_ = f.conn.SetReadDeadline(time.Now().Add(lingerWait))
		_, _ = io.Copy(io.Discard, f.conn)
	}
	_ = f.conn.Close() // both directions are over; a second close is harmless
	c := Code(f.code.Load())
	if c == 0 {
		c = CodeNotRead
	}
	f.hop.close(c)
	if c := Code(f.code.Load()); c != 0 {
		return &ResetError{Code: c, Remote: f.remote.Load()}
	}
	return err
}

// upload sends what the connection says. It reports whether the other end stopped reading before the end.
func (f *endFlow) upload() (stoppedEarly bool) {
	var in buffer
	defer in.release()
	var enc *compress.Encoder
	if f.hdr.Codec == CodecZstd {
		enc = f.node.pool.Encoder()
		defer enc.Release()
	}
	send := f.hop.send
	fail := func(err error) bool {
		if stopped(err) && !f.aborted() {
			send.cancel(codeOf(err))
			return true
		}
		f.abortFor(err)
		return false
	}
	if send.prefix != nil {
		if f.conn.SetReadDeadline(time.Now().Add(firstWait)) != nil {
			if err := send.flush(); err != nil {
				return fail(err)
			}
		}
	}
	timed := send.prefix != nil // a read deadline is set
	waiting, packed := waitingIn(f.conn), 1.0
	for {
		buf := in.fit()
		room := min(len(buf)-bufRoom, maxChunk)
		n, err := f.conn.Read(buf[bufRoom : bufRoom+room])
		in.read(n, room)
		if timed {
			_ = f.conn.SetReadDeadline(time.Time{})
			timed = false
			if errors.Is(err, os.ErrDeadlineExceeded) && !f.aborted() {
				err = nil
				if n == 0 {
					if werr := f.idle(enc); werr != nil {
						return fail(werr)
					}
					continue
				}
			}
		}
		if n > 0 {
			f.node.stats.bytesIn.Add(uint64(n))
			if send.moveAt >= 0 {
				send.behind = int64(packed * float64(waiting()))
			}
			sent := send.sent
			if werr := f.sendChunk(enc, buf, n); werr != nil {
				return fail(werr)
			}
			packed = float64(send.sent-sent) / float64(n)
		}
		switch {
		case err == nil:
		case f.aborted():
			return false
		case err == io.EOF:
			if werr := send.eof(); werr != nil {
				return fail(werr)
			}
			return false
		default:
			// What was read before the reset arrives before it: the other code would overtake it.
			c := connCode(err)
			f.hop.recv.cancel(CodeNotRead)
			send.reset(c)
			f.abort(c)
			return false
		}
		if enc != nil && enc.Holding() {
			timed = f.conn.SetReadDeadline(time.Now().Add(codecIdle)) == nil
		}
	}
}

// idle is called when the connection had nothing to say for a while.
func (f *endFlow) idle(enc *compress.Encoder) error {
	if enc != nil && enc.Release() == compress.EndRaw {
		return f.hop.send.mark(frameZstdEnd)
	}
	return f.hop.send.flush()
}

// sendChunk sends n bytes at buf[bufRoom:], compressed where that makes them fewer.
func (f *endFlow) sendChunk(enc *compress.Encoder, buf []byte, n int) error {
	send := f.hop.send
	if enc == nil {
		return send.frame(frameRaw, buf, bufRoom, n)
	}
	packed := largeBufs.Get().(*[largeBuf]byte)
	defer largeBufs.Put(packed)
	out, form := enc.Encode(packed[:bufRoom], buf[bufRoom:bufRoom+n])
	switch form {
	case compress.Start:
		return send.frame(frameZstdStart, out, bufRoom, len(out)-bufRoom)
	case compress.Continue:
		return send.frame(frameZstd, out, bufRoom, len(out)-bufRoom)
	case compress.EndRaw:
		if err := send.mark(frameZstdEnd); err != nil {
			return err
		}
	}
	return send.frame(frameRaw, buf, bufRoom, n)
}

// download hands the connection what the hop says.
func (f *endFlow) download() error {
	recv := f.hop.recv
	x := expander{recv: recv, pool: f.node.pool}
	defer x.release()
	deliver := func(b []byte) error {
		f.node.stats.bytesOut.Add(uint64(len(b)))
		return recv.giveConn(f.conn, b)
	}
	for {
		k, b, err := recv.chunk()
		if err == io.EOF {
			_ = f.conn.CloseWrite() // fails only if the connection is gone, which upload sees
			return nil
		}
		var werr error
		if err == nil {
			switch {
			case f.hdr.Codec == CodecRaw && k != frameRaw:
				err = fmt.Errorf("%w: frame kind %d in a raw flow", ErrMalformed, k)
			case k == frameRaw:
				werr = deliver(b)
			default:
				werr, err = x.frame(k, b, deliver)
			}
		}
		if err != nil {
			if !recv.cancelled() { // by upload, which deals with the flow
				f.abortFor(err)
			}
			return err
		}
		if werr != nil {
			// The sender learns that nobody reads any more. The other direction ends by itself: reading from a broken
			// connection gives what is left, then the error.
			recv.cancel(CodeNotRead)
			_ = f.conn.SetReadDeadline(time.Now().Add(lingerWait))
			return &ResetError{Code: CodeNotRead}
		}
	}
}

// expander turns zstd frames back into bytes.
type expander struct {
	recv *recvHalf
	pool *compress.Pool
	dec  *compress.Decoder
	part []byte // unread part of the current frame that has arrived
}

// blockBufs hold one expanded zstd block.
var blockBufs = sync.Pool{New: func() any { return new([compress.BlockSize]byte) }}

// frame expands the frame whose first bytes are b, waiting for the rest of it, and delivers it block by block.
func (x *expander) frame(k frameKind, b []byte, deliver func([]byte) error) (werr, err error) {
	if k == frameZstdEnd {
		x.release()
		return nil, nil
	}
	if x.dec == nil {
		if k != frameZstdStart {
			return nil, fmt.Errorf("%w: zstd frame before the start of its stream", ErrMalformed)
		}
		if x.dec, err = x.pool.Decoder(); err != nil {
			x.recv.ses.node.log.Warn("flow reset", "error", err)
			return nil, &ResetError{Code: CodeLimit}
		}
	}
	x.part = b
	if k == frameZstdStart {
		if err := x.dec.Start(x); err != nil {
			return nil, err
		}
	}
	buf := blockBufs.Get().(*[compress.BlockSize]byte)
	defer blockBufs.Put(buf)
	for len(x.part) > 0 || x.recv.left > 0 {
		n, err := x.dec.Read(buf[:])
		if err != nil {
			return nil, err
		}
		if err := deliver(buf[:n]); err != nil {
			return err, nil
		}
	}
	return nil, nil
}

// Read gives the zstd decoder the rest of the current frame: blocks do not cross frames.
func (x *expander) Read(p []byte) (int, error) {
	if len(x.part) == 0 {
		if x.recv.left == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		var err error
		if _, x.part, err = x.recv.chunk(); err != nil {
			return 0, err
		}
	}
	n := copy(p, x.part)
	x.part = x.part[n:]
	return n, nil
}

func (x *expander) release() {
	if x.dec != nil {
		x.dec.Release()
		x.dec = nil
	}
}

type flowID uint64

func (id flowID) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("%016x", uint64(id))) }

// HandleFlow carries a captured connection to its destination, and returns when it is over. It takes the connection
// over: it is closed or reset when HandleFlow returns. The error says why the flow did not end in order; it is logged
// already. Cancelling ctx resets the flow.
func (n *Node) HandleFlow(ctx context.Context, f Flow) error {
	err := n.handleFlow(ctx, f)
	if err != nil {
		n.logReset(f.Src, f.Dst, err)
	}
	return err
}

func (n *Node) logReset(src, dst netip.AddrPort, err error) {
	level := slog.LevelInfo
	var re *ResetError
	if errors.As(err, &re) {
		n.stats.reset(re.Code)
		if re.Code == CodeReset || re.Code == CodeNotRead { // what connections do, not what the tunnel did
			level = slog.LevelDebug
		}
	}
	n.log.Log(context.Background(), level, "flow reset", "src", src, "dst", dst, "reason", err)
}

func (n *Node) handleFlow(ctx context.Context, f Flow) error {
	refuse := func(err error) error {
		_ = f.Conn.Reset() // its error is the end it asks for
		return err
	}
	release, err := n.admit()
	if err != nil {
		return refuse(err)
	}
	defer release()
	src, dst := unmap(f.Src), unmap(f.Dst)
	tenant, class, next, err := n.router().Route(src.Addr(), dst.Addr())
	if err != nil {
		return refuse(fmt.Errorf("%w: %w", &ResetError{Code: CodeNoRoute}, err))
	}
	if f.Class != nil {
		class = *f.Class
	}
	h := Header{ID: rand.Uint64(), Class: class, Tenant: tenant, HopLimit: MaxHops, Src: src, Dst: dst}
	if !n.cfg.NoCompression {
		h.Codec = CodecZstd
	}
	if next == "" {
		return n.direct(ctx, h, f.Conn)
	}
	hp, err := n.openHop(ctx, next, h)
	if err != nil {
		return refuse(err)
	}
	e := &endFlow{node: n, hdr: h, conn: f.Conn, hop: hp, began: time.Now()}
	if err := hp.attach(e.abort); err != nil {
		hp.close(CodeLaneLost)
		return refuse(err)
	}
	stop := context.AfterFunc(ctx, func() { e.abort(CodeReset) })
	defer stop()
	return e.run()
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// handleFlow serves a flow that a peer opened.
func (s *session) handleFlow(l *lane, str *quic.Stream) {
	n := s.node
	recv := newRecvHalf(s, l, str, 0, forward)
	_ = str.SetReadDeadline(time.Now().Add(headerWait)) // never fails
	h, err := recv.header()
	_ = str.SetReadDeadline(time.Time{})
	hp := &hop{ses: s, str: str, recv: recv, send: newSendHalf(s, l, str, h.ID, backward, n.moveAt(h.Class))}
	recv.key.id = h.ID
	if err != nil {
		c := CodeProtocol
		if errors.Is(err, ErrVersion) {
			c = CodeVersion
		}
		n.log.Warn("flow refused", "peer", s.peer.name, "reason", c, "error", err)
		hp.refuse(c)
		return
	}
	log := n.log.With("peer", s.peer.name, "flow", flowID(h.ID), "tenant", h.Tenant, "src", h.Src, "dst", h.Dst)
	refuse := func(c Code, err error) {
		n.stats.reset(c)
		log.Info("flow refused", "reason", c, "error", err)
		hp.refuse(c)
	}
	release, err := n.admit()
	if err != nil {
		refuse(CodeLimit, err)
		return
	}
	defer release()
	r := n.router()
	if err := r.Authorise(s.peer.name, h); err != nil {
		refuse(CodeDenied, err)
		return
	}
	_, _, next, err := r.Route(h.Src.Addr(), h.Dst.Addr())
	if err != nil {
		refuse(CodeNoRoute, err)
		return
	}
	if next != "" {
		s.relay(hp, h, next, refuse)
		return
	}
	// Who gives up while the exit connects need not wait for it.
	ctx, cancel := context.WithTimeout(str.Context(), n.cfg.Limits.DialTimeout)
	defer cancel()
	c, err := n.cfg.Dial(ctx, h.Src, h.Dst)
	if err != nil {
		code := dialCode(err)
		if s.ctx.Err() != nil {
			code = CodeShutdown
		}
		refuse(code, err)
		return
	}
	e := &endFlow{node: n, hdr: h, conn: WrapConn(c), hop: hp, began: time.Now()}
	if err := hp.attach(e.abort); err != nil {
		_ = c.Close()
		refuse(CodeProtocol, err)
		return
	}
	if err := e.run(); err != nil {
		log.Debug("flow reset", "reason", err)
	}
}

// direct connects a flow whose destination is behind this node itself.
func (n *Node) direct(ctx context.Context, h Header, conn Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	dctx, dcancel := context.WithTimeout(ctx, n.cfg.Limits.DialTimeout)
	c, err := n.cfg.Dial(dctx, h.Src, h.Dst)
	dcancel()
	if err != nil {
		_ = conn.Reset()
		return fmt.Errorf("%w: %w", &ResetError{Code: dialCode(err)}, err)
	}
	far := WrapConn(c)
	var broken atomic.Bool
	reset := func() {
		broken.Store(true)
		_, _ = conn.Reset(), far.Reset()
	}
	defer context.AfterFunc(ctx, reset)()
	pipe := func(dst, src Conn) {
		if _, err := io.Copy(tcpOf(dst), tcpOf(src)); err != nil {
			reset()
			return
		}
		_ = dst.CloseWrite()
	}
	var wg sync.WaitGroup
	wg.Go(func() { pipe(far, conn) })
	pipe(conn, far)
	wg.Wait()
	if broken.Load() {
		return &ResetError{Code: CodeReset}
	}
	_, _ = conn.Close(), far.Close()
	return nil
}

// tcpOf unwraps a connection so that io.Copy can splice.
func tcpOf(c Conn) net.Conn {
	if w, ok := c.(wrapped); ok {
		return w.Conn
	}
	return c
}
