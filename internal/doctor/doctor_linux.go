package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"golang.org/x/sys/unix"
)

// machine is what the checks look at; tests put another one in its place.
type machine struct {
	proc, sys string // roots of procfs and sysfs
	release   func() (string, error)
	tun       func() error // opens /dev/net/tun
	tcx       func() error // attaches and detaches an empty program
	features  func() []bpf.Feature
	// classifier and carrier load the programs for LAN NICs and for carriers', and unload them.
	classifier, carrier func() error
	xdp                 func(nic string) error
	offloads            func(nic string) (map[string]bool, error)
	synced              func() (bool, error)
	now                 func() time.Time
}

func realMachine() *machine {
	return &machine{
		proc: "/proc", sys: "/sys", release: kernelRelease, tun: openTUN, tcx: attachTCX, features: bpf.Features,
		classifier: loadClassifier, carrier: loadCarrier, xdp: roomForXDP,
		offloads: ethtoolOffloads, synced: clockSynced, now: time.Now,
	}
}

// Run looks at this machine, in the current network namespace.
func Run(o Options) []Result { return realMachine().run(o) }

func (m *machine) run(o Options) []Result {
	d := &doctor{machine: m, capture: o.Capture}
	d.kernel()
	d.capabilities()
	d.btf()
	d.programs(o.NICs)
	d.tunDevice()
	d.socketBuffers()
	d.reversePath(o.NICs)
	d.forwarding()
	d.clock()
	for _, nic := range o.NICs {
		d.nic(nic, slices.Contains(o.Spare, nic))
	}
	return d.results
}

type doctor struct {
	*machine
	capture bool
	unfit   bool // capabilities are missing without which no program loads: that has been said
	results []Result
}

