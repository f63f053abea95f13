package wan

import (
	"encoding/binary"
	"fmt"
	"time"
)

// RecordConfig says which frames a Recording follows: UDP over IPv4 from or to
// a range of ports.
type RecordConfig struct {
	Link string `json:"link"`
	// Low and High are the ports, at either end.
	Low  uint16 `json:"low"`
	High uint16 `json:"high"`
	// Number is where in the payload, for each Direction, a datagram's number lies: 4
	// bytes, big-endian. A datagram that is too short for it is left out.
	Number [2]int `json:"number"`
	// Max bounds the record; what comes after is counted in Recording's second result.
	Max int `json:"max"`
}

// Passage is what a link did with one frame. The times are of CLOCK_MONOTONIC:
// what really happened on this machine, not what the model asked for.
type Passage struct {
	Direction Direction `json:"direction"`
	From      uint16    `json:"from"` // UDP ports
	To        uint16    `json:"to"`
	Number    uint32    `json:"number"`
	// Entered is when the frame came to the sending device, 0 where the kernel did not say: what XDP sends back does
	// not pass there.
	Entered time.Duration `json:"entered"`
	// Read is when the emulator took it from the device, Written when it had given it to the far one, and Writing when
	// it began to, with others of the same moment. Both are 0 for a frame that was lost or is still under way.
	Read    time.Duration `json:"read"`
	Writing time.Duration `json:"writing"`
	Written time.Duration `json:"written"`
}

// maxRecord bounds a Recording's memory: 100 MB.
const maxRecord = 1 << 20

func (c *RecordConfig) check() error {
	switch {
	case c.Low == 0 || c.High < c.Low:
		return fmt.Errorf("record ports %d to %d: want 1 to 65535, in order", c.Low, c.High)
	case c.Number[0] < 0 || c.Number[1] < 0 || c.Number[0] > maxPayload || c.Number[1] > maxPayload:
		return fmt.Errorf("record numbers at %v: want 0 to %d", c.Number, maxPayload)
	case c.Max < 1 || c.Max > maxRecord:
		return fmt.Errorf("record %d frames: want 1 to %d", c.Max, maxRecord)
	}
	return nil
}

// maxPayload is the largest payload of a frame.
const maxPayload = 1500

// passage is what a frame says about itself; false for a frame that is not followed.
func (c *RecordConfig) passage(d Direction, frame []byte) (p Passage, ok bool) {
	const ip, udpHeader = ethernetHeader, 8
	if len(frame) < ip+20 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[ip+9] != 17 {
		return p, false
	}
	udp := ip + int(frame[ip]&15)*4
	number := udp + udpHeader + c.Number[d]
	if len(frame) < number+4 {
		return p, false
	}
	p = Passage{
		Direction: d, From: binary.BigEndian.Uint16(frame[udp:]), To: binary.BigEndian.Uint16(frame[udp+2:]),
		Number: binary.BigEndian.Uint32(frame[number:]),
	}
	in := func(port uint16) bool { return port >= c.Low && port <= c.High }
	return p, in(p.From) || in(p.To)
}
