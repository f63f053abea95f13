package stamp

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	// PacketLen is an RFC 8762 packet in unauthenticated mode, probe or reply.
	PacketLen = 44
	// TLVLen is our TLV with its header.
	TLVLen = 20
	// Len is the length of a probe or reply with our TLV.
	Len = PacketLen + TLVLen
	// Port is the UDP port of a reflector (RFC 8762, section 4.1).
	Port = 862

	// The TLV (RFC 8972, section 4).
	flagUnrecognised = 0x80
	flagMalformed    = 0x40
	tlvHeader        = 4
	tlvPadding       = 1   // RFC 8972, section 4.1
	tlvType          = 252 // private use
	directionProbe   = 0
	directionReply   = 1

	// ErrorEstimate is what our session-senders send: S=0 (not synchronised to UTC), Z=1 (PTP format), scale 0, multiplier
	// 1 (RFC 8762, section 4.2.1; a multiplier of 0 is not allowed).
	ErrorEstimate = 0x4001
	// ReplyErrorEstimate is what our reflectors send: S=0, Z=0 (NTP format), 1 * 2^-32 * 2^22 s, about a millisecond.
	ReplyErrorEstimate = 0x1601
	zBit               = 0x4000
)

// Errors of the parsers. What they mark is dropped and counted; nothing is answered.
var (
	ErrLength    = errors.New("wrong length")
	ErrFormat    = errors.New("not of this format")
	ErrKey       = errors.New("unknown key id")
	ErrTag       = errors.New("wrong tag")
	ErrReplay    = errors.New("sequence number seen before or too old")
	ErrUnmatched = errors.New("no such probe")
	ErrRate      = errors.New("more open probes than allowed")
)

// Key authenticates one session-sender's probes and the replies to them. Use [NewKey].
type Key struct {
	ID    uint32
	words [2]uint64
}

// NewKey makes a key of 128 secret bits.
func NewKey(id uint32, secret [16]byte) *Key {
	return &Key{id, [2]uint64{binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])}}
}

// Words returns the key as the BPF programs' map has it, k0 and k1.
func (k *Key) Words() [2]uint64 { return k.words }

// Probe is a session-sender's packet.
type Probe struct {
	Seq  uint32
	Sent time.Duration // T1 on the sender's clock, 0 to 2^32 s
	Path uint8
	SSID uint16
	Key  uint32 // key id, 0 for an open probe
	Open bool   // without our TLV: RFC 8762 and no more

	errorEstimate uint16
}

// Reply is what a session-sender learns from a reply. Durations are on the clocks of the sender (T1, T4) and the
// reflector (T2, T3), whose difference is unknown.
type Reply struct {
	Path           uint8
	Key            uint32
	Seq            uint32 // of the probe
	Count          uint32 // the reflector's own sequence number
	T1, T2, T3, T4 time.Duration
	Left           time.Duration // when the probe left the NIC, where that was seen; 0: T1 stands for it
	TTL            uint8         // the probe's, on arrival at the reflector
	Open           bool          // without our TLV: not authenticated
}

// RTT is the round trip without the time in the reflector.
func (r *Reply) RTT() time.Duration { return r.T4 - r.left() - (r.T3 - r.T2) }

func (r *Reply) left() time.Duration {
	if r.Left != 0 {
		return r.Left
	}
	return r.T1
}

// AppendProbe appends the packet of p to dst: with our TLV under key or, with key nil, RFC 8762's 44 bytes alone.
func AppendProbe(dst []byte, p *Probe, key *Key) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, PacketLen)...)
	b := dst[n:]
	binary.BigEndian.PutUint32(b, p.Seq)
	putPTP(b[4:], p.Sent)
	binary.BigEndian.PutUint16(b[12:], ErrorEstimate)
	binary.BigEndian.PutUint16(b[14:], uint16(p.Path)+1)
	if key == nil {
		return dst
	}
	dst = append(dst, flagUnrecognised, tlvType, 0, TLVLen-tlvHeader)
	dst = binary.BigEndian.AppendUint32(dst, key.ID)
	dst = binary.BigEndian.AppendUint32(dst, directionProbe)
	return key.seal(dst, n)
}

