package bpf

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	const why = "needs root: BPF"
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

const (
	etherLen = 14
	flagSYN  = 0x02
	flagACK  = 0x10
)

// IP protocol and extension header numbers.
const (
	hopByHop    = 0
	protoTCP    = 6
	protoUDP    = 17
	routing     = 43
	fragment    = 44
	esp         = 50
	authHeader  = 51
	noNext      = 59
	destOptions = 60
	protoSCTP   = 132
	mobility    = 135
	hip         = 139
	shim6       = 140
)

// extHeader is an IPv6 extension header without its first byte.
type extHeader struct {
	kind byte
	body []byte
}

func ext(kind byte, body ...byte) extHeader { return extHeader{kind, body} }

// options is an extension header of n times 8 bytes.
func options(kind byte, n int) extHeader {
	body := make([]byte, 8*n-1)
	body[0] = byte(n - 1)
	return extHeader{kind, body}
}

// packet builds an Ethernet frame for this host's loopback address with a TCP
// header. Extension headers are for IPv6.
func packet(src, dst netip.AddrPort, flags byte, exts ...extHeader) []byte {
	b := make([]byte, etherLen, 128)
	if src.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		ip := make([]byte, 20)
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[2:], 40)
		ip[8], ip[9] = 64, protoTCP
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		b = append(b, ip...)
	} else {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		ip := make([]byte, 40)
		ip[0], ip[7] = 0x60, 64
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
		next := 6
		for _, e := range exts {
			ip[next] = e.kind
			next = len(ip)
			ip = append(append(ip, 0), e.body...)
		}
		ip[next] = protoTCP
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40+20))
		b = append(b, ip...)
	}
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	tcp[12], tcp[13] = 5<<4, flags
	return append(b, tcp...)
}

// withVLAN puts tags behind the MAC addresses, outermost first.
func withVLAN(frame []byte, tags ...uint32) []byte {
	var b []byte
	for _, t := range tags {
		b = binary.BigEndian.AppendUint32(b, t)
	}
	return slices.Concat(frame[:12], b, frame[12:])
}

// udp turns the TCP packet that packet made into UDP with a payload.
func udp(frame []byte, payload ...byte) []byte {
	frame = slices.Concat(frame[:len(frame)-20], frame[len(frame)-20:len(frame)-16], make([]byte, 4), payload)
	l4 := len(frame) - 8 - len(payload)
	binary.BigEndian.PutUint16(frame[l4+4:], uint16(8+len(payload)))
	if ip := frame[etherLen:]; ip[0]>>4 == 4 {
		ip[9] = protoUDP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	} else {
		next := 6
		if l4 > etherLen+40 { // the last extension header; those before it are skipped by length
			next = 40
			for ip[next] != protoTCP {
				next += 8 + int(ip[next+1])*8
			}
		}
		ip[next] = protoUDP
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	return frame
}

// fixIPv4 sets the header checksum.
func fixIPv4(frame []byte) []byte {
	ip := frame[etherLen:]
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip[:int(ip[0]&15)*4], 0))
	return frame
}

// onesSum is the ones' complement sum of b (RFC 1071), added to sum.
func onesSum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// seen is what a naive parser makes of a frame.
type seen struct {
	host, tagged, ip    bool
	bad                 bool // not understood to the end
	addrs, proto, ports bool // what is known
	later, first        bool // which fragment it is, if it is one
	id                  uint32
	src, dst            netip.Addr
	protocol            byte
	sport, dport        uint16
	dscp                byte
	synAck              bool
}

