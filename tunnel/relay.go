package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// relayFlow is a flow between two hops. Frames pass as they are; each hop moves to a bulk lane on its own count.
type relayFlow struct {
	node    *Node
	hdr     Header
	in, out *hop
	began   time.Time
	once    sync.Once
	code    atomic.Uint32
}

func (f *relayFlow) abort(c Code) {
	f.once.Do(func() {
		f.code.Store(uint32(c))
		for _, h := range []*hop{f.in, f.out} {
			h.send.cancel(c)
			h.recv.cancel(c)
		}
	})
}

// relay passes a flow on to the next hop.
func (s *session) relay(in *hop, h Header, next string, refuse func(Code, error)) {
	n := s.node
	if h.HopLimit == 0 {
		refuse(CodeHopLimit, fmt.Errorf("hop limit of %d reached", MaxHops))
		return
	}
	if next == s.peer.name {
		refuse(CodeHopLimit, fmt.Errorf("route leads back to %q", next))
		return
	}
	h.HopLimit--
	out, err := n.openHop(in.str.Context(), next, h)
	if err != nil {
		refuse(codeOf(err), err)
		return
	}
	f := &relayFlow{node: n, hdr: h, in: in, out: out, began: time.Now()}
	if err := errors.Join(in.attach(f.abort), out.attach(f.abort)); err != nil {
		out.close(CodeProtocol)
		refuse(CodeProtocol, err)
		return
	}
	n.track(f)
	defer n.untrack(f)
	stop := context.AfterFunc(n.ctx, func() { f.abort(CodeShutdown) })
	defer stop()
	back := make(chan struct{})
	go func() {
		f.pump(out.recv, in.send)
		close(back)
	}()
	f.pump(in.recv, out.send)
	<-back
	c := Code(f.code.Load())
	if c == 0 {
		c = CodeNotRead
	}
	in.close(c)
	out.close(c)
}

// pump passes one direction on.
func (f *relayFlow) pump(recv *recvHalf, send *sendHalf) {
	if recv.w-recv.r <= frameHeader { // else the header goes out with what came with it
		if err := send.flush(); err != nil {
			f.broken(recv, send, err)
			return
		}
	}
	for {
		buf, from, to, err := recv.batch()
		if err != nil {
			f.ended(recv, send, err)
			return
		}
		f.node.stats.relayed.Add(uint64(to - from))
		if err := recv.give(send, buf, from, to); err != nil {
			f.broken(recv, send, err)
			return
		}
	}
}

// ended deals with the end of what arrives.
func (f *relayFlow) ended(recv *recvHalf, send *sendHalf, err error) {
	if err == io.EOF {
		if err := send.eof(); err != nil {
			f.broken(recv, send, err)
		}
		return
	}
	if recv.cancelled() { // by the other direction, which deals with the flow
		send.cancel(CodeNotRead)
		return
	}
	var re *ResetError
	c := CodeProtocol
	if errors.As(err, &re) {
		c = re.Code
	} else {
		f.node.log.Warn("flow broken", "flow", flowID(f.hdr.ID), "peer", recv.ses.peer.name, "error", err)
	}
	if recv.left > 0 {
		send.cancel(c) // a reset frame cannot stand in the middle of another
	} else {
		send.reset(c)
		// The other code would overtake what arrives before the reset.
		for _, h := range []*hop{f.in, f.out} {
			if h.send == send {
				h.recv.cancel(CodeNotRead)
			}
		}
	}
	f.abort(c)
}

// broken deals with a next hop that takes no more: if its end stopped reading, the other direction may go on.
func (f *relayFlow) broken(recv *recvHalf, send *sendHalf, err error) {
	c := codeOf(err)
	if stopped(err) && f.code.Load() == 0 {
		send.cancel(c)
		recv.cancel(c)
		return
	}
	f.abort(c)
}
