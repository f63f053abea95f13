// Package probe runs package stamp over sockets: it sends the probes of all paths of a node, takes the replies, and
// answers the probes of others.
//
//   - [Listen] (Linux) opens the socket of one uplink; [FromPacketConn] takes any other connection.
//   - [New] makes a [Runner]; [Runner.SetUplink] and [Runner.AddPath] say what it works on, [Runner.Run] does the work.
//   - [Now] is the clock whose times the kernel's programs use too.
//
// One socket an uplink carries both roles: the direction in a datagram says whether it is a probe or a reply. Where
// XDP takes replies at the NIC, they come through a [Source] with the kernel's times, and the socket does not see them; where
// XDP reflects, the socket does not see probes. Both may start and stop at any time.
package probe
