package stamp

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// maxReflected bounds the sessions (key id and path id) of a reflector: a path each, and only who has a key can
	// open one.
	maxReflected = 4096
	// replayWindow is how far a probe may be behind the newest one: three seconds at the default rate.
	replayWindow = 64
	// maxOpen bounds an open probe: what follows the 44 bytes is copied, and the reply must not grow.
	maxOpen = 1472
)

// ReflectorStats count datagrams since the start.
type ReflectorStats struct {
	Answered   uint64 // with our TLV
	Open       uint64 // answered, without it
	Malformed  uint64 // wrong length or format
	Unknown    uint64 // key id not known
	Forged     uint64 // wrong tag
	Replayed   uint64
	OverBudget uint64 // open probes beyond the allowed rate
	Full       uint64 // no room for one more session
}

// Reflector is the user-space session-reflector. The zero value answers nobody: add keys. Not safe for concurrent use.
type Reflector struct {
	keys     map[uint32]*Key
	sessions map[sessionID]*window
	stats    ReflectorStats

	openPerSec int
	openSpent  int
	openSecond time.Duration
}

type sessionID struct {
	key  uint32
	path uint8
}

// window is a session's state: the next reply's sequence number and which probes were answered.
type window struct {
	count   uint32
	highest uint32
	seen    uint64 // bit i: highest-i
}

// accept is RFC 4303's window, with sequence numbers that wrap.
func (w *window) accept(seq uint32) bool {
	if w.seen == 0 {
		w.highest, w.seen = seq, 1
		return true
	}
	if ahead := int32(seq - w.highest); ahead > 0 {
		w.seen = w.seen<<min(uint(ahead), replayWindow) | 1
		w.highest = seq
		return true
	}
	behind := w.highest - seq
	if behind >= replayWindow || w.seen>>behind&1 == 1 {
		return false
	}
	w.seen |= 1 << behind
	return true
}

// AddKey lets a session-sender in. A key with the same id is replaced and its sessions start anew.
func (r *Reflector) AddKey(k *Key) {
	if r.keys == nil {
		r.keys, r.sessions = make(map[uint32]*Key), make(map[sessionID]*window)
	}
	r.RemoveKey(k.ID)
	r.keys[k.ID] = k
}

// RemoveKey forgets a session-sender.
func (r *Reflector) RemoveKey(id uint32) {
	delete(r.keys, id)
	for s := range r.sessions {
		if s.key == id {
			delete(r.sessions, s)
		}
	}
}

// AllowOpen answers up to perSecond probes a second without our TLV, in RFC 8762's stateless mode (the reply has the
// probe's sequence number), for measurement by foreign session-senders. Replies are as long as the probes. The default
// is 0: none.
func (r *Reflector) AllowOpen(perSecond int) { r.openPerSec = perSecond }

// Stats returns the counters.
func (r *Reflector) Stats() ReflectorStats { return r.stats }

// Reflect appends the reply to the datagram req, which came in at t2 with this TTL or hop limit and is answered at t3.
// The error says why there is no reply; it is one of this package's.
func (r *Reflector) Reflect(dst, req []byte, ttl uint8, t2, t3 time.Duration) ([]byte, error) {
	if hasTLV(req, directionProbe) {
		return r.reflect(dst, req, ttl, t2, t3)
	}
	if r.openPerSec > 0 {
		return r.reflectOpen(dst, req, ttl, t2, t3)
	}
	r.stats.Malformed++
	return dst, fmt.Errorf("datagram of %d bytes: %w", len(req), ErrFormat)
}

func (r *Reflector) reflect(dst, req []byte, ttl uint8, t2, t3 time.Duration) ([]byte, error) {
	p, err := ParseProbe(req, func(id uint32) *Key { return r.keys[id] })
	if err != nil {
		switch id := binary.BigEndian.Uint32(req[48:]); {
		case req[44] != flagUnrecognised || !zero(req[16:PacketLen]):
			r.stats.Malformed++
		case r.keys[id] == nil:
			r.stats.Unknown++
		default:
			r.stats.Forged++
		}
		return dst, err
	}
	id := sessionID{p.Key, p.Path}
	w := r.sessions[id]
	if w == nil {
		if len(r.sessions) >= maxReflected {
			r.stats.Full++
			return dst, fmt.Errorf("probe of path %d under key id %#x: %d sessions are the limit", p.Path, p.Key, maxReflected)
		}
		w = new(window)
		r.sessions[id] = w
	}
	if !w.accept(p.Seq) {
		r.stats.Replayed++
		return dst, fmt.Errorf("probe %d of path %d under key id %#x: %w", p.Seq, p.Path, p.Key, ErrReplay)
	}
	r.stats.Answered++
	dst = AppendReply(dst, req, w.count, ttl, t2, t3, r.keys[p.Key])
	w.count++
	return dst, nil
}

func (r *Reflector) reflectOpen(dst, req []byte, ttl uint8, t2, t3 time.Duration) ([]byte, error) {
	if len(req) < PacketLen || len(req) > maxOpen {
		r.stats.Malformed++
		return dst, fmt.Errorf("open probe of %d bytes, want %d to %d: %w", len(req), PacketLen, maxOpen, ErrLength)
	}
	if t2-r.openSecond >= time.Second {
		r.openSecond, r.openSpent = t2, 0
	}
	if r.openSpent >= r.openPerSec {
		r.stats.OverBudget++
		return dst, fmt.Errorf("open probe: %d a second are the limit: %w", r.openPerSec, ErrRate)
	}
	r.openSpent++
	r.stats.Open++
	n := len(dst)
	dst = AppendReply(dst, req, binary.BigEndian.Uint32(req), ttl, t2, t3, nil)
	dst = append(dst, req[PacketLen:]...)
	markTLVs(dst[n+PacketLen:])
	return dst, nil
}

// markTLVs sets the flags of the TLVs in a reply as RFC 8972, section 4 has it: recognised (padding is all we know),
// unrecognised, or malformed.
func markTLVs(b []byte) {
	for len(b) > 0 {
		if len(b) < tlvHeader || len(b)-tlvHeader < int(binary.BigEndian.Uint16(b[2:])) {
			b[0] |= flagMalformed
			return
		}
		if b[1] == tlvPadding {
			b[0] = 0
		} else {
			b[0] = flagUnrecognised
		}
		b = b[tlvHeader+int(binary.BigEndian.Uint16(b[2:])):]
	}
}
