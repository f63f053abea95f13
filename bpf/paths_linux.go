package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Paths is the live path table: what user space decides about each path, and
// what the probes in the kernel have seen of it. The classifier picks from it
// and the reflector writes to it, without user space in between. Methods may be
// called concurrently. Close it after the programs that use it.
type Paths struct {
	paths, live, candidates *ebpf.Map

	mu sync.Mutex // orders writers of one entry
}

// NewPaths makes an empty table.
func NewPaths() (*Paths, error) {
	const op = "make the live path table"
	spec, err := loadClassifier()
	if err != nil {
		return nil, explain(op, err)
	}
	p := &Paths{}
	for name, m := range map[string]**ebpf.Map{
		classifierMapPaths: &p.paths, classifierMapLive: &p.live, classifierMapCandidates: &p.candidates,
	} {
		if *m, err = ebpf.NewMap(spec.Maps[name]); err != nil {
			return nil, explain(op, errors.Join(err, p.Close()))
		}
	}
	return p, nil
}

// shared are the maps among those of a program that are the table's.
func (p *Paths) shared(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	all := map[string]*ebpf.Map{
		classifierMapPaths: p.paths, classifierMapLive: p.live, classifierMapCandidates: p.candidates,
	}
	for name := range all {
		if spec.Maps[name] == nil {
			delete(all, name)
		}
	}
	return all
}

// Set writes what user space says about a path. The probes' times stay.
func (p *Paths) Set(id PathID, path Path) error {
	if err := checkID(id); err != nil {
		return fmt.Errorf("set path: %w", err)
	}
	if path.State > PathUp {
		return fmt.Errorf("set path %d: state %d: must be %d to %d", id, path.State, PathDown, PathUp)
	}
	if path.Ifindex < 0 || path.Ifindex > 1<<31-1 {
		return fmt.Errorf("set path %d: interface index %d: must not be negative", id, path.Ifindex)
	}
	if path.Quiet < 0 || path.Due < 0 {
		return fmt.Errorf("set path %d: quiet %v, due %v: must not be negative", id, path.Quiet, path.Due)
	}
	v := classifierPath{Ifindex: uint32(path.Ifindex), Mark: path.Mark, State: uint8(path.State), Keep: 0xff}
	switch {
	case path.MaxAge == 0:
		v.MaxAge = uint64(DefaultMaxAge)
	case path.MaxAge > 0:
		v.MaxAge = uint64(path.MaxAge)
	}
	if v.MaxAge > 0 {
		v.Quiet, v.Due = uint64(path.Quiet), uint64(path.Due)
	}
	for _, c := range path.Leave {
		if c >= numClasses {
			return fmt.Errorf("set path %d: class %d: must be below %d", id, c, numClasses)
		}
		v.Keep &^= 1 << c
	}
	if path.NextHop.IsValid() {
		v.Family, v.NextHop = addrWords(path.NextHop)
	}
	if path.NextHop6.IsValid() {
		if !path.NextHop6.Is6() {
			return fmt.Errorf("set path %d: next hop %v: must be IPv6", id, path.NextHop6)
		}
		v.HasNextHop6 = 1
		_, v.NextHop6 = addrWords(path.NextHop6)
	}
	if path.Routed {
		v.Routed = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return explain(fmt.Sprintf("set path %d", id), p.paths.Put(uint32(id), &v))
}

// Remove empties the entry: flows on the path look for another one.
func (p *Paths) Remove(id PathID) error {
	if err := checkID(id); err != nil {
		return fmt.Errorf("remove path: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return explain(fmt.Sprintf("remove path %d", id), errors.Join(
		p.paths.Put(uint32(id), &classifierPath{}), p.live.Put(uint32(id), &classifierLive{})))
}

// SetCandidates says which paths a class may use, best first. Flows that are on
// a path already stay there while it is alive and not left (Path.Leave).
func (p *Paths) SetCandidates(g Group, c Class, ids []PathID) error {
	op := fmt.Sprintf("set candidates of group %d, class %v", g, c)
	if g >= MaxGroups {
		return fmt.Errorf("%s: group must be 0 to %d", op, MaxGroups-1)
	}
	if c == NoClass || c >= numClasses {
		return fmt.Errorf("%s: class %d: must be %d to %d", op, c, Realtime, Bulk)
	}
	if len(ids) > MaxCandidates {
		return fmt.Errorf("%s: %d paths: at most %d", op, len(ids), MaxCandidates)
	}
	var v classifierCandidates
	for i, id := range ids {
		if err := checkID(id); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		v.Path[i] = uint16(id)
	}
	return explain(op, p.candidates.Put(uint32(g)*uint32(numClasses)+uint32(c), &v))
}

// Live returns what the probes have seen of a path.
func (p *Paths) Live(id PathID) (Live, error) {
	var v classifierLive
	if err := checkID(id); err != nil {
		return Live{}, fmt.Errorf("read path: %w", err)
	}
	if err := p.live.Lookup(uint32(id), &v); err != nil {
		return Live{}, explain(fmt.Sprintf("read path %d", id), err)
	}
	return Live{time.Duration(v.Reply), time.Duration(v.Sent), time.Duration(v.Request), time.Duration(v.Missed)}, nil
}

// Answered is for probes whose answers user space takes: where no reflector is
// attached, nothing else writes the path's times. at is of [Monotonic].
func (p *Paths) Answered(id PathID, at time.Duration) error {
	if err := checkID(id); err != nil {
		return fmt.Errorf("write path: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var v classifierLive
	if err := p.live.Lookup(uint32(id), &v); err != nil {
		return explain(fmt.Sprintf("read path %d", id), err)
	}
	v.Reply = uint64(at)
	return explain(fmt.Sprintf("write path %d", id), p.live.Put(uint32(id), &v))
}

// Close releases the table. Programs that use it keep it.
func (p *Paths) Close() error {
	var errs []error
	for _, m := range []*ebpf.Map{p.paths, p.live, p.candidates} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

func checkID(id PathID) error {
	if id == 0 || id > MaxPaths {
		return fmt.Errorf("path %d: must be 1 to %d", id, MaxPaths)
	}
	return nil
}

// addrWords is an address as the programs hold it: in network order, IPv4 in the
// first word.
func addrWords(a netip.Addr) (family uint8, words [4]uint32) {
	if a.Is4() || a.Is4In6() {
		b := a.As4()
		words[0] = nativeEndian(b[:])
		return 4, words
	}
	b := a.As16()
	for i := range words {
		words[i] = nativeEndian(b[4*i:])
	}
	return 6, words
}

// wordsAddr is the other way round.
func wordsAddr(family uint8, words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		putNativeEndian(b[4*i:], w)
	}
	if family == 4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

// Monotonic is the clock of all the times in the kernel's tables.
func Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // no Linux lacks it
	}
	return time.Duration(ts.Nano())
}
