package bpf

import (
	"encoding/binary"
	"net/netip"
	"os"
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

// naiveParse is what the program should make of a frame up to the trie: the
// destination, or the verdict.
func naiveParse(frame []byte) (dst netip.Addr, ok bool, v Verdict) {
	for _, m := range frame[:6] {
		if m != 0 {
			return dst, false, OtherHost
		}
	}
	ip := frame[etherLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		return naiveParse4(ip)
	case 0x86dd:
		return naiveParse6(ip)
	}
	return dst, false, NotIP
}

func naiveParse4(ip []byte) (dst netip.Addr, ok bool, v Verdict) {
	if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 {
		return dst, false, Unparsed
	}
	hdr := int(ip[0]&15) * 4
	if (int(ip[6])<<8|int(ip[7]))&0x3fff != 0 {
		return dst, false, Fragment
	}
	if ip[9] != protoTCP {
		return dst, false, NotTCP
	}
	if int(ip[2])<<8|int(ip[3]) < hdr+20 || !naiveTCP(ip, hdr) {
		return dst, false, Unparsed
	}
	dst, _ = netip.AddrFromSlice(ip[16:20])
	return dst, true, 0
}

func naiveParse6(ip []byte) (dst netip.Addr, ok bool, v Verdict) {
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return dst, false, Unparsed
	}
	next, off := ip[6], 40
	for range 9 { // eight extension headers, then TCP
		switch next {
		case protoTCP:
			if !naiveTCP(ip, off) {
				return dst, false, Unparsed
			}
			dst, _ = netip.AddrFromSlice(ip[24:40])
			return dst, true, 0
		case hopByHop, routing, destOptions, authHeader:
			if len(ip) < off+4 || next == routing && ip[off+3] != 0 {
				return dst, false, Unparsed
			}
			size := 8 + int(ip[off+1])*8
			if next == authHeader {
				size = 8 + int(ip[off+1])*4
			}
			next, off = ip[off], off+size
		case fragment:
			if len(ip) < off+8 {
				return dst, false, Unparsed
			}
			if ip[off+2] != 0 || ip[off+3]&0xf9 != 0 {
				return dst, false, Fragment
			}
			next, off = ip[off], off+8
		default:
			return dst, false, NotTCP
		}
	}
	return dst, false, Unparsed
}

func naiveTCP(ip []byte, off int) bool {
	return len(ip) >= off+20 && ip[off+12]>>4 >= 5
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
