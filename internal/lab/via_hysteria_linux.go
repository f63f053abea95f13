package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// viaHysteria is Hysteria 2 as sing-box implements it: a client at sha that forwards one TCP port, a server at fra.
type viaHysteria struct {
	forwarded
	tidy
	told bool // the link's rate: it then sends at that rate whatever is lost
}

const (
	singBox      = "sing-box"
	hysteriaPort = 8443
	hysteriaName = "fra.lab"
)

func (viaHysteria) check(o Options) error {
	_, err := tool(o, singBox)
	return err
}

func (v viaHysteria) start(_ context.Context, lab *Lab, detached bool) error {
	o := lab.state.Options
	path, err := tool(o, singBox)
	if err != nil {
		return err
	}
	cert, key, err := selfSigned(hysteriaName)
	if err != nil {
		return fmt.Errorf("hysteria: %w", err)
	}
	type object = map[string]any
	entry, origin := v.entry(o, workloadPort), originAt(workloadPort)
	outbound := object{
		"type": "hysteria2", "tag": "far", "server": farAddr(o).String(), "server_port": hysteriaPort, "password": lab.state.Options.Name,
		"tls": object{"enabled": true, "server_name": hysteriaName, "certificate": lines(cert)},
	}
	inbound := object{
		"type": "hysteria2", "tag": "border", "listen": farAddr(o).String(), "listen_port": hysteriaPort,
		"users": []object{{"name": "lab", "password": lab.state.Options.Name}},
		"tls":   object{"enabled": true, "server_name": hysteriaName, "certificate": lines(cert), "key": lines(key)},
	}
	if v.told {
		mbits := int(lab.links[0].Impairment.Capacity() / 1_000_000)
		for _, side := range []object{outbound, inbound} {
			side["up_mbps"], side["down_mbps"] = mbits, mbits
		}
	} else {
		inbound["ignore_client_bandwidth"] = true // BBR both ways
	}
	for _, side := range []struct {
		machine string
		conf    object
	}{
		{machineFra, object{"inbounds": []object{inbound}, "outbounds": []object{{"type": "direct", "tag": "origin"}}}},
		{machineSha, object{
			"inbounds": []object{{
				"type": "direct", "tag": "near", "network": "tcp", "listen": entry.Addr().String(), "listen_port": entry.Port(),
				"override_address": origin.Addr().String(), "override_port": origin.Port(),
			}},
			"outbounds": []object{outbound},
		}},
	} {
		side.conf["log"] = object{"level": "warn"}
		text, err := json.MarshalIndent(side.conf, "", "  ")
		if err != nil {
			return fmt.Errorf("hysteria: %w", err)
		}
		name := singBox + "-" + side.machine
		file, err := lab.writeConfig(name+".json", text)
		if err != nil {
			return err
		}
		if _, err := lab.start(name, side.machine, detached, path, "run", "-c", file); err != nil {
			return err
		}
	}
	return nil
}

// lines is PEM as sing-box takes it.
func lines(text []byte) []string { return strings.Split(strings.TrimSpace(string(text)), "\n") }

// selfSigned makes a key and a certificate for one run, in PEM.
func selfSigned(name string) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}
