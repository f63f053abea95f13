// Package pathsel measures paths and chooses among them.
//
//   - [Table] keeps the paths between two nodes: it turns probe events (package stamp) and the bond's own counts into
//     estimates per path and direction, and into a state: up, suspect, brownout, down.
//   - [Select] takes a snapshot of them ([Table.States]), a [Policy] and what was decided before, and decides: for each
//     class a score per path, an order of candidates, and a reason a person can read ([Choice.Reason]).
//   - [Log] keeps decisions with all that went into them, bounded, as JSON lines; [ReadRecord] and [Record.Replay] come
//     to the same decisions again, or to those of another policy.
//
// All of it is pure: no sockets, no BPF, no clock, no goroutines. Times are since an epoch of the caller's choosing, the
// same in all calls, and must not run backwards. A Table is not safe for concurrent use; Select works on its arguments
// only. [Decision.Update] is Select without allocations. Nothing keeps a caller's slice.
//
// # Estimates
//
// Loss is that of the last 60 s, in steps of a second. For each second the bond's counts of its own packets (passive) and
// those of the probes compete, and the larger sample is taken: traffic where there is some, probes where it is idle. Delay
// is the minimum of 60 s, and median and 95th percentile of the last 256 samples at least 20 ms apart. One-way delays hold
// the difference of two clocks; all paths between two nodes share it, so it is taken out once for the table, such that the
// path with the least round trip is as long out as back. Only differences between paths are exact.
//
// # Changes
//
// A fall in quality is found by a test per direction that weighs every packet (CUSUM): loss against the path's own 60 s,
// and the median of the last 8 delays against the path's slow average. Of a run of losses the first counts and the others
// little: a burst is one event. What the test suspects, before it is sure, asks for more probes ([Table.Boost]), and paths
// in use get more of them anyway ([Table.Interval]): at 20 probes a second, 2 s hold too few to tell 8 % from 1 %.
//
// Replies that do not come keep new flows away at once (PathState.Overdue), and ask for more probes; if those are not
// answered either, a round trip later, the path is suspect. So a dark path gets no new flow after 200 ms, and a burst of
// lost probes is no event.
//
// What a bond does to its own paths while it looks for their rates ([Table.Self]) counts for nothing.
package pathsel