func naiveParse(frame []byte) (s seen) {
	s.host = [6]byte(frame[:6]) == [6]byte{}
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for n := 0; kind == 0x8100 || kind == 0x88a8 || kind == 0x9100; n++ {
		s.tagged = s.tagged || kind == 0x9100
		if n == 2 || len(rest) < 4 {
			if len(rest) >= 4 && binary.BigEndian.Uint16(rest)&0xfff != 0 {
				s.tagged = true
			}
			s.ip, s.bad = true, true
			return s
		}
		if binary.BigEndian.Uint16(rest)&0xfff != 0 {
			s.tagged = true
		}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch kind {
	case 0x0800:
		s.ip = true
		s.bad = !s.parse4(rest, len(frame))
	case 0x86dd:
		s.ip = true
		s.bad = !s.parse6(rest)
	}
	return s
}

func (s *seen) parse4(ip []byte, total int) bool {
	if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 {
		return false
	}
	hdr := int(ip[0]&15) * 4
	if hdr > 20 {
		if len(ip) < hdr {
			return false
		}
		for _, b := range ip[20:hdr] {
			if b == 131 || b == 137 { // source routes
				return false
			}
		}
	}
	s.addrs, s.proto = true, true
	s.src, s.dst, s.protocol = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), ip[9]
	s.dscp = ip[1] >> 2
	s.id = uint32(binary.LittleEndian.Uint16(ip[4:]))
	if off := binary.BigEndian.Uint16(ip[6:]); off&0x1fff != 0 {
		s.later = true
		return s.protocol != protoTCP || off&0x1fff != 1
	} else if off&0x2000 != 0 {
		s.first = true
	}
	return s.transport(ip[hdr:], int(binary.BigEndian.Uint16(ip[2:]))-hdr)
}

func (s *seen) parse6(ip []byte) bool {
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return false
	}
	s.addrs = true
	s.src, s.dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	s.dscp = byte(binary.BigEndian.Uint16(ip)>>4) >> 2
	next, rest, left := ip[6], ip[40:], int(binary.BigEndian.Uint16(ip[4:]))
	for range 9 { // eight extension headers, then the transport
		size := 0
		switch next {
		case hopByHop, routing, destOptions, mobility, hip, shim6, authHeader:
			if len(rest) < 4 {
				return false
			}
			if next == routing && rest[3] != 0 {
				s.addrs = false
				return false
			}
			if size = 8 + int(rest[1])*8; next == authHeader {
				size = 8 + int(rest[1])*4
			}
		case fragment:
			if len(rest) < 8 {
				return false
			}
			size = 8
			off := binary.BigEndian.Uint16(rest[2:])
			if off&0xfff9 == 0 {
				break
			}
			if s.first {
				return false
			}
			s.id = binary.LittleEndian.Uint32(rest[4:])
			if off&0xfff8 != 0 {
				s.later = true
				if !slices.Contains([]byte{hopByHop, routing, destOptions, mobility, hip, shim6, authHeader, fragment}, rest[0]) {
					s.proto, s.protocol = true, rest[0]
				}
				return s.protocol != protoTCP || off>>3 != 1
			}
			s.first = true
		default:
			s.proto, s.protocol = true, next
			return s.transport(rest, left)
		}
		next, rest, left = rest[0], rest[min(size, len(rest)):], left-size
	}
	return false
}

// transport is what IP says has left bytes, of those in b.
func (s *seen) transport(b []byte, left int) bool {
	if left < 0 {
		return false
	}
	size, ok := map[byte]int{protoTCP: 20, protoUDP: 8, protoSCTP: 12}[s.protocol]
	if !ok {
		s.ports = true
		return true
	}
	if min(len(b), left) < size || s.protocol == protoTCP && b[12]>>4 < 5 {
		return false
	}
	s.ports = true
	s.synAck = s.protocol == protoTCP && b[13]&(flagSYN|flagACK) == flagSYN|flagACK
	s.sport, s.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return true
}

// naiveLookup is the longest prefix that holds the address.
func naiveLookup(set map[netip.Prefix]Action, a netip.Addr) Action {
	best, action := -1, Action(0)
	for p, v := range set {
		if p.Contains(a) && p.Bits() > best {
			best, action = p.Bits(), v
		}
	}
	return action
}
