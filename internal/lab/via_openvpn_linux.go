package lab

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strings"

	"github.com/landbridge/landbridge/bench/wan"
)

// viaOpenVPN is one OpenVPN tunnel over UDP between the gateways.
type viaOpenVPN struct {
	direct
	tidy
}

// tunnelAddr is a gateway's address inside a private network (side 1 is sha, 2 is fra).
func tunnelAddr(side int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, 0, byte(side)}), 30)
}

const (
	openVPN       = "openvpn"
	openVPNPort   = 1194
	openVPNDevice = "ovpn0"
)

func (viaOpenVPN) check(o Options) error {
	if err := tunDevice(); err != nil {
		return err
	}
	_, err := tool(o, openVPN)
	return err
}

func (viaOpenVPN) start(ctx context.Context, lab *Lab, detached bool) error {
	o := lab.state.Options
	path, err := tool(o, openVPN)
	if err != nil {
		return err
	}
	var certs, keys [2][]byte
	for i, m := range []string{machineSha, machineFra} {
		if certs[i], keys[i], err = selfSigned(m); err != nil {
			return fmt.Errorf("openvpn: %w", err)
		}
	}
	for i, side := range []struct{ machine, role string }{{machineSha, "tls-client"}, {machineFra, "tls-server\ndh none"}} {
		remote := "" // the server answers whoever has the right certificate
		if i == 0 {
			remote = fmt.Sprintf("remote %v %d\nnobind\n", farAddr(o), openVPNPort)
		} else {
			remote = fmt.Sprintf("local %v\nlport %d\n", farAddr(o), openVPNPort)
		}
		conf := fmt.Sprintf(`# made by "landbridge lab"
dev %s
dev-type tun
proto udp4
%s%s
ifconfig %v %v
data-ciphers AES-256-GCM
sndbuf %d
rcvbuf %d
txqueuelen 1000
verb 1
peer-fingerprint %s
<cert>
%s</cert>
<key>
%s</key>
`, openVPNDevice, remote, side.role, tunnelAddr(i+1).Addr(), tunnelAddr(2-i).Addr(), udpBuffer, udpBuffer,
			fingerprint(certs[1-i]), certs[i], keys[i])
		name := openVPN + "-" + side.machine
		file, err := lab.writeConfig(name+".conf", []byte(conf))
		if err != nil {
			return err
		}
		if _, err := lab.start(name, side.machine, detached, path, "--config", file); err != nil {
			return err
		}
	}
	return lab.routeThrough(ctx, openVPNDevice)
}

// udpBuffer is a tool's socket buffers: two bandwidth-delay products of a carrier, so that no buffer is what is measured.
const udpBuffer = 4 << 20

// fingerprint is a certificate's SHA-256 as OpenVPN writes it.
func fingerprint(cert []byte) string {
	block, _ := pem.Decode(cert)
	sum := sha256.Sum256(block.Bytes)
	hex := make([]string, len(sum))
	for i, b := range sum {
		hex[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(hex, ":")
}

// routeThrough waits for the private network's device on both gateways and leads client and origin through it.
func (lab *Lab) routeThrough(ctx context.Context, device string) error {
	o := lab.state.Options
	for i, r := range []route{
		{machine: machineSha, dst: originAddr.Masked(), via: tunnelAddr(2).Addr()},
		{machine: machineFra, dst: clientAddr.Masked(), via: tunnelAddr(1).Addr()},
	} {
		err := lab.waitFor(ctx, fmt.Sprintf("%s on %s", device, []string{machineSha, machineFra}[i]), func() error {
			return wan.InNamespace(o.namespace(r.machine), func() error { return addRoute(r) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}
