package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// The emulated links run in a process of their own, which answers one JSON object a line on a unix socket. The socket
// lies in the state directory, which only its owner can enter.

// linksSpec is what the emulator process is started with.
type linksSpec struct {
	Seed  uint64           `json:"seed"`
	Links []wan.LinkConfig `json:"links"`
}

// emulatorRequest asks for counters, or darkens, changes, floods or records a link first.
type emulatorRequest struct {
	Darken string          `json:"darken,omitempty"` // link
	Off    bool            `json:"off,omitempty"`
	Change string          `json:"change,omitempty"` // link, both directions
	To     *wan.Impairment `json:"to,omitempty"`

	Flood     *wan.FloodConfig `json:"flood,omitempty"`      // begin; it ends with the connection at the latest
	FloodStop bool             `json:"flood_stop,omitempty"` // end, and say what it did

	Record     *wan.RecordConfig `json:"record,omitempty"`      // begin; it ends with the connection at the latest
	RecordStop bool              `json:"record_stop,omitempty"` // end all, and say what passed
}

type emulatorReply struct {
	Error string          `json:"error,omitempty"`
	Links []wan.LinkStats `json:"links"`
	Flood *wan.FloodStats `json:"flood,omitempty"`
	// Passed are by link.
	Passed map[string][]wan.Passage `json:"passed,omitempty"`
}

// maxEmulatorLine bounds a request: they are a few dozen bytes.
const maxEmulatorLine = 4096

// Emulate is the emulator process: it runs the links of the spec file and answers on the socket until ctx ends.
func Emulate(ctx context.Context, specPath, socket string) error {
	text, err := os.ReadFile(specPath)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	var spec linksSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("emulator: %s: %w", specPath, err)
	}
	em, err := wan.NewEmulator(spec.Seed, spec.Links)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	defer em.Close()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("emulator: %w", err)
		}
		wg.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			answer(em, c)
		})
	}
}

func answer(em *wan.Emulator, c net.Conn) {
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, maxEmulatorLine), maxEmulatorLine)
	out := json.NewEncoder(c)
	var flood *wan.Flood
	records := make(map[string]*wan.Recording)
	defer func() {
		if flood != nil {
			flood.Stop()
		}
		for _, r := range records {
			r.Stop()
		}
	}()
	for in.Scan() {
		var req emulatorRequest
		var rep emulatorReply
		err := json.Unmarshal(in.Bytes(), &req)
		if err == nil && req.Darken != "" {
			err = em.Darken(req.Darken, req.Off)
		}
		if err == nil && req.Change != "" && req.To != nil {
			err = errors.Join(em.SetImpairment(req.Change, wan.AtoB, *req.To), em.SetImpairment(req.Change, wan.BtoA, *req.To))
		}
		if err == nil && req.Record != nil {
			var r *wan.Recording
			if r, err = em.Record(*req.Record); err == nil {
				records[req.Record.Link] = r
			}
		}
		if err == nil && req.RecordStop {
			rep.Passed, err = stopRecords(records)
		}
		switch {
		case err != nil:
		case req.Flood != nil && flood != nil:
			err = errors.New("flooding already")
		case req.Flood != nil:
			flood, err = em.Flood(*req.Flood)
		case req.FloodStop && flood != nil:
			stats := flood.Stop()
			rep.Flood, flood = &stats, nil
		case req.FloodStop:
			err = errors.New("not flooding")
		}
		if err != nil {
			rep.Error = err.Error()
		}
		rep.Links = em.Stats()
		if out.Encode(&rep) != nil {
			return
		}
	}
}

// stopRecords ends recordings and returns what they hold; a record that was too short is none.
func stopRecords(records map[string]*wan.Recording) (map[string][]wan.Passage, error) {
	out := make(map[string][]wan.Passage)
	var err error
	for link, r := range records {
		delete(records, link)
		var missed int
		if out[link], missed = r.Stop(); missed > 0 {
			err = errors.Join(err, fmt.Errorf("link %s: %d frames beyond the %d that were to be recorded", link, missed, len(out[link])))
		}
	}
	return out, err
}

// emulatorClient talks to the emulator process. Safe for concurrent use.
type emulatorClient struct {
	mu   sync.Mutex
	conn net.Conn
	in   *json.Decoder
}

// emulatorTimeout bounds one exchange: the emulator answers between two passes of its loop.
const emulatorTimeout = 5 * time.Second

