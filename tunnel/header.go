package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Codec says what the frames of a flow may hold.
type Codec uint8

const (
	CodecRaw  Codec = iota // raw frames only
	CodecZstd              // raw and zstd frames
	numCodecs
)

const (
	headerVersion = 1
	// MaxTenantLen bounds a tenant's name in a header, in bytes.
	MaxTenantLen = 64
	// MaxHops is the hop limit a flow starts with: more gateways in a row than this is a routing loop.
	MaxHops = 8

	headerPrefix = 3 // version, length
	headerFixed  = 12
	// maxHeader bounds what is read before a flow is known: the fixed part, two IPv6 addresses with ports, a tenant.
	maxHeader = headerFixed + 2*(1+16+2) + 1 + MaxTenantLen
)

var (
	// ErrVersion is returned for a header of another version.
	ErrVersion = errors.New("unknown flow header version")
	// ErrMalformed is returned for bytes that are no header, frame or message of this protocol.
	ErrMalformed = errors.New("malformed")
)

// Header opens a flow on a hop. Every node on the way reads it; HopLimit is the only field that changes.
//
//	version 1 | length 2 | class 1 | codec 1 | hop limit 1 | flags 1 (0) | id 8 | source | destination | tenant
//
// An address is its length (4 or 16), its bytes and the port; the tenant is its length and its bytes. Big endian.
type Header struct {
	ID       uint64 // random, the same on every hop
	Class    Class
	Codec    Codec
	HopLimit uint8 // hops still allowed after this one
	Tenant   string
	Src, Dst netip.AddrPort
}

// Append appends the encoded header to b. It fails if a field is out of range.
func (h *Header) Append(b []byte) ([]byte, error) {
	switch {
	case h.Class >= numClasses:
		return b, fmt.Errorf("flow header: class %d, allowed 0 to %d", h.Class, numClasses-1)
	case h.Codec >= numCodecs:
		return b, fmt.Errorf("flow header: codec %d, allowed 0 to %d", h.Codec, numCodecs-1)
	case len(h.Tenant) > MaxTenantLen:
		return b, fmt.Errorf("flow header: tenant of %d bytes, allowed up to %d", len(h.Tenant), MaxTenantLen)
	case !h.Src.IsValid() || !h.Dst.IsValid():
		return b, fmt.Errorf("flow header: source %v or destination %v is not valid", h.Src, h.Dst)
	}
	start := len(b)
	b = append(b, headerVersion, 0, 0)
	b = append(b, byte(h.Class), byte(h.Codec), h.HopLimit, 0)
	b = binary.BigEndian.AppendUint64(b, h.ID)
	b = appendAddr(b, h.Src)
	b = appendAddr(b, h.Dst)
	b = append(b, byte(len(h.Tenant)))
	b = append(b, h.Tenant...)
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-headerPrefix))
	return b, nil
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	b = append(b, byte(ip.BitLen()/8))
	b = append(b, ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// headerSize returns the length of the header that begins with the first headerPrefix bytes of b.
func headerSize(b []byte) (int, error) {
	if b[0] != headerVersion {
		return 0, fmt.Errorf("%w: %d, want %d", ErrVersion, b[0], headerVersion)
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n < headerFixed || n > maxHeader {
		return 0, fmt.Errorf("%w flow header: length %d, allowed %d to %d", ErrMalformed, n, headerFixed, maxHeader)
	}
	return headerPrefix + n, nil
}

// ParseHeader reads a header from the start of b and returns the bytes after it.
func ParseHeader(b []byte) (Header, []byte, error) {
	if len(b) < headerPrefix {
		return Header{}, b, fmt.Errorf("%w flow header: %d bytes", ErrMalformed, len(b))
	}
	n, err := headerSize(b)
	if err != nil {
		return Header{}, b, err
	}
	if len(b) < n {
		return Header{}, b, fmt.Errorf("%w flow header: %d of %d bytes", ErrMalformed, len(b), n)
	}
	p, rest := b[headerPrefix:n], b[n:]
	h := Header{Class: Class(p[0]), Codec: Codec(p[1]), HopLimit: p[2], ID: binary.BigEndian.Uint64(p[4:])}
	if h.Class >= numClasses || h.Codec >= numCodecs || p[3] != 0 || h.HopLimit > MaxHops {
		return Header{}, b, fmt.Errorf("%w flow header: class %d, codec %d, hop limit %d, flags %#x", ErrMalformed, p[0], p[1], p[2], p[3])
	}
	p = p[headerFixed:]
	var ok bool
	if h.Src, p, ok = cutAddr(p); !ok {
		return Header{}, b, fmt.Errorf("%w flow header: source address", ErrMalformed)
	}
	if h.Dst, p, ok = cutAddr(p); !ok {
		return Header{}, b, fmt.Errorf("%w flow header: destination address", ErrMalformed)
	}
	if len(p) < 1 || len(p)-1 != int(p[0]) || p[0] > MaxTenantLen {
		return Header{}, b, fmt.Errorf("%w flow header: tenant", ErrMalformed)
	}
	h.Tenant = string(p[1:])
	return h, rest, nil
}

func cutAddr(p []byte) (netip.AddrPort, []byte, bool) {
	if len(p) < 1 {
		return netip.AddrPort{}, p, false
	}
	n := int(p[0])
	if (n != 4 && n != 16) || len(p) < 1+n+2 {
		return netip.AddrPort{}, p, false
	}
	ip, ok := netip.AddrFromSlice(p[1 : 1+n])
	if !ok || ip.Is4In6() { // one address, one encoding
		return netip.AddrPort{}, p, false
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(p[1+n:])), p[1+n+2:], true
}
