package lab

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// viaWireGuard is one WireGuard tunnel between the gateways, by the implementation in user space: few kernels of test
// machines have the other one.
type viaWireGuard struct{ direct }

const (
	wireGuardPort = 51820
	// wireGuardSockets is where wireguard-go listens for its configuration, as wireguard-tools expect it. It is the
	// machine's, not the namespace's: devices of different labs need different names.
	wireGuardSockets = "/var/run/wireguard"
	wireGuardSuffix  = "-wg"
)

// wireGuardPrograms: Debian's name, and that of "go install golang.zx2c4.com/wireguard".
var wireGuardPrograms = []string{"wireguard", "wireguard-go"}

func wireGuardDevice(lab string, side int) string { return fmt.Sprint(lab, wireGuardSuffix, side) }

func (viaWireGuard) check(o Options) error {
	if err := tunDevice(); err != nil {
		return err
	}
	_, err := tool(o, wireGuardPrograms...)
	return err
}

func (viaWireGuard) start(ctx context.Context, lab *Lab, detached bool) error {
	o := lab.state.Options
	path, err := tool(o, wireGuardPrograms...)
	if err != nil {
		return err
	}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return fmt.Errorf("wireguard: %w", err)
		}
	}
	for i, machine := range []string{machineSha, machineFra} {
		dev := wireGuardDevice(o.Name, i+1)
		if _, err := lab.start("wireguard-"+machine, machine, detached, path, "-f", dev); err != nil {
			return err
		}
		conf := fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=%d\npublic_key=%x\nallowed_ip=0.0.0.0/0\n",
			keys[i].Bytes(), wireGuardPort, keys[1-i].PublicKey().Bytes())
		if i == 0 {
			conf += fmt.Sprintf("endpoint=%v\n", netip.AddrPortFrom(farAddr(o), wireGuardPort))
		}
		err := lab.waitFor(ctx, dev, func() error { return configureWireGuard(dev, conf) })
		if err != nil {
			return err
		}
		at := end{machine, dev, []netip.Prefix{tunnelAddr(i + 1)}}
		if err := wan.InNamespace(o.namespace(machine), func() error { return setUp(at) }); err != nil {
			return err
		}
	}
	return lab.routeThrough(ctx, "WireGuard")
}

// configureWireGuard speaks the cross-platform userspace protocol (wireguard.com/xplatform).
func configureWireGuard(device, conf string) error {
	c, err := net.DialTimeout("unix", filepath.Join(wireGuardSockets, device+".sock"), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(conf + "\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != "errno=0" {
		return fmt.Errorf("configure %s: %s", device, answer)
	}
	return nil
}

func (viaWireGuard) clear(name string) error {
	for side := 1; side <= 2; side++ {
		path := filepath.Join(wireGuardSockets, wireGuardDevice(name, side)+".sock")
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("wireguard: %w", err)
		}
	}
	return nil
}
