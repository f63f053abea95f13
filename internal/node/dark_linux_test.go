package node

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestDarkPath: a call leaves the carrier that goes dark within 200 ms and a little.
func TestDarkPath(t *testing.T) {
	m := newMachines(t)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls)))
	m.gateway("sha")
	m.gateway("fra")
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
		k.flowing(t, 300*time.Millisecond)
		m.setDown("fra", dev, false)
	}
}

// newFlows sends the first datagrams of flows, one every 5 ms, until stop is closed, and says when each left and which arrived.
func (m *machines) newFlows(machine, from, to string, stop <-chan struct{}) (sent []time.Time, arrived map[uint32]bool) {
	m.t.Helper()
	dst := netip.MustParseAddrPort(to)
	sink, err := wan.ListenUDPIn(m.ns("origin"), dst)
	must(m.t, err)
	arrived = map[uint32]bool{}
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 64)
		for {
			n, _, err := sink.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if n == 4 {
				arrived[binary.BigEndian.Uint32(b)] = true
			}
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
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(dst))
			if err != nil {
				return err
			}
			number := uint32(len(sent))
			sent = append(sent, time.Now())
			_, err = c.Write(binary.BigEndian.AppendUint32(nil, number))
			c.Close()
			if err != nil {
				return err
			}
		}
	})
	time.Sleep(100 * time.Millisecond) // the last are under way
	sink.Close()
	reader.Wait()
	return sent, arrived
}

// TestDarkNewFlows: less than 200 ms after a carrier went dark no new flow is put on it, also while the daemon stands still.
func TestDarkNewFlows(t *testing.T) {
	const most, lead, span = 200 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond
	m := newMachines(t)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls)))
	sha := m.gateway("sha")
	m.gateway("fra")
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)
	time.Sleep(2 * time.Second) // both paths are known for long enough
	for _, stopped := range []bool{false, true, false} {
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
		sent, arrived := m.newFlows("client", "10.10.0.2", "10.20.0.2:5010", stop)
		if stopped {
			must(t, sha.cmd.Process.Signal(syscall.SIGCONT))
		}
		m.setDown("fra", dev, false)
		var last time.Duration
		after := 0
		for i, at := range sent {
			since := at.Sub(dark)
			if since >= most {
				after++
			}
			if !arrived[uint32(i)] {
				last = max(last, since)
			}
		}
		t.Logf("%s dark, daemon stopped %v: last flow on it after %v", dev, stopped, last.Round(time.Millisecond))
		if last >= most {
			t.Errorf("%s dark, daemon stopped %v: new flows on it for %v, want less than %v", dev, stopped, last, most)
		}
		if last == 0 || after == 0 {
			t.Errorf("%s dark, daemon stopped %v: last flow on it after %v, %d after the limit: nothing is shown", dev, stopped, last, after)
		}
	}
}
