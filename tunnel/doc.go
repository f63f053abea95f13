// Package tunnel carries customer flows between nodes over the lanes of bond sessions.
//
// Build one [Node] with [New], name its peers with [Node.AddPeer], hand it captured connections with [Node.HandleFlow]
// and swap its routing with [Node.SetRouter]. [Node.Stats] and [Node.Flows] show what it does, [Node.Close] ends it.
//
// A flow is one QUIC stream a hop: a [Header], then frames. It starts on an interactive lane; a direction that has
// carried [Config.ElephantBytes] continues on a bulk lane, hop by hop. A node that is not the exit relays the frames as
// they are, without unpacking them:
//
//	conn -> compress -> sendHalf ==lane==> recvHalf -> sendHalf ==lane==> recvHalf -> expand -> conn
//	        ingress                         relay                          exit
//
// Memory: buffers are pooled and owned by the half that reads into them; a slice handed on is valid until the next
// read of the same half. What has been received and not yet taken by a slow receiver waits in QUIC's stream buffers, at
// most one stream window a flow; see [Limits.BufferedBytes] for what bounds their sum and what happens at the bound.
//
// Everything exported is safe for concurrent use unless it says otherwise.
package tunnel
