package bond

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Every bond datagram is header, body, tag:
//
//	 0        1       2..5     6..8      9..12      13    14   15..17
//	ver|kind  path    bond id  path seq  send time  lane  aux  lane seq   body...   tag (12)
//
// Path and lane sequence numbers are the low 24 bits, the send time (microseconds of the sender's clock) the low 32; the
// receiver extends them. aux and lane seq mean: source: auxAgain for a repetition or auxStart, the packet's number; repair:
// symbols covered minus one, the first of them; report: 0, the report's number; open: the upper 8 bits of its own number, 0;
// otherwise 0. Source, probe and padding tell by auxFilling that the sender makes a queue on the path.
//
// Each byte here is one less of payload in every packet. 24 bits of a number are five hundred windows; a tag of 96 bits is
// what ESP has (RFC 4106, section 6), and what it guards besides the bond's own state is QUIC's, with tags of its own.
const (
	wireVersion = 2
	headerSize  = 18
	tagSize     = 12
	seqMask     = 1<<24 - 1
	// Overhead is what the bond adds to a lane packet, without UDP and IP: header, tag and the two bytes by which a
	// repair symbol is longer than what it protects.
	Overhead = headerSize + tagSize + 2
)

type kind uint8

const (
	kindSource  kind = 1 + iota // one QUIC packet
	kindRepair                  // FEC repair symbol
	kindReport                  // what arrived
	kindProbe                   // asks for a report on the same path
	kindPadding                 // fills a path while its rate is being found
	kindOpen                    // session handshake, under the static key
	kindClose                   // the sender's session ends
	kindEnd                     // first unassigned value
)

// ErrMalformed is returned for a datagram that does not parse.
var ErrMalformed = errors.New("malformed datagram")

// auxAgain marks a source datagram that repeats an earlier one; auxFilling the datagrams of a path whose sender looks
// for its rate, or drains the queue which that made; auxStart a source datagram of a bulk lane's first after a pause.
const (
	auxAgain   = 1
	auxFilling = 2
	auxStart   = 4
)

// tellsFilling tells whether auxFilling has a meaning in datagrams of the kind.
func (k kind) tellsFilling() bool { return k == kindSource || k == kindProbe || k == kindPadding }

type header struct {
	kind    kind
	path    uint8
	bond    uint32
	seq     uint32
	sent    uint32
	lane    uint8
	aux     uint8
	laneSeq uint32
}

func (h *header) put(b []byte) {
	_ = b[headerSize-1]
	b[0] = wireVersion<<4 | byte(h.kind)
	b[1] = h.path
	binary.BigEndian.PutUint32(b[2:], h.bond)
	putUint24(b[6:], h.seq)
	binary.BigEndian.PutUint32(b[9:], h.sent)
	b[13] = h.lane
	b[14] = h.aux
	putUint24(b[15:], h.laneSeq)
}

// openSeq is the whole number of a handshake, which nothing extends.
func (h *header) openSeq() uint32 { return h.seq | uint32(h.aux)<<24 }

func putUint24(b []byte, v uint32) { b[0], b[1], b[2] = byte(v>>16), byte(v>>8), byte(v) }

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

// parseHeader reads the header of a whole datagram (tag included). It makes no error text: anybody may send us noise.
func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < headerSize+tagSize || b[0]>>4 != wireVersion {
		return h, false
	}
	h.kind, h.path = kind(b[0]&15), b[1]
	if h.kind == 0 || h.kind >= kindEnd || h.path >= maxPaths {
		return h, false
	}
	h.bond = binary.BigEndian.Uint32(b[2:])
	h.seq = uint24(b[6:])
	h.sent = binary.BigEndian.Uint32(b[9:])
	h.lane = b[13]
	h.aux = b[14]
	h.laneSeq = uint24(b[15:])
	return h, true
}

// extend returns the 64-bit number nearest to around whose low 32 bits are low. Numbers start at 0.
func extend(low uint32, around uint64) uint64 { return extendBits(low, around, 32) }

// extend24 is extend for the numbers of a header.
func extend24(low uint32, around uint64) uint64 { return extendBits(low, around, 24) }

func extendBits(low uint32, around uint64, bits uint) uint64 {
	n := int64(around) + int64(int32((low-uint32(around))<<(32-bits))>>(32-bits))
	if n < 0 {
		n += 1 << bits
	}
	return uint64(n)
}

// openBody is the body of a kindOpen datagram: the sender's epoch and the newest epoch it has heard of the receiver, 0
// for none. The nonce of an open datagram is its epoch and path seq, which therefore never repeat together.
const openBodySize = 16

func putOpen(b []byte, epoch, echo uint64) {
	binary.BigEndian.PutUint64(b, epoch)
	binary.BigEndian.PutUint64(b[8:], echo)
}

func parseOpen(b []byte) (epoch, echo uint64, err error) {
	if len(b) != openBodySize {
		return 0, 0, fmt.Errorf("%w: open body of %d bytes, %d expected", ErrMalformed, len(b), openBodySize)
	}
	return binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), nil
}
