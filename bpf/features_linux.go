package bpf

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Feature is something that the programs need of the kernel.
type Feature struct {
	Name  string
	Since string // Linux version
	// Classifier and Carrier say which programs do not load without it:
	// [LoadClassifier]'s, [LoadCarrier]'s.
	Classifier, Carrier bool
	// Err is nil where the kernel has it, wraps [errors.ErrUnsupported] where it
	// has not, and is something else where that could not be found out.
	Err error
}

// Features asks the running kernel for everything that the programs use and that
// is not in every kernel since 5.2. It needs the capabilities that loading needs.
func Features() []Feature {
	helper := func(t ebpf.ProgramType, fn asm.BuiltinFunc) error { return features.HaveProgramHelper(t, fn) }
	all := []Feature{
		{"bounded loops", "5.3", true, true, features.HaveBoundedLoops()},
		{"LPM tries", "4.11", true, true, features.HaveMapType(ebpf.LPMTrie)},
		{"LRU hashes", "4.10", true, true, features.HaveMapType(ebpf.LRUHash)},
		{"arrays of maps", "4.12", true, false, features.HaveMapType(ebpf.ArrayOfMaps)},
		{"socket maps (CONFIG_BPF_STREAM_PARSER)", "4.14", true, false, features.HaveMapType(ebpf.SockMap)},
		{"bpf_skc_lookup_tcp", "5.2", true, false, helper(ebpf.SchedCLS, asm.FnSkcLookupTcp)},
		{"bpf_sk_assign", "5.7", true, false, helper(ebpf.SchedCLS, asm.FnSkAssign)},
		{"bpf_redirect_neigh", "5.10", true, false, helper(ebpf.SchedCLS, asm.FnRedirectNeigh)},
		{"bpf_ktime_get_coarse_ns", "5.11", true, false, helper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs)},
		{"bpf_check_mtu", "5.12", true, false, helper(ebpf.SchedCLS, asm.FnCheckMtu)},
		{"XDP", "4.8", false, true, features.HaveProgramType(ebpf.XDP)},
		{"bpf_spin_lock", "5.1", false, true, helper(ebpf.XDP, asm.FnSpinLock)},
		{"ring buffers", "5.8", false, true, features.HaveMapType(ebpf.RingBuf)},
		{"program arrays", "4.2", false, true, features.HaveMapType(ebpf.ProgramArray)},
		{"pointers to memory in global functions", "5.12", true, true, haveGlobalFunctions()},
	}
	for i := range all {
		if errors.Is(all[i].Err, ebpf.ErrNotSupported) {
			all[i].Err = errors.Join(errors.ErrUnsupported, all[i].Err)
		}
	}
	return all
}

// haveGlobalFunctions loads the smallest program that has one, which is none of
// ours: the parser's needs BTF, and so does this. The return program is the
// smallest that is there.
func haveGlobalFunctions() error {
	p, err := LoadReturn(Config{Mark: 1, MaxPrefixes: 1})
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return errors.Join(errors.ErrUnsupported, err)
		}
		return err
	}
	return p.Close()
}
