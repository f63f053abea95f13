package bond

import (
	"net/netip"
)

// Message is one datagram of a batch.
type Message struct {
	Buf  []byte // read: capacity to fill; write: the datagram
	N    int    // read: length of what came
	Addr netip.AddrPort
}

// Socket is an uplink's datagram socket. ReadBatch blocks for at least one datagram and returns how many it filled;
// WriteBatch sends all or returns how many it sent and why the next one failed; a full buffer counts as sent (and
// lost). One goroutine reads, one at a time writes. Close unblocks the reader.
type Socket interface {
	ReadBatch([]Message) (int, error)
	WriteBatch([]Message) (int, error)
	LocalAddr() netip.AddrPort
	Close() error
}

// PacketConn is what NewPacketSocket needs of a connection; *net.UDPConn and the emulator's in-memory connections have it.
type PacketConn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	Close() error
}

type packetSocket struct {
	PacketConn
	local netip.AddrPort
}

// NewPacketSocket makes a Socket of a connection, one datagram a call. The socket owns the connection.
func NewPacketSocket(c PacketConn, local netip.AddrPort) Socket {
	return &packetSocket{c, local}
}

func (s *packetSocket) LocalAddr() netip.AddrPort { return s.local }

func (s *packetSocket) ReadBatch(ms []Message) (int, error) {
	n, addr, err := s.ReadFromUDPAddrPort(ms[0].Buf)
	if err != nil {
		return 0, err
	}
	ms[0].N, ms[0].Addr = n, addr
	return 1, nil
}

func (s *packetSocket) WriteBatch(ms []Message) (int, error) {
	for i := range ms {
		if _, err := s.WriteToUDPAddrPort(ms[i].Buf, ms[i].Addr); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}
