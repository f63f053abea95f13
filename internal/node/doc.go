// Package node assembles a running gateway or agent from its parts.
//
//   - GatewayCommand and AgentCommand are the two programs. RunGateway and RunAgent, which they call, read the
//     configuration, run the node until the context ends, and read it anew at each SIGHUP.
//   - Start runs one node from a derived configuration; the lab's in-memory network and tests use it with sockets of
//     their own.
//
// A stage map, customer to border:
//
//	capture.Transparent, Socks5, HTTPConnect -> tunnel.Node -> bond.Host -> UDP sockets, one an uplink
//
// The node owns everything it starts; Close takes it down in that order.
package node
