package bpf

import (
	"net/netip"
	"strconv"
	"time"
)

// ProbeKey is the secret of one probing session.
type ProbeKey [16]byte

// Session is one direction of probing, as its reflector knows it.
type Session struct {
	Key ProbeKey
	// Path is this host's path to the peer that asks, if it has one: while we do
	// not probe it ourselves, the peer's probes keep it alive.
	Path PathID
}

// Sender is one direction of probing, as the one who asks knows it.
type Sender struct {
	Reflector netip.AddrPort // where probes go, and answers come from
	LocalPort uint16         // where probes come from
	Path      PathID         // whose sign of life an answer is
	Session   uint32
	Key       ProbeKey
	// Plain takes answers without our tag, from a foreign STAMP reflector.
	Plain bool
}

// Reflector is what the programs on the carriers' NICs do about probes.
type Reflector struct {
	// Port is where probes of others are answered; 0 means nowhere.
	Port uint16
	// Plain answers RFC 8762 probes without our tag too, at the rate that the
	// guard allows strangers.
	Plain bool
	// SenderPorts is the range of local ports that our own probes come from,
	// where answers are looked for; the zero value means nowhere.
	SenderPorts PortRange
}

// Reply is an answered probe. Times are of [Monotonic], or NTP's 64 bits where
// they are the peer's.
type Reply struct {
	Path      PathID
	Sequence  uint32        // ours
	Reflected uint32        // the reflector's own: gaps are losses on the way there
	Sent      time.Duration // as it left at tc egress; 0 where that is not watched
	Received  time.Duration // as it came back at XDP
	SentNTP   uint64        // our timestamp in the probe
	PeerRx    uint64        // NTP: received by the reflector
	PeerTx    uint64        // NTP: sent by it
	TTLThere  uint8         // as it arrived at the reflector
	TTLBack   uint8
}

// PeerTime is how long the reflector held the probe.
func (r *Reply) PeerTime() time.Duration { return ntpDuration(r.PeerTx - r.PeerRx) }

// ntpDuration converts a difference of NTP times.
func ntpDuration(d uint64) time.Duration {
	return time.Duration(int64(d)>>32)*time.Second + time.Duration((d&0xffffffff)*uint64(time.Second)>>32)
}

// NTP is a time in NTP's format (RFC 5905), as in probes. It is good until 2036,
// when it wraps; differences stay right.
func NTP(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(t.Unix()+from1900)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// ProbeVerdict is what became of a packet that was meant for the probes; the
// values are those of enum probe_verdict in structs.h.
type ProbeVerdict uint32

// The probes' verdicts. All but ProbeReflected and ProbeSent end the packet here.
const (
	ProbeReflected       ProbeVerdict = iota
	ProbeReply                        // an answer, taken
	ProbeReplyLate                    // an answer that is old or was there before
	ProbeReplyBad                     // an answer without the right tag
	ProbeMalformed                    // lengths or checksum do not fit
	ProbeUnauthenticated              // no tag where one is asked for
	ProbeNoSession                    // the tag of a session that is not ours
	ProbeBadTag
	ProbeReplayed
	ProbeRateLimited // plain, and too many
	ProbeRingFull    // an answer that user space was too slow for
	ProbeSent        // our own probe, at egress
	numProbeVerdicts
)

var probeVerdictNames = [numProbeVerdicts]string{
	"reflected", "reply", "reply-late", "reply-bad", "malformed", "unauthenticated",
	"no-session", "bad-tag", "replayed", "rate-limited", "ring-full", "sent",
}

// String returns the verdict's name, for status output and metrics.
func (v ProbeVerdict) String() string {
	if v < numProbeVerdicts {
		return probeVerdictNames[v]
	}
	return "probe-" + strconv.FormatUint(uint64(v), 10)
}

// ProbeVerdicts is the number of packets by [ProbeVerdict].
type ProbeVerdicts [numProbeVerdicts]uint64
