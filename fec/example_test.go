package fec_test

import (
	"fmt"

	"github.com/landbridge/landbridge/fec"
)

func Example() {
	encoder := fec.NewEncoder(200, 1400)
	decoder := fec.NewDecoder(200, 1400)

	for seq, payload := range []string{"one", "two", "three", "four", "five"} {
		encoder.Add(uint64(seq), []byte(payload))
		if seq == 1 || seq == 3 {
			continue // lost on the way
		}
		decoder.Source(uint64(seq), []byte(payload), nil)
	}

	first, n := encoder.Window()
	var recovered []fec.Packet
	for key := range uint32(2) {
		symbol, err := encoder.Repair(nil, first, n, key)
		if err != nil {
			fmt.Println(err)
			return
		}
		// first, n, key and symbol cross the network here.
		if recovered, err = decoder.Repair(first, n, key, symbol, recovered); err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, p := range recovered {
		fmt.Printf("%d %s\n", p.Seq, p.Payload)
	}
	// Output:
	// 1 two
	// 3 four
}
