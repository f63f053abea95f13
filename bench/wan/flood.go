package wan

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// MaxFloodRate bounds a flood: more than this machine can make.
const MaxFloodRate = 10_000_000

// FloodConfig is junk for a NIC at the end of a link: UDP datagrams of 18 bytes,
// the least that Ethernet takes, each from another source in 198.18.0.0/15 (RFC
// 2544). They come from a host beyond the NIC but before the link, so they take
// nothing of the link's rate.
type FloodConfig struct {
	Link string         `json:"link"`
	AtB  bool           `json:"at_b"` // at the link's B end
	To   netip.AddrPort `json:"to"`   // IPv4
	PPS  int            `json:"pps"`
	Seed uint64         `json:"seed"`
}

// FloodStats say what a flood did.
type FloodStats struct {
	Sent     uint64        `json:"sent"`
	Refused  uint64        `json:"refused"` // by the device
	Duration time.Duration `json:"duration"`
}

// PPS is the rate the flood reached.
func (s FloodStats) PPS() float64 {
	if s.Duration <= 0 {
		return 0
	}
	return float64(s.Sent) / s.Duration.Seconds()
}

func (c *FloodConfig) check() error {
	if !c.To.Addr().Is4() || c.To.Port() == 0 {
		return fmt.Errorf("flood to %v: want an IPv4 address and a port", c.To)
	}
	if c.PPS <= 0 || c.PPS > MaxFloodRate {
		return fmt.Errorf("flood of %d packets a second, want 1 to %d", c.PPS, MaxFloodRate)
	}
	return nil
}

const (
	floodPayload = 18
	floodFrame   = ethernetHeader + 20 + 8 + floodPayload
)

// junk makes the frames of a flood.
type junk struct {
	frame [floodFrame]byte
	rng   *rand.PCG
}

func newJunk(c *FloodConfig, to net.HardwareAddr) *junk {
	j := &junk{rng: rand.NewPCG(c.Seed, 0xf100d)}
	b := j.frame[:]
	copy(b, to)
	copy(b[6:], []byte{2, 0, 0, 0xba, 0xd0, 1}) // locally administered
	b[12], b[13] = 0x08, 0x00
	ip := b[ethernetHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], floodFrame-ethernetHeader)
	dst := c.To.Addr().As4()
	copy(ip[16:], dst[:])
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp[2:], c.To.Port())
	binary.BigEndian.PutUint16(udp[4:], 8+floodPayload) // and no checksum, which IPv4 allows
	return j
}

// next is the next frame, good until the one after it.
func (j *junk) next() []byte {
	ip, r := j.frame[ethernetHeader:], j.rng.Uint64()
	ip[12], ip[13], ip[14], ip[15] = 198, 18|byte(r&1), byte(r>>8), byte(r>>16)
	binary.BigEndian.PutUint16(ip[20:], uint16(r>>24)|1024)
	binary.LittleEndian.PutUint64(ip[28:], r)
	ip[10], ip[11] = 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	return j.frame[:]
}
