// Package stamp speaks STAMP, the Simple Two-Way Active Measurement Protocol: RFC 8762 in unauthenticated mode with a
// stateful reflector, the TLV framing of RFC 8972, and one TLV of our own that authenticates a probe and its reply.
//
//   - [AppendProbe], [ParseProbe], [AppendReply] and [ParseReply] are the packets.
//   - [Sender] schedules the probes of many paths and matches their replies: what to send when, and what came of it.
//   - [Reflector] answers probes in user space, where XDP cannot (bpf/reflector.bpf.c is the same in the kernel).
//
// Nothing here has a socket or a clock: times are arguments, datagrams are slices. Package probe beside it has the
// sockets. Functions that append return the extended slice; parsed values hold no reference to their input. Sender and
// Reflector are not safe for concurrent use.
//
// # Layout
//
// The UDP payload of a probe and of its reply has the same 64 bytes length. Integers are big-endian, except the tag. The
// first 44 bytes are RFC 8762, sections 4.2.1 and 4.3.1, with the SSID of RFC 8972, section 3:
//
//	offset      probe (session-sender)      reply (session-reflector)
//	 0  4       sequence number             sequence number of the reflector (below)
//	 4  8       timestamp T1                timestamp T3, when the reply leaves
//	12  2       error estimate              error estimate of T2 and T3
//	14  2       SSID: path id + 1           SSID, copied
//	16  8       zero                        receive timestamp T2
//	24  4       zero                        sequence number of the probe, copied from 0
//	28  8       zero                        timestamp of the probe, copied from 4
//	36  2       zero                        error estimate of the probe, copied from 12
//	38  2       zero                        zero
//	40  1       zero                        TTL or hop limit the probe arrived with
//	41  3       zero                        zero
//
// and then one TLV (RFC 8972, section 4):
//
//	44  1       flags: 0x80 (U)             0x00: recognised, well-formed, authentic
//	45  1       type: 252 (private use)     252
//	46  2       length: 16                  16
//	48  4       key id                      copied
//	52  4       direction: 0                1
//	56  8       tag, little-endian          tag, computed anew
//
// The tag is SipHash-2-4 under the 128-bit key that the key id names, over the first 56 bytes of this very packet, as it
// is on the wire, probe and reply alike, but for the flags at 44, which count as 0: a reflector that does not know the TLV
// may change them. A reflector checks the probe's tag first, rewrites the packet and then computes the reply's tag over
// what it has written. In words of 64 bits, little-endian: m0 to m6 = bytes 0 to 55, and m7 = the length 56 in its highest
// byte. The key's words k0, k1 are little-endian too.
//
// A key belongs to one session-sender: it tags that sender's probes and the replies to them, and the peer's own probes
// have another key id and key. The direction keeps a probe from passing for a reply. Key ids are chosen by the node
// that reflects, so that they are unique in its map; they are opaque here. A sender that starts again with sequence
// number 0 must do so under a new key.
//
// Session-senders write the truncated PTPv2 format (32 bits seconds, 32 bits nanoseconds; RFC 8762, section 4.2.1) of
// CLOCK_MONOTONIC, with error estimate 0x4001: S=0 (no synchronisation to UTC), Z=1 (PTP), scale 0, multiplier 1.
// Reflectors write NTP format, with error estimate 0x1601, of CLOCK_MONOTONIC too, which bpf_ktime_get_ns returns: in user
// space and in the kernel alike, so that paths that are reflected in different places are compared by one clock. Only
// differences are used. [ParseReply] reads either format, as an RFC 8762 reflector may answer in either.
//
// A reflector is stateful: per key id (and, in user space, path id: the kernel's wants a key of its own for each path) it
// keeps
//
//   - count, the sequence number of the next reply: it starts at 0 and goes up by one for each reply;
//   - a window of the last 64 probe sequence numbers (the highest seen and a bit map of 64, as IPsec has it, RFC 4303,
//     section 3.4.3): a probe seen before or older than the window is dropped without a reply and without counting.
//
// So of the probes n1..n2 whose replies carry counts c1..c2, (n2-n1)-(c2-c1) were lost on the way out, and of the
// replies c1..c2 those that did not come were lost on the way back, without the reflector having to say more.
//
// A reflector must drop, without a reply: a wrong length, type, direction or key id; a wrong tag; a replay; and in
// user space a probe whose bytes 16 to 43 are not zero. It must not touch other datagrams (XDP passes them on to user space, whose
// reflector may be open to foreign STAMP senders: [Reflector.AllowOpen]).
//
// A reply goes back to where the probe came from: Ethernet, IP addresses and UDP ports exchanged, TTL or hop limit 255
// (RFC 8762, section 4.2), DSCP kept, UDP checksum right (or zero over IPv4), IPv4 options or IPv6 extension headers:
// not ours, pass on. The default UDP port of a reflector is [Port], 862.
//
// Session-senders' XDP program takes a reply (UDP destination port of the prober, length 64, TLV as above with direction
// 1, a key id it knows, tag right) with its arrival time T4 = bpf_ktime_get_ns() at entry and hands on key id, path id,
// both sequence numbers, T1, T2, T3, T4 and the TTL. Sequence numbers are 32 bits and wrap.
package stamp