// seal appends the tag of the packet that begins at n.
func (k *Key) seal(dst []byte, n int) []byte {
	return binary.LittleEndian.AppendUint64(dst, k.tag(dst[n:]))
}

func (k *Key) authentic(b []byte) bool {
	var want [8]byte
	binary.LittleEndian.PutUint64(want[:], k.tag(b))
	return subtle.ConstantTimeCompare(want[:], b[Len-8:Len]) == 1
}

// hasTLV reports whether b is a packet with our TLV and nothing else behind it.
func hasTLV(b []byte, direction uint32) bool {
	return len(b) == Len && b[45] == tlvType && b[46] == 0 && b[47] == TLVLen-tlvHeader && binary.BigEndian.Uint32(b[52:]) == direction
}

// IsProbe and IsReply say what a datagram with our TLV claims to be; nothing is authenticated yet.
func IsProbe(b []byte) bool { return hasTLV(b, directionProbe) }
func IsReply(b []byte) bool { return hasTLV(b, directionReply) }

// KeyID is the key that a datagram with our TLV names.
func KeyID(b []byte) (id uint32, ok bool) {
	if !IsProbe(b) && !IsReply(b) {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[48:]), true
}

// ParseProbe reads a probe that carries our TLV and checks its tag. key returns the key with an id, or nil.
func ParseProbe(b []byte, key func(id uint32) *Key) (Probe, error) {
	if len(b) != Len {
		return Probe{}, fmt.Errorf("probe of %d bytes, want %d: %w", len(b), Len, ErrLength)
	}
	if !hasTLV(b, directionProbe) || b[44] != flagUnrecognised || !zero(b[16:PacketLen]) {
		return Probe{}, fmt.Errorf("probe: %w", ErrFormat)
	}
	id := binary.BigEndian.Uint32(b[48:])
	k := key(id)
	if k == nil {
		return Probe{}, fmt.Errorf("probe: key id %#x: %w", id, ErrKey)
	}
	if !k.authentic(b) {
		return Probe{}, fmt.Errorf("probe: key id %#x: %w", id, ErrTag)
	}
	p := parseOpen(b)
	p.Path, p.Key, p.Open = pathOf(b), id, false
	return p, nil
}

func parseOpen(b []byte) Probe {
	e := binary.BigEndian.Uint16(b[12:])
	return Probe{
		Seq: binary.BigEndian.Uint32(b), Sent: timestamp(b[4:], e), SSID: binary.BigEndian.Uint16(b[14:]), Open: true, errorEstimate: e,
	}
}

func zero(b []byte) bool {
	var or byte
	for _, c := range b {
		or |= c
	}
	return or == 0
}

// AppendReply appends the reply to the probe in the datagram req: count is the reflector's sequence number, ttl what
// the probe arrived with, t2 and t3 the reflector's times. Key is the probe's, nil for an open one.
func AppendReply(dst, req []byte, count uint32, ttl uint8, t2, t3 time.Duration, key *Key) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, PacketLen)...)
	b := dst[n:]
	binary.BigEndian.PutUint32(b, count)
	putNTP(b[4:], t3)
	binary.BigEndian.PutUint16(b[12:], ReplyErrorEstimate)
	copy(b[14:16], req[14:16])
	putNTP(b[16:], t2)
	copy(b[24:38], req[:14]) // sequence number, timestamp and error estimate of the sender
	b[40] = ttl
	if key == nil {
		return dst
	}
	dst = append(dst, 0, tlvType, 0, TLVLen-tlvHeader)
	dst = binary.BigEndian.AppendUint32(dst, key.ID)
	dst = binary.BigEndian.AppendUint32(dst, directionReply)
	return key.seal(dst, n)
}

