package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/landbridge/landbridge/bpf"
)

// lacking is a kernel that has tries but answers err when asked for a helper.
func lacking(err error) func() []bpf.Feature {
	return func() []bpf.Feature {
		return []bpf.Feature{{Name: "LPM tries", Since: "4.11", Classifier: true, Carrier: true}, {Name: "bpf_sk_assign", Since: "5.7", Classifier: true, Err: err}}
	}
}

// healthy is a machine without complaint; cases spoil it.
func healthy(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{
		proc: filepath.Join(dir, "proc"), sys: filepath.Join(dir, "sys"),
		release:  func() (string, error) { return "6.12.1-amd64", nil },
		tun:      func() error { return nil },
		tcx:      func() error { return nil },
		features: lacking(nil),
		carrier:  func() error { return nil }, classifier: func() error { return nil },
		xdp:      func(string) error { return nil },
		offloads: func(string) (map[string]bool, error) { return map[string]bool{"gro": true, "lro": false}, nil },
		synced:   func() (bool, error) { return true, nil },
		now:      func() time.Time { return time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC) },
	}
	write(t, m.proc, "self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
	write(t, m.proc, "sys/net/core/rmem_max", "8388608\n")
	write(t, m.proc, "sys/net/core/wmem_max", "8388608\n")
	write(t, m.proc, "sys/net/ipv4/conf/all/rp_filter", "0\n")
	write(t, m.proc, "sys/net/ipv4/conf/ct0/rp_filter", "2\n")
	write(t, m.proc, "sys/net/ipv4/ip_forward", "1\n")
	write(t, m.proc, "sys/net/ipv6/conf/all/forwarding", "1\n")
	write(t, m.sys, "kernel/btf/vmlinux", "")
	write(t, m.sys, "class/net/ct0/operstate", "up\n")
	write(t, m.sys, "class/net/ct0/mtu", "1500\n")
	return m
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const noCaps = "CapEff:\t0000000000000000\n"

func TestFindings(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spoil   func(t *testing.T, m *machine)
		proxies bool
		want    string // the findings that are not ok: level, check, detail
	}{
		{"healthy", func(*testing.T, *machine) {}, false, ""},
		{"old kernel", func(_ *testing.T, m *machine) {
			m.release = func() (string, error) { return "4.19.0-21-amd64", nil }
		}, false, "warn kernel: Linux 4.19.0-21-amd64: the programs are written for 5.15 and later"},
		{"old kernel, proxies only", func(_ *testing.T, m *machine) {
			m.release = func() (string, error) { return "4.19.0", nil }
		}, true, "warn kernel: Linux 4.19.0: the programs are written for 5.15 and later"},
		{"kernel before tcx is fine", func(_ *testing.T, m *machine) {
			m.release = func() (string, error) { return "6.1.0-13-amd64", nil }
		}, false, ""},
		{"odd kernel", func(_ *testing.T, m *machine) {
			m.release = func() (string, error) { return "plan9", nil }
		}, false, `warn kernel: unknown version "plan9"`},
		{"no capabilities", func(t *testing.T, m *machine) {
			write(t, m.proc, "self/status", noCaps)
			m.features = lacking(fmt.Errorf("load: %w", fs.ErrPermission))
		}, false, "fail capabilities: missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_NET_RAW"},
		{"no capabilities, proxies only", func(t *testing.T, m *machine) {
			write(t, m.proc, "self/status", noCaps)
			m.features = lacking(fmt.Errorf("load: %w", fs.ErrPermission))
		}, true, "warn capabilities: missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_NET_RAW"},
		{"CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON", func(t *testing.T, m *machine) {
			write(t, m.proc, "self/status", "CapEff:\t0000000000203000\n") // SYS_ADMIN, NET_RAW, NET_ADMIN
		}, false, ""},
		{"only NET_RAW missing", func(t *testing.T, m *machine) {
			write(t, m.proc, "self/status", "CapEff:\t000000c000001000\n") // BPF, PERFMON, NET_ADMIN
		}, false, "warn capabilities: missing CAP_NET_RAW"},
		{"only PERFMON missing", func(t *testing.T, m *machine) {
			write(t, m.proc, "self/status", "CapEff:\t0000008000003000\n") // BPF, NET_RAW, NET_ADMIN
		}, false, "fail capabilities: missing CAP_PERFMON"},
		{"capabilities, but forbidden", func(_ *testing.T, m *machine) { m.features = lacking(fmt.Errorf("load: %w", fs.ErrPermission)) }, false,
			"fail programs: cannot be loaded, although the capabilities are there: permission denied"},
		{"reflector and guard do not load", func(_ *testing.T, m *machine) { m.carrier = func() error { return errors.New("no ring buffer") } }, false,
			"warn carriers: does not load: no ring buffer"},
		{"another XDP program", func(_ *testing.T, m *machine) { m.xdp = func(string) error { return errors.New("program 7 is there") } }, false,
			"warn carriers ct0: program 7 is there"},
		{"no tcx", func(_ *testing.T, m *machine) { m.tcx = func() error { return errors.New("not supported") } }, false,
			"warn classifier: loads, but there is no tcx: not supported"},
		{"no bpf_sk_assign", func(_ *testing.T, m *machine) { m.features = lacking(errors.ErrUnsupported) }, false,
			"fail classifier: the kernel lacks bpf_sk_assign (Linux 5.7)"},
		{"nobody knows of bpf_sk_assign", func(_ *testing.T, m *machine) { m.features = lacking(errors.New("odd\nanswer")) }, false,
			"fail classifier: the kernel lacks bpf_sk_assign (Linux 5.7): odd answer"},
		{"the verifier refuses the classifier, proxies only", func(_ *testing.T, m *machine) {
			m.classifier = func() error { return errors.New("too complex") }
		}, true, "warn classifier: does not load: too complex"},
		{"a very old kernel", func(_ *testing.T, m *machine) {
			m.features = func() []bpf.Feature {
				return []bpf.Feature{
					{Name: "bounded loops", Since: "5.3", Classifier: true, Carrier: true, Err: errors.ErrUnsupported},
					{Name: "bpf_check_mtu", Since: "5.12", Classifier: true, Err: errors.ErrUnsupported},
					{Name: "bpf_sk_assign", Since: "5.7", Classifier: true, Err: errors.ErrUnsupported},
					{Name: "ring buffers", Since: "5.8", Carrier: true, Err: errors.ErrUnsupported},
				}
			}
		}, false, "fail classifier: the kernel lacks bounded loops (Linux 5.3), bpf_check_mtu (Linux 5.12), bpf_sk_assign (Linux 5.7)\n" +
			"warn carriers: the kernel lacks bounded loops (Linux 5.3), ring buffers (Linux 5.8)"},
		{"no tun, no BTF", func(_ *testing.T, m *machine) {
			m.tun = func() error { return fs.ErrNotExist }
			os.Remove(filepath.Join(m.sys, "kernel/btf/vmlinux"))
		}, false, "warn btf: the kernel has no type information\nwarn tun: file does not exist"},
		{"small buffers, privileged", func(t *testing.T, m *machine) { write(t, m.proc, "sys/net/core/rmem_max", "212992\n") }, false, ""},
		{"small buffers", func(t *testing.T, m *machine) {
			write(t, m.proc, "sys/net/core/rmem_max", "212992\n")
			write(t, m.proc, "self/status", noCaps)
		}, true, "warn capabilities: missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_NET_RAW\nwarn net.core.rmem_max: 212992"},
		{"strict everywhere", func(t *testing.T, m *machine) { write(t, m.proc, "sys/net/ipv4/conf/all/rp_filter", "1\n") }, false,
			"warn rp_filter: strict on all interfaces"},
		{"strict on one", func(t *testing.T, m *machine) { write(t, m.proc, "sys/net/ipv4/conf/ct0/rp_filter", "1\n") }, false,
			"warn rp_filter: strict on ct0"},
		{"loose wins", func(t *testing.T, m *machine) {
			write(t, m.proc, "sys/net/ipv4/conf/all/rp_filter", "2\n")
			write(t, m.proc, "sys/net/ipv4/conf/ct0/rp_filter", "1\n")
		}, false, ""},
		{"no forwarding", func(t *testing.T, m *machine) { write(t, m.proc, "sys/net/ipv4/ip_forward", "0\n") }, false,
			"warn forwarding: off: net.ipv4.ip_forward"},
		{"no forwarding, proxies only", func(t *testing.T, m *machine) { write(t, m.proc, "sys/net/ipv4/ip_forward", "0\n") }, true, ""},
		{"clock in 1970", func(_ *testing.T, m *machine) { m.now = func() time.Time { return time.Unix(60, 0) } }, false,
			"fail clock: 1970-01-01T00:01:00Z is in the past"},
		{"clock on its own", func(_ *testing.T, m *machine) { m.synced = func() (bool, error) { return false, nil } }, false,
			"warn clock: 2026-05-01T10:00:00Z, not synchronised"},
		{"small MTU", func(t *testing.T, m *machine) { write(t, m.sys, "class/net/ct0/mtu", "1400\n") }, false,
			"warn nic ct0: up, MTU 1400, offloads gro"},
		{"tiny MTU", func(t *testing.T, m *machine) { write(t, m.sys, "class/net/ct0/mtu", "576\n") }, false,
			"fail nic ct0: up, MTU 576, offloads gro"},
		{"LRO", func(_ *testing.T, m *machine) {
			m.offloads = func(string) (map[string]bool, error) { return map[string]bool{"gro": true, "lro": true}, nil }
		}, false, "warn nic ct0: up, MTU 1500, offloads gro, lro"},
		{"link down", func(t *testing.T, m *machine) { write(t, m.sys, "class/net/ct0/operstate", "down\n") }, false,
			"warn nic ct0: link is down"},
		{"no NIC", func(_ *testing.T, m *machine) { os.RemoveAll(filepath.Join(m.sys, "class/net/ct0")) }, false,
			"fail nic ct0: no such interface"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := healthy(t)
			tc.spoil(t, m)
			var got []string
			lost := map[string]bool{}
			for _, r := range m.run(Options{Capture: !tc.proxies, NICs: []string{"ct0"}}) {
				if r.Level == OK {
					continue
				}
				got = append(got, fmt.Sprintf("%s %s: %s", r.Level, r.Check, r.Detail))
				if r.Lost != "" && lost[r.Lost] {
					t.Errorf("%s: that %s is lost has been said", r.Check, r.Lost)
				}
				lost[r.Lost] = true
				if r.Lost == "" && r.Hint == "" && !strings.Contains(r.Detail, "unknown") {
					t.Errorf("%s: neither what is lost nor a hint", r.Check)
				}
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestSpareNIC: what a node starts without is no failure.
func TestSpareNIC(t *testing.T) {
	var got []string
	for _, r := range healthy(t).run(Options{Capture: true, NICs: []string{"cm0", "ct0", "lan0"}, Spare: []string{"cm0", "ct0"}}) {
		if r.Level != OK {
			got = append(got, fmt.Sprintf("%s %s: %s", r.Level, r.Check, r.Detail))
		}
	}
	if diff := cmp.Diff([]string{"warn nic cm0: no such interface", "fail nic lan0: no such interface"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestText(t *testing.T) {
	rs := []Result{{Check: "kernel", Detail: "Linux 6"}, {"nic ct0", Warn, "MTU 1400", "throughput", "ip link"}}
	var b strings.Builder
	if err := WriteText(&b, rs); err != nil {
		t.Fatal(err)
	}
	want := "ok    kernel   Linux 6\nwarn  nic ct0  MTU 1400\n               lost: throughput\n               hint: ip link\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	if Worst(rs) != Warn || Worst(nil) != OK {
		t.Error("Worst is not the highest level")
	}
}

// The real machine, whatever it is, gives an answer to every check.
func TestRun(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Run(Options{NICs: []string{"lo"}}) {
		seen[r.Check] = true
		if r.Detail == "" {
			t.Errorf("%s says nothing", r.Check)
		}
		t.Log(r.Level, r.Check, r.Detail)
	}
	programs := []string{"classifier", "carriers"}
	if os.Geteuid() != 0 { // or what their absence is due to
		programs = []string{"capabilities"}
	}
	for _, c := range append(programs, "kernel", "capabilities", "btf", "tun", "net.core.rmem_max", "rp_filter", "forwarding", "clock", "nic lo") {
		if !seen[c] {
			t.Errorf("no finding about %s", c)
		}
	}
	if os.Geteuid() != 0 {
		if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root, which LANDBRIDGE_REQUIRE_ROOT=1 demands")
		}
		t.Skip("the rest needs root")
	}
	if err := attachTCX(); err != nil {
		t.Errorf("tcx: %v", err)
	}
	if err := loadCarrier(); err != nil {
		t.Errorf("programs for carriers: %v", err)
	}
	if err := roomForXDP("lo"); err == nil {
		t.Error("lo has room for XDP, which it does not take")
	}
	off, err := ethtoolOffloads("lo")
	if err != nil || !off["tso"] {
		t.Errorf("offloads of lo: %v, %v", off, err)
	}
	if _, err := ethtoolOffloads("no-such-nic"); err == nil {
		t.Error("offloads of no interface")
	}
}
