package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// fullMTU carries our datagrams without making QUIC's packets smaller.
	fullMTU = 1500
	// leastMTU is what QUIC's own least packet (1200, RFC 9000 section 14) needs with the outer headers.
	leastMTU = 1280
)

func (d *doctor) nic(name string, spare bool) {
	check := "nic " + name
	dir := filepath.Join(d.sys, "class/net", name)
	if _, err := os.Stat(dir); err != nil {
		if spare {
			d.bad(Warn, check, "no such interface", "its paths, or the flows behind it, until it is there: the node starts without it", "ip -br link")
			return
		}
		d.bad(Fail, check, "no such interface", "its paths, or the flows behind it", "ip -br link")
		return
	}
	state := strings.TrimSpace(readString(filepath.Join(dir, "operstate")))
	if state == "down" || state == "lowerlayerdown" || state == "notpresent" {
		d.bad(Warn, check, "link is "+state, "its paths, or the flows behind it, until it is up", "ip link set "+name+" up")
		return
	}
	mtu, err := strconv.Atoi(strings.TrimSpace(readString(filepath.Join(dir, "mtu"))))
	if err != nil {
		d.bad(Warn, check, "unknown MTU", "", "")
		return
	}
	off, err := d.offloads(name)
	offloads := "offloads unknown"
	if err == nil {
		var on []string
		for k, v := range off {
			if v {
				on = append(on, k)
			}
		}
		slices.Sort(on)
		offloads = "offloads " + strings.Join(on, ", ")
		if on == nil {
			offloads = "no offloads"
		}
	}
	detail := fmt.Sprintf("%s, MTU %d, %s", state, mtu, offloads)
	switch {
	case mtu < leastMTU:
		d.bad(Fail, check, detail, "the paths of this uplink: QUIC's least packet does not fit", fmt.Sprintf("ip link set %s mtu %d, or as large as the link allows", name, fullMTU))
	case mtu < fullMTU:
		d.bad(Warn, check, detail, "some throughput: smaller packets on every path", fmt.Sprintf("ip link set %s mtu %d, if the link allows it", name, fullMTU))
	case off["lro"]:
		d.bad(Warn, check, detail, "forwarded packets: LRO merges them beyond repair", fmt.Sprintf("ethtool -K %s lro off", name))
	default:
		d.ok(check, "%s", detail)
	}
}

func readString(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}