// ParseReply reads a reply that arrived at t4 and carries our TLV, and checks its tag. key returns the key with an id,
// or nil.
func ParseReply(b []byte, t4 time.Duration, key func(id uint32) *Key) (Reply, error) {
	if len(b) != Len {
		return Reply{}, fmt.Errorf("reply of %d bytes, want %d: %w", len(b), Len, ErrLength)
	}
	if !hasTLV(b, directionReply) || b[44] != 0 {
		return Reply{}, fmt.Errorf("reply: %w", ErrFormat)
	}
	id := binary.BigEndian.Uint32(b[48:])
	k := key(id)
	if k == nil {
		return Reply{}, fmt.Errorf("reply: key id %#x: %w", id, ErrKey)
	}
	if !k.authentic(b) {
		return Reply{}, fmt.Errorf("reply: key id %#x: %w", id, ErrTag)
	}
	r := parseReply(b, t4)
	r.Path, r.Key = pathOf(b), id
	return r, nil
}

// ParseOpenReply reads the reply of any RFC 8762 reflector to an open probe, or to one whose TLV it did not know; what
// follows the 44 bytes is not looked at. Nothing in it is authenticated.
func ParseOpenReply(b []byte, t4 time.Duration) (Reply, error) {
	if len(b) < PacketLen {
		return Reply{}, fmt.Errorf("reply of %d bytes, want at least %d: %w", len(b), PacketLen, ErrLength)
	}
	r := parseReply(b, t4)
	r.Open = true
	r.Path = pathOf(b)
	return r, nil
}

// pathOf is the path that the SSID names; 0 from a reflector that knows RFC 8762 only.
func pathOf(b []byte) uint8 {
	if ssid := binary.BigEndian.Uint16(b[14:]); ssid > 0 {
		return uint8(ssid - 1)
	}
	return 0
}

func parseReply(b []byte, t4 time.Duration) Reply {
	theirs, ours := binary.BigEndian.Uint16(b[12:]), binary.BigEndian.Uint16(b[36:])
	return Reply{
		Seq: binary.BigEndian.Uint32(b[24:]), Count: binary.BigEndian.Uint32(b),
		T1: timestamp(b[28:], ours), T2: timestamp(b[16:], theirs), T3: timestamp(b[4:], theirs), T4: t4, TTL: b[40],
	}
}

// putPTP writes the truncated PTPv2 format: seconds and nanoseconds, 32 bits each.
func putPTP(b []byte, t time.Duration) {
	binary.BigEndian.PutUint32(b, uint32(t/time.Second))
	binary.BigEndian.PutUint32(b[4:], uint32(t%time.Second))
}

// putNTP writes NTP's format, rounded up so that timestamp reads the same nanosecond.
func putNTP(b []byte, t time.Duration) {
	binary.BigEndian.PutUint32(b, uint32(t/time.Second))
	binary.BigEndian.PutUint32(b[4:], uint32((uint64(t%time.Second)<<32+uint64(time.Second)-1)/uint64(time.Second)))
}

// PTP reads the truncated PTPv2 format from its 64 bits.
func PTP(v uint64) time.Duration {
	return time.Duration(v>>32)*time.Second + time.Duration(v&0xffffffff)
}

// NTP reads NTP's format from its 64 bits.
func NTP(v uint64) time.Duration {
	return time.Duration(v>>32)*time.Second + time.Duration((v&0xffffffff)*uint64(time.Second)>>32)
}

// timestamp reads either format (RFC 8762, section 4.2.1): PTP with the Z bit, else NTP's fraction of 2^-32 s.
func timestamp(b []byte, errorEstimate uint16) time.Duration {
	v := binary.BigEndian.Uint64(b)
	if errorEstimate&zBit != 0 {
		return PTP(v)
	}
	return NTP(v)
}
