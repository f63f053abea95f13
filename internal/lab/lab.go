// Package lab builds Landbridge's test bench on one Linux machine, puts load on it and says what came out.
//
// Which function you want:
//
//   - [Up], [Down], [Status] bring the topology up in network namespaces, take it down and describe it.
//   - [Run] does one measured run of a workload (bulk or objects), through Landbridge or another way across the
//     border ([ViaNames]), and returns the [Result] that "landbridge lab run --json" prints.
//   - [Compare] runs both workloads over every way and writes one table.
//   - [Demo] moves a real payload directly and through Landbridge and writes the report page.
//   - [RunBulk] and [RunObjects] are the workloads alone, over any [Network]; no root, no namespaces.
//   - [WritePage] draws a report page from a [Report].
//
// The topology is the one in the design document: client, agent, two access links, gateway sha, carriers ct, cu and
// cm, gateway fra, origin. The emulated links live in a process of their own, so that their CPU time is told apart
// from the gateways'.
//
// Memory: every function copies what it keeps; buffers passed to Read and Write belong to the caller as usual.
package lab