func dialEmulator(socket string) (*emulatorClient, error) {
	c, err := net.DialTimeout("unix", socket, emulatorTimeout)
	if err != nil {
		return nil, fmt.Errorf("emulator: %w", err)
	}
	return &emulatorClient{conn: c, in: json.NewDecoder(c)}, nil
}

func (e *emulatorClient) Close() error { return e.conn.Close() }

func (e *emulatorClient) ask(req emulatorRequest) (rep emulatorReply, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.conn.SetDeadline(time.Now().Add(emulatorTimeout)); err != nil {
		return rep, fmt.Errorf("emulator: %w", err)
	}
	if err := json.NewEncoder(e.conn).Encode(req); err != nil {
		return rep, fmt.Errorf("emulator: %w", err)
	}
	if err := e.in.Decode(&rep); err != nil {
		return rep, fmt.Errorf("emulator: %w", err)
	}
	if rep.Error != "" {
		return rep, errors.New("emulator: " + rep.Error)
	}
	return rep, nil
}

// Stats returns the counters of all links.
func (e *emulatorClient) Stats() ([]wan.LinkStats, error) {
	rep, err := e.ask(emulatorRequest{})
	return rep.Links, err
}

// Darken switches a link off (true) or on.
func (e *emulatorClient) Darken(link string, off bool) error {
	_, err := e.ask(emulatorRequest{Darken: link, Off: off})
	return err
}

// Change gives both directions of a link another impairment from now on.
func (e *emulatorClient) Change(link string, to wan.Impairment) error {
	_, err := e.ask(emulatorRequest{Change: link, To: &to})
	return err
}

// Flood sends junk to a NIC until StopFlood.
func (e *emulatorClient) Flood(c wan.FloodConfig) error {
	_, err := e.ask(emulatorRequest{Flood: &c})
	return err
}

// StopFlood ends the flood and says what it did.
func (e *emulatorClient) StopFlood() (wan.FloodStats, error) {
	rep, err := e.ask(emulatorRequest{FloodStop: true})
	if err != nil || rep.Flood == nil {
		return wan.FloodStats{}, err
	}
	return *rep.Flood, nil
}

// Record follows frames over a link until StopRecords.
func (e *emulatorClient) Record(c wan.RecordConfig) error {
	_, err := e.ask(emulatorRequest{Record: &c})
	return err
}

// StopRecords ends all recordings begun with this client and says what passed, by link.
func (e *emulatorClient) StopRecords() (map[string][]wan.Passage, error) {
	rep, err := e.ask(emulatorRequest{RecordStop: true})
	return rep.Passed, err
}

// pathResults turns counters taken before and after a run into the result's paths: border links only.
func pathResults(before, after []wan.LinkStats, border []string) map[string]PathResult {
	start := make(map[string]wan.LinkStats)
	for _, l := range before {
		start[l.Name] = l
	}
	out := make(map[string]PathResult)
	for _, name := range border {
		out[name] = PathResult{}
	}
	for _, l := range after {
		p, ok := out[l.Name]
		if !ok {
			continue
		}
		b := start[l.Name]
		p.ToOrigin = l.AtoB.SentBytes - b.AtoB.SentBytes
		p.ToClient = l.BtoA.SentBytes - b.BtoA.SentBytes
		for _, w := range [][2]wan.WayStats{{b.AtoB, l.AtoB}, {b.BtoA, l.BtoA}} {
			p.Sent += w[1].Sent - w[0].Sent
			p.SentBytes += w[1].SentBytes - w[0].SentBytes
			p.Lost += w[1].Lost + w[1].Outage + w[1].Overflow - w[0].Lost - w[0].Outage - w[0].Overflow
			p.QueueDrops += w[1].QueueDrops - w[0].QueueDrops
			p.Policed += w[1].Policed - w[0].Policed
		}
		out[l.Name] = p
	}
	return out
}

// overloads says which devices lost frames because the machine was too busy to read them: such a run measures the
// machine, not the tunnel.
func overloads(before, after []wan.LinkStats) []string {
	start := make(map[string]uint64)
	for _, l := range before {
		start[l.Name] = l.AtoB.DeviceDrops + l.BtoA.DeviceDrops
	}
	var out []string
	for _, l := range after {
		if n := l.AtoB.DeviceDrops + l.BtoA.DeviceDrops - start[l.Name]; n > 0 {
			out = append(out, fmt.Sprintf("%s: %d frames dropped by the device", l.Name, n))
		}
	}
	return out
}
