package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

// via is what a way across the border does on this machine. The plan has laid its routes already.
type via interface {
	// check says what the machine lacks for it. Nothing has been started yet.
	check(o Options) error
	// start brings its programs and devices up in the lab's namespaces. Programs started with lab.start and devices in
	// the namespaces go with the lab; the rest is clear's.
	start(ctx context.Context, lab *Lab, detached bool) error
	// entry is where the client dials to reach the origin's port.
	entry(o Options, port int) netip.AddrPort
	// clear removes what start may have left outside the namespaces and the state directory of the lab of that name.
	clear(name string) error
}

var vias = map[string]via{
	ViaLandbridge:  viaLandbridge{},
	ViaTCPCubic:    viaKernel{},
	ViaTCPBBR:      viaKernel{},
	ViaMPTCPBBR:    viaMPTCP{},
	ViaKCPTun:      viaKCPTun{},
	ViaHysteria:    viaHysteria{told: true},
	ViaHysteriaBBR: viaHysteria{},
	ViaOpenVPN:     viaOpenVPN{},
	ViaWireGuard:   viaWireGuard{},
}

func (o Options) via() via { return vias[o.way().name] }

// otherTools are the programs of other projects that the lab starts.
var otherTools = append([]string{kcptunClient, kcptunServer, singBox, openVPN}, wireGuardPrograms...)

// tool finds another project's program under one of its names: beside Landbridge's own, in the PATH, or where Debian
// keeps programs for root.
func tool(o Options, names ...string) (string, error) {
	for _, name := range names {
		for _, dir := range []string{o.Programs, "/usr/sbin", "/usr/local/sbin"} {
			path := filepath.Join(dir, name)
			if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return path, nil
			}
		}
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", hint.With(fmt.Errorf("%s: %w", names[0], ErrMissing), "install it with \"make peers\"")
}

// tunDevice is what tunnels in user space and the emulator need.
func tunDevice() error {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("TUN devices: %w", ErrMissing)
	}
	return nil
}

// writeConfig writes a tool's configuration, which may hold a key, into the lab's directory.
func (lab *Lab) writeConfig(name string, text []byte) (string, error) {
	path := filepath.Join(lab.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

// waitFor retries until it works, one of the lab's programs has ended or the time is up.
func (lab *Lab) waitFor(ctx context.Context, what string, try func() error) error {
	for end := time.Now().Add(toolTimeout); ; {
		err := try()
		if err == nil {
			return nil
		}
		if dead := lab.alive(); dead != nil {
			return dead
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s did not come up within %v: %w", what, toolTimeout, err)
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// toolTimeout bounds the wait for a tool's device or socket: they take some 100 ms.
const toolTimeout = 10 * time.Second

// direct is for ways on which the client dials the origin itself.
type direct struct{}

func (direct) entry(_ Options, port int) netip.AddrPort { return originAt(port) }

// forwarded is for ways whose program at gateway sha takes the client's connection.
type forwarded struct{}

func (forwarded) entry(o Options, port int) netip.AddrPort {
	return netip.AddrPortFrom(nearGateway(o), uint16(port))
}

// tidy is for ways that leave nothing outside the lab.
type tidy struct{}

func (tidy) clear(string) error { return nil }
