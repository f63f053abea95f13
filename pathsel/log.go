package pathsel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// recordVersion is that of the records' meaning: the scores and rules of Select are part of it, since a replay must
	// come to the same decisions.
	recordVersion = 4
	// MaxRecord bounds a line that is read: 64 paths in 3 classes fit.
	MaxRecord = 256 << 10
	// recordEvery is how often a decision that did not change is logged, so that another policy can be tried on quiet
	// times too.
	recordEvery = 10 * time.Second
)

// ErrRecord is wrapped by the errors about a line of a log, and ErrVersion by that about one whose decisions followed
// other rules.
var (
	ErrRecord  = errors.New("not a decision record")
	ErrVersion = errors.New("of another version")
)

// Record is one decision with all that went into it: a line of a log, which can be judged by itself.
type Record struct {
	Version int           `json:"v"`
	Wall    time.Time     `json:"wall"`
	Peer    string        `json:"peer"`
	Now     time.Duration `json:"now"`
	Policy  Policy        `json:"policy"`
	States  []PathState   `json:"states"`
	Before  Decision      `json:"before"`
	After   Decision      `json:"after"`
}

// Replay decides again. With a policy, and what that policy had decided before, it says what would have been; with nil
// for both it must come to the same.
func (r *Record) Replay(policy *Policy, before *Decision) *Decision {
	if policy == nil {
		policy = &r.Policy
	}
	if before == nil {
		before = &r.Before
	}
	return Select(r.Now, r.States, policy, before)
}

// Verify replays the record and reports a decision that is not the one it holds.
func (r *Record) Verify() error {
	got, err := json.Marshal(r.Replay(nil, nil))
	if err != nil {
		return err
	}
	want, err := json.Marshal(&r.After)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("decided %s, the record says %s", got, want)
	}
	return nil
}

// ReadRecord reads one line. The error wraps ErrRecord.
func ReadRecord(line []byte) (*Record, error) {
	if len(line) > MaxRecord {
		return nil, fmt.Errorf("%w: line of %d bytes, at most %d", ErrRecord, len(line), MaxRecord)
	}
	var v struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(line, &v); err == nil && v.Version != recordVersion {
		return nil, fmt.Errorf("%w: %w: %d, want %d", ErrRecord, ErrVersion, v.Version, recordVersion)
	}
	r := new(Record)
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if len(r.States) > MaxPaths {
		return nil, fmt.Errorf("%w: %d paths, at most %d", ErrRecord, len(r.States), MaxPaths)
	}
	if err := r.Policy.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	for _, d := range []*Decision{&r.Before, &r.After} {
		for i := range d.Classes {
			if f := d.Classes[i].Flaps; f < 0 || f > maxFlaps {
				return nil, fmt.Errorf("%w: %d flaps outside 0 to %d", ErrRecord, f, maxFlaps)
			}
		}
	}
	return r, nil
}

// Log keeps the latest records, encoded, up to a number of bytes; the oldest go first. Use [NewLog]. Not safe for
// concurrent use.
type Log struct {
	max, size int
	dropped   uint64
	lines     [][]byte
	last      map[string]time.Duration
}

// NewLog makes a log of at most maxBytes, and of at least one record.
func NewLog(maxBytes int) *Log { return &Log{max: maxBytes, last: make(map[string]time.Duration)} }

// Worth reports whether a decision should be logged: it changed (as Update says), or none of this peer was for a while.
func (l *Log) Worth(now time.Duration, peer string, changed bool) bool {
	last, known := l.last[peer]
	return changed || !known || now-last >= recordEvery
}

// Append adds a record and returns its line without the newline, for a file; the line is the log's. What the caller
// passed is not kept.
func (l *Log) Append(wall time.Time, peer string, states []PathState, policy *Policy, before, after *Decision) ([]byte, error) {
	line, err := json.Marshal(&Record{recordVersion, wall, peer, after.At, *policy, states, *before, *after})
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	l.last[peer] = after.At
	l.lines = append(l.lines, line)
	l.size += len(line) + 1
	for len(l.lines) > 1 && l.size > l.max {
		l.size -= len(l.lines[0]) + 1
		l.lines[0] = nil
		l.lines = l.lines[1:]
		l.dropped++
	}
	return line, nil
}

// Forget drops what the log knows of a peer that is gone, apart from its records.
func (l *Log) Forget(peer string) { delete(l.last, peer) }

// Len returns the number of records, Dropped how many had to go.
func (l *Log) Len() int        { return len(l.lines) }
func (l *Log) Dropped() uint64 { return l.dropped }

// WriteTo writes the records, oldest first, one a line.
func (l *Log) WriteTo(w io.Writer) (n int64, err error) {
	for _, line := range l.lines {
		m, err := w.Write(append(line[:len(line):len(line)], '\n'))
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