func (d *doctor) ok(check, format string, args ...any) {
	d.results = append(d.results, Result{Check: check, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) bad(l Level, check, detail, lost, hint string) {
	d.results = append(d.results, Result{check, l, detail, lost, hint})
}

// needed is Fail where flows are to be captured, and Warn where they are not.
func (d *doctor) needed() Level {
	if d.capture {
		return Fail
	}
	return Warn
}

const (
	// The oldest kernel that the programs are written for.
	captureMajor, captureMinor = 5, 15
)

func (d *doctor) kernel() {
	rel, err := d.release()
	if err != nil {
		d.bad(Warn, "kernel", err.Error(), "the other checks may mislead", "")
		return
	}
	var major, minor int
	if n, _ := fmt.Sscanf(rel, "%d.%d", &major, &minor); n != 2 {
		d.bad(Warn, "kernel", fmt.Sprintf("unknown version %q", rel), "", "")
		return
	}
	older := func(a, b int) bool { return major < a || major == a && minor < b }
	switch {
	case older(captureMajor, captureMinor):
		d.bad(Warn, "kernel", fmt.Sprintf("Linux %s: the programs are written for %d.%d and later", rel, captureMajor, captureMinor),
			"nothing for certain: what does not load is said below", fmt.Sprintf("use Linux %d.%d or later", captureMajor, captureMinor))
	default:
		d.ok("kernel", "Linux %s", rel)
	}
}

var wantedCaps = []struct {
	bit  int
	name string
	lost []string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", []string{lostClassifier, lostCarrier, "kept source addresses", "socket buffers beyond the system limit"}},
	{unix.CAP_BPF, "CAP_BPF", []string{lostClassifier, lostCarrier}},
	// Without it the verifier guards against speculation, and refuses or fails on programs that are fine otherwise.
	{unix.CAP_PERFMON, "CAP_PERFMON", []string{lostClassifier, lostCarrier}},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", []string{"binding sockets to interfaces on kernels before 5.7"}},
}

func (d *doctor) capabilities() {
	caps, err := d.effectiveCaps()
	if err != nil {
		d.bad(Warn, "capabilities", err.Error(), "", "")
		return
	}
	var missing, lost []string
	level := OK
	for _, c := range wantedCaps {
		has := caps&(1<<c.bit) != 0 || (c.bit == unix.CAP_BPF || c.bit == unix.CAP_PERFMON) && caps&(1<<unix.CAP_SYS_ADMIN) != 0
		if has {
			continue
		}
		missing = append(missing, c.name)
		for _, l := range c.lost {
			if !slices.Contains(lost, l) {
				lost = append(lost, l)
			}
		}
		if l := d.needed(); c.bit == unix.CAP_NET_RAW {
			level = max(level, Warn)
		} else {
			level = max(level, l)
		}
	}
	if missing == nil {
		d.ok("capabilities", "NET_ADMIN, BPF, PERFMON, NET_RAW")
		return
	}
	d.unfit = slices.Contains(lost, lostClassifier)
	d.bad(level, "capabilities", "missing "+strings.Join(missing, ", "), strings.Join(lost, "; "),
		"run as root, or set AmbientCapabilities in the service unit; without them an agent still offers SOCKS5 and HTTP CONNECT")
}

func (d *doctor) effectiveCaps() (uint64, error) {
	b, err := os.ReadFile(filepath.Join(d.proc, "self/status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, errors.New("no CapEff in /proc/self/status")
}

func (d *doctor) btf() {
	if _, err := os.Stat(filepath.Join(d.sys, "kernel/btf/vmlinux")); err != nil {
		d.bad(Warn, "btf", "the kernel has no type information", "readable verifier errors", "a kernel with CONFIG_DEBUG_INFO_BTF")
		return
	}
	d.ok("btf", "/sys/kernel/btf/vmlinux")
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func (d *doctor) tunDevice() {
	if err := d.tun(); err != nil {
		d.bad(Warn, "tun", oneLine(err), "the lab's emulated links", "modprobe tun, and pass /dev/net/tun into a container")
		return
	}
	d.ok("tun", "/dev/net/tun opens")
}

// bufferWanted is what a node asks for each uplink socket: a burst of 50 ms at 600 Mbit/s.
const bufferWanted = 4 << 20

func (d *doctor) socketBuffers() {
	for _, name := range []string{"rmem_max", "wmem_max"} {
		check := "net.core." + name
		v, err := d.sysctl("net/core/" + name)
		if err != nil {
			d.bad(Warn, check, oneLine(err), "", "")
			continue
		}
		caps, _ := d.effectiveCaps()
		switch {
		case v >= bufferWanted:
			d.ok(check, "%d", v)
		case caps&(1<<unix.CAP_NET_ADMIN) != 0:
			d.ok(check, "%d (CAP_NET_ADMIN goes beyond it)", v)
		default:
			d.bad(Warn, check, strconv.Itoa(v), "packets at high rates, when the machine is busy", fmt.Sprintf("sysctl -w %s=%d", check, bufferWanted))
		}
	}
}

func (d *doctor) sysctl(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(d.proc, "sys", name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// reversePath: the effective value of an interface is the greater of "all" and its own (ip-sysctl).
func (d *doctor) reversePath(nics []string) {
	all, err := d.sysctl("net/ipv4/conf/all/rp_filter")
	if err != nil {
		d.bad(Warn, "rp_filter", oneLine(err), "", "")
		return
	}
	var strict []string
	for _, nic := range nics {
		if v, err := d.sysctl("net/ipv4/conf/" + nic + "/rp_filter"); err == nil && max(v, all) == 1 {
			strict = append(strict, nic)
		}
	}
	switch {
	case all == 1:
		d.bad(Warn, "rp_filter", "strict on all interfaces", "answers on an uplink that is not the default route, captured flows with kept source addresses",
			"sysctl -w net.ipv4.conf.all.rp_filter=2")
	case strict != nil:
		d.bad(Warn, "rp_filter", "strict on "+strings.Join(strict, ", "), "answers on an uplink that is not the default route, captured flows with kept source addresses",
			fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", strict[0]))
	default:
		d.ok("rp_filter", "not strict")
	}
}

func (d *doctor) forwarding() {
	var off []string
	for _, s := range []struct{ file, name string }{{"net/ipv4/ip_forward", "net.ipv4.ip_forward"}, {"net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"}} {
		if v, err := d.sysctl(s.file); err == nil && v == 0 {
			off = append(off, s.name)
		}
	}
	if off == nil || !d.capture {
		d.ok("forwarding", "%s", map[bool]string{true: "not needed for proxies", false: "on"}[!d.capture && off != nil])
		return
	}
	d.bad(Warn, "forwarding", "off: "+strings.Join(off, ", "), "LAN packets that are not captured (other protocols, no route) go nowhere; captured TCP does not need it",
		"sysctl -w "+off[0]+"=1")
}

// buildYear is when this was written: a clock before it is not set.
const buildYear = 2026

func (d *doctor) clock() {
	now := d.now()
	if now.Year() < buildYear {
		d.bad(Fail, "clock", now.UTC().Format(time.RFC3339)+" is in the past",
			"peers take datagrams of a restarted node that seem older than the last ones for replays", "set the clock, and run an NTP client")
		return
	}
	if synced, err := d.synced(); err == nil && !synced {
		d.bad(Warn, "clock", now.UTC().Format(time.RFC3339)+", not synchronised",
			"a node whose clock was set back is taken for a replay by its peers until they have caught up", "run an NTP client")
		return
	}
	d.ok("clock", "%s", now.UTC().Format(time.RFC3339))
}
