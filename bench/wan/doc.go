// Package wan emulates wide-area links: it gives frames a rate, a queue, a
// delay, jitter and loss, and optionally reorders, duplicates, corrupts or
// swallows them in outages.
//
// Which function you want:
//
//   - [NewNetwork] for tests in virtual time (testing/synctest): an in-memory
//     network whose sockets look like *net.UDPConn.
//   - [NewEmulator] (Linux, root) for real kernel traffic: pairs of TAP devices
//     in network namespaces, with [CreateNamespace] and [InNamespace] beside it.
//   - [NewShaper] for the model alone: no sockets, no clock, no goroutines.
//   - [ParseImpairment] to read "50mbit delay 90ms loss 1% queue 100ms".
//   - [Scenarios] and [Limit] for the border links of the benchmarks.
//
// All three run the same model, one [Shaper] for each direction of a link, in
// this order:
//
//	MTU -> policer -> drop-tail queue at the rate -> outage -> loss ->
//	delay + jitter -> reordering, corruption, duplication
//
// Loss comes after the queue, as on a wire: a lost frame has used the link.
// Sizes are bytes of Ethernet frame without its checksum (payload plus 42 for
// UDP over IPv4, plus 62 over IPv6); rates are bits per second of the same.
//
// Memory: nothing in this package keeps a caller's slice. The in-memory network
// and the emulator copy frames into pooled buffers which they own.
package wan
