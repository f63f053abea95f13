// Package fec repairs lost packets of one lane without asking for them again: a sliding-window random linear code
// over GF(2^8), in the manner of RFC 8681, and the controller that decides how much of it to send.
//
// # Which function you want
//
//   - Sending: [Encoder.Add] for every source packet, [Encoder.Repair] for every repair packet.
//   - Receiving: [Decoder.Source] for every source packet that arrives (retransmitted ones too) and [Decoder.Repair]
//     for every repair packet. Both append what could be recovered.
//   - How much to send: [Controller.OnReport] with what the peer saw, then [Controller.Ratio] while the lane is busy
//     and [Controller.TailRepairs] when it goes idle.
//
// There is one Encoder or Decoder per lane and direction. None of the types may be used by two goroutines at the same
// time; none starts a goroutine, reads a clock or does I/O.
//
// # The code
//
// The source symbol of a packet is its length (2 bytes, big endian) followed by its payload; it counts as followed by
// zeros up to the longest symbol it is combined with. The repair symbol over n packets beginning at sequence number
// first is the sum over GF(2^8) (polynomial 0x11d) of coefficient(i) x symbol(first+i), and is as long as the longest
// symbol it covers. Coefficients are never zero and are computed by both sides from a 32-bit key and the position i;
// over a single packet the coefficient is 1, so that such a repair is a plain copy.
//
// How first, n, key and the symbol travel is the caller's business. They must arrive unaltered: the decoder notices
// only some of the damage an altered datagram does. The sender gives each repair of a lane a key of its own (a counter
// will do): two repairs over the same packets with the same key are the same repair.
//
// Any k lost packets come back once k repairs arrive that cover no other missing packet; about 1 time in 250 the k
// equations are dependent and one more is needed. A packet that is merely late counts as missing: with paths of
// different delay some are recovered before they arrive, and the decoder passes over them when they do.
//
// A repair costs both sides about (packets covered) x (bytes) at the speed of a SIMD multiplication, 10 to 20 us for 200
// full packets; the decoder pays only for repairs that it uses. Windows that are longer in packets leave less
// unrecovered for the same overhead, and repair later: take the last 20 to 50 ms of the lane, and not under some 100
// packets when losses come in bursts.
//
// # Memory
//
// Encoder and Decoder copy what they are given and keep nothing of the caller's. The payload of a recovered [Packet]
// is allocated for it and belongs to the caller, for ever. Buffers are allocated on first use and reused from then
// on: steady state without loss allocates nothing. The limits are named constants: [MaxWindow], [MaxPayload],
// [MaxSkew], [MaxPending], [MaxUnknowns].
package fec
