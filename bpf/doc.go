// Package bpf holds Landbridge's programs in the kernel and their loaders.
//
// [LoadClassifier] loads the program for NICs that face the customer: it finds a
// flow's tenant and rule ([Classifier.SetPolicy]), picks its path from the live
// path table ([Paths]), and drops it, sends it out of the path's NIC, hands TCP
// for a captured prefix to the local transparent listener, or lets it pass.
// [LoadReturn] loads the one for NICs that face the origin: replies to
// connections dialled from a client's address are handed to these connections.
// [LoadCarrier] loads those for NICs that face a carrier: STAMP reflector, taker
// of our own probes' answers, which it writes to the live path table, and guard.
// What happened to each packet is counted by verdict. Package tunnel/capture
// runs the first two; use that unless you test the programs themselves.
//
// The C sources are compiled by "go generate" (clang 14 or later, libbpf
// headers); the objects are committed, so that building needs neither. The C
// code is licensed MIT OR GPL-2.0-only, because the kernel lends its socket
// helpers only to programs with a GPL-compatible licence.
//
// A program owns its maps, programs and attachments until Close; it keeps no
// memory of the caller. Attach and Close act in the network namespace of the
// calling thread.
package bpf
