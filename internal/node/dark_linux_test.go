package node

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestDarkPath: a call leaves the carrier that goes dark. TestPatience is about how soon.
func TestDarkPath(t *testing.T) {
	m := newMachines(t)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls)))
	m.border()
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)
	time.Sleep(2 * time.Second) // both paths are known for long enough
	for range 2 {
		m.allUp("sha") // else there is nowhere to go, or for the answers
		m.allUp("fra")
		k.flowing(t, testTimeout)
		dev := m.carrierOf("sha", "realtime")
		m.setDown("fra", dev, true)
		time.Sleep(600 * time.Millisecond)
		t.Logf("%s dark: no answers for %v", dev, time.Duration(k.gap.Load()).Round(time.Millisecond))
		k.flowing(t, testTimeout)
		m.setDown("fra", dev, false)
	}
}

// newFlow is the first datagram of a flow.
type newFlow struct {
	port    int // where it left from
	sent    time.Time
	arrived bool
}

// newFlows sends the first datagrams of flows, one every 5 ms, each from a port of its own from the first one on, until
// stop is closed.
func (m *machines) newFlows(machine, from string, first int, to string, stop <-chan struct{}) (flows []newFlow) {
	m.t.Helper()
	dst := netip.MustParseAddrPort(to)
	sink, err := wan.ListenUDPIn(m.ns("origin"), dst)
	must(m.t, err)
	defer sink.Close()
	var arrived []uint32
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 64)
		for {
			n, _, err := sink.ReadFromUDPAddrPort(b)
			if err != nil || n == 0 {
				return
			}
			arrived = append(arrived, binary.BigEndian.Uint32(b))
		}
	})
	m.in(machine, func() error {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return nil
			case <-tick.C:
			}
			f := newFlow{port: first + len(flows)}
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from), Port: f.port}, net.UDPAddrFromAddrPort(dst))
			if err != nil {
				return err
			}
			f.sent = time.Now()
			_, err = c.Write(binary.BigEndian.AppendUint32(nil, uint32(len(flows))))
			c.Close()
			if err != nil {
				return err
			}
			flows = append(flows, f)
		}
	})
	time.Sleep(200 * time.Millisecond) // the last are under way
	end, err := wan.ListenUDPIn(m.ns("origin"), netip.AddrPortFrom(dst.Addr(), 0))
	must(m.t, err)
	defer end.Close()
	_, err = end.WriteToUDPAddrPort(nil, dst) // behind all that came, however late they are read
	must(m.t, err)
	reader.Wait()
	for _, i := range arrived {
		flows[i].arrived = true
	}
	return flows
}

// TestDarkNewFlows: less than 200 ms after a carrier went dark no new flow is put on it, also while the daemon stands still.
func TestDarkNewFlows(t *testing.T) {
	const most, lead, span = 200 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond
	// rounds bounds how often the same is done until it shows something: the carrier must be the one that new flows take,
	// and some must leave, in the short time until the kernel knows. On a busy machine nobody may have a processor then.
	const rounds = 8
	m := newMachines(t)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls)))
	sha, _ := m.border()
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)
	time.Sleep(2 * time.Second) // both paths are known for long enough
	first := 10000
	round := func(stopped bool) (shown bool) {
		m.allUp("sha")
		m.allUp("fra")
		k.flowing(t, testTimeout)
		dev := m.carrierOf("sha", "realtime")
		if stopped {
			must(t, sha.cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(time.Second)
		}
		var dark time.Time
		stop := make(chan struct{})
		time.AfterFunc(lead, func() {
			m.setDown("fra", dev, true)
			dark = time.Now()
			time.AfterFunc(span, func() { close(stop) })
		})
		flows := m.newFlows("client", "10.10.0.2", first, "10.20.0.2:5010", stop)
		first += len(flows)
		if stopped {
			must(t, sha.cmd.Process.Signal(syscall.SIGCONT))
		}
		m.setDown("fra", dev, false)
		var last time.Duration
		elsewhere, unplaced := 0, 0
		for _, f := range flows {
			since := f.sent.Sub(dark)
			if f.arrived {
				if since >= most {
					elsewhere++
				}
				continue
			}
			// Where all paths are silent, as gateways are that have no processor, a flow is put nowhere.
			if fate := m.fate("sha", fmt.Sprintf("udp 10.10.0.2:%d 10.20.0.2:5010", f.port)); strings.HasPrefix(fate.Path, dev[:2]) {
				last = max(last, since)
			} else {
				unplaced++
			}
		}
		t.Logf("%s dark, daemon stopped %v: last flow on it after %v; after the limit %d on the other one; %d on none",
			dev, stopped, last.Round(time.Millisecond), elsewhere, unplaced)
		if last >= most {
			t.Errorf("%s dark, daemon stopped %v: new flows on it for %v, want less than %v", dev, stopped, last, most)
		}
		return last > 0 && elsewhere > 0
	}
	for _, stopped := range []bool{false, true, false} {
		shown := false
		for i := 0; i < rounds && !shown; i++ {
			shown = round(stopped)
		}
		if !shown {
			t.Errorf("daemon stopped %v: nothing is shown in %d rounds", stopped, rounds)
		}
	}
}
