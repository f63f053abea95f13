package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
)

// viaKCPTun is kcptun's client at sha and its server at fra, one TCP port forwarded over UDP.
type viaKCPTun struct {
	forwarded
	tidy
}

const (
	kcptunClient = "kcptun-client"
	kcptunServer = "kcptun-server"
	kcptunPort   = 29900 // its default
)

func (viaKCPTun) check(o Options) error {
	for _, name := range []string{kcptunClient, kcptunServer} {
		if _, err := tool(o, name); err != nil {
			return err
		}
	}
	return nil
}

func (viaKCPTun) start(_ context.Context, lab *Lab, detached bool) error {
	o := lab.state.Options
	// As people run it on lossy long paths: fastest mode, ten data and three parity shards. It has no congestion control,
	// so its window is its rate: 1024 packets gave 20 Mbit/s on typical and 13 on heavy, these 23 and 18 (ct). No
	// compression and no cipher: the payload is incompressible, and the processor is not what is compared.
	common := map[string]any{
		"mode": "fast3", "datashard": 10, "parityshard": 3, "sndwnd": kcptunWindow, "rcvwnd": kcptunWindow,
		"crypt": "none", "nocomp": true, "mtu": 1400, "smuxver": 2, "smuxbuf": 16 << 20, "streambuf": 8 << 20,
		"sockbuf": 16 << 20, "quiet": true,
	}
	far := netip.AddrPortFrom(farAddr(o), kcptunPort)
	for _, side := range []struct {
		machine, program string
		with             map[string]any
	}{
		{machineFra, kcptunServer, map[string]any{"listen": far.String(), "target": originAt(workloadPort).String()}},
		{machineSha, kcptunClient, map[string]any{
			"localaddr": viaKCPTun{}.entry(o, workloadPort).String(), "remoteaddr": far.String(), "conn": 1,
		}},
	} {
		path, err := tool(o, side.program)
		if err != nil {
			return err
		}
		conf := side.with
		for k, v := range common {
			conf[k] = v
		}
		text, err := json.MarshalIndent(conf, "", "  ")
		if err != nil {
			return fmt.Errorf("kcptun: %w", err)
		}
		file, err := lab.writeConfig(side.program+".json", text)
		if err != nil {
			return err
		}
		if _, err := lab.start(side.program, side.machine, detached, path, "-c", file); err != nil {
			return err
		}
	}
	return nil
}

// kcptunWindow is its windows in packets.
const kcptunWindow = 4096
