package fec

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestSmoke(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	e, d := NewEncoder(200, 1400), NewDecoder(200, 1400)
	src := map[uint64][]byte{}
	lost, rec := 0, 0
	check := func(ps []Packet) {
		for _, p := range ps {
			rec++
			if !bytes.Equal(p.Payload, src[p.Seq]) {
				t.Fatal(p.Seq)
			}
		}
	}
	for seq := uint64(0); seq < 20000; seq++ {
		p := make([]byte, r.IntN(1401))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		src[seq] = p
		e.Add(seq, p)
		if r.IntN(20) != 0 {
			check(d.Source(seq, p, nil))
		} else {
			lost++
		}
		if seq%5 == 4 {
			f, n := e.Window()
			s, err := e.Repair(nil, f, n, uint32(seq))
			if err != nil {
				t.Fatal(err)
			}
			if r.IntN(20) != 0 {
				ps, err := d.Repair(f, n, uint32(seq), s, nil)
				if err != nil {
					t.Fatal(err)
				}
				check(ps)
			}
		}
	}
	t.Log(lost, rec, d.Stats(), d.Pending())
}
