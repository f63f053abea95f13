package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/landbridge/landbridge/bpf"
)

// What is lost with the programs for LAN NICs and with those for carriers'.
const (
	lostClassifier = "transparent capture with its rules, direct flows"
	lostCarrier    = "probes answered and timed at the NIC (user space does it, with the scheduler's noise), the guard"
)

// programs has one finding for each of the two sets of programs, and one for each NIC that cannot take them.
func (d *doctor) programs(nics []string) {
	if d.unfit {
		return // the capabilities that are missing are one finding, with all that is lost by it
	}
	features := d.features()
	for _, f := range features {
		if errors.Is(f.Err, fs.ErrPermission) { // the same for all of them
			d.bad(d.needed(), "programs", "cannot be loaded, although the capabilities are there: permission denied", lostClassifier+"; "+lostCarrier,
				"look for what else forbids bpf(2): a seccomp filter, kernel lockdown, a container's namespaces")
			return
		}
	}
	if d.program("classifier", d.needed(), lostClassifier, features, func(f bpf.Feature) bool { return f.Classifier }, d.classifier) {
		if err := d.tcx(); err != nil {
			d.bad(Warn, "classifier", "loads, but there is no tcx: "+oneLine(err), "that it vanishes with its process: after a kill it passes packets on until the next start",
				"Linux 6.6 has tcx; a clsact qdisc is used instead")
		} else {
			d.ok("classifier", "loads, and attaches by tcx")
		}
	}
	// Never a failure: user space answers and times probes too.
	if !d.program("carriers", Warn, lostCarrier, features, func(f bpf.Feature) bool { return f.Carrier }, d.carrier) {
		return
	}
	d.ok("carriers", "reflector and guard load")
	for _, nic := range nics {
		if err := d.xdp(nic); err != nil {
			d.bad(Warn, "carriers "+nic, oneLine(err), lostCarrier+", if it is a carrier's NIC", "ip -d link show "+nic)
		}
	}
}

// program says in one finding why a program does not load, and is true where it does.
func (d *doctor) program(check string, l Level, lost string, features []bpf.Feature, needs func(bpf.Feature) bool, load func() error) bool {
	var missing []string
	since := ""
	for _, f := range features {
		if f.Err != nil && needs(f) {
			missing = append(missing, fmt.Sprintf("%s (Linux %s)", f.Name, f.Since))
			if newer(f.Since, since) {
				since = f.Since
			}
			if !errors.Is(f.Err, errors.ErrUnsupported) { // that it is missing is not certain then
				missing[len(missing)-1] += ": " + oneLine(f.Err)
			}
		}
	}
	if missing != nil {
		d.bad(l, check, "the kernel lacks "+strings.Join(missing, ", "), lost, fmt.Sprintf("use Linux %s or later, best %d.%d", since, captureMajor, captureMinor))
		return false
	}
	if err := load(); err != nil {
		d.bad(l, check, "does not load: "+oneLine(err), lost, fmt.Sprintf("use Linux %d.%d or later", captureMajor, captureMinor))
		return false
	}
	return true
}

// newer compares Linux versions.
func newer(a, b string) bool {
	number := func(s string) int {
		major, minor, _ := strings.Cut(s, ".")
		x, _ := strconv.Atoi(major)
		y, _ := strconv.Atoi(minor)
		return x<<16 + y
	}
	return number(a) > number(b)
}
