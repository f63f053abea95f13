package bpf

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// cEnum is an enum of the object without its common prefix, in lower case.
func cEnum(t *testing.T, spec *ebpf.CollectionSpec, name, prefix string) map[string]uint64 {
	t.Helper()
	var e *btf.Enum
	if err := spec.Types.TypeByName(name, &e); err != nil {
		t.Fatal(err)
	}
	m := map[string]uint64{}
	for _, v := range e.Values {
		short, ok := strings.CutPrefix(v.Name, prefix)
		if !ok {
			t.Errorf("enum %s has %s, not %s...", name, v.Name, prefix)
		}
		m[strings.ToLower(strings.ReplaceAll(short, "_", "-"))] = v.Value
	}
	return m
}

// goEnum is the same of a Go enum that counts from 0.
func goEnum[T interface {
	~uint8 | ~uint32
	String() string
}](n T) map[string]uint64 {
	m := map[string]uint64{"max": uint64(n)}
	for v := T(0); v < n; v++ {
		m[v.String()] = uint64(v)
	}
	return m
}

// TestEnumsMatchC compares the enums of the objects with those of Go.
func TestEnumsMatchC(t *testing.T) {
	classifier, err := loadClassifier()
	if err != nil {
		t.Fatal(err)
	}
	returns, err := loadReturns()
	if err != nil {
		t.Fatal(err)
	}
	reflector, err := loadReflector()
	if err != nil {
		t.Fatal(err)
	}
	guard, err := loadGuard()
	if err != nil {
		t.Fatal(err)
	}
	states := goEnum(PathUp + 1)
	delete(states, "max")
	actions := goEnum(numRuleActions)
	delete(actions, "max")
	for _, tt := range []struct {
		spec         *ebpf.CollectionSpec
		name, prefix string
		want         map[string]uint64
	}{
		{classifier, "verdict", "VERDICT_", goEnum(numVerdicts)},
		{returns, "verdict", "VERDICT_", goEnum(numVerdicts)},
		{classifier, "action", "ACTION_", map[string]uint64{"none": 0, "capture": uint64(Capture), "pass": uint64(Pass), "drain": uint64(Drain)}},
		{classifier, "rule_action", "RULE_", actions},
		{classifier, "class", "CLASS_", goEnum(numClasses)},
		{reflector, "probe_verdict", "PROBE_", goEnum(numProbeVerdicts)},
		{guard, "guard_verdict", "GUARD_", goEnum(numGuardVerdicts)},
		{classifier, "path_state", "PATH_", states},
		{classifier, "answer", "ANSWER_", map[string]uint64{"unknown": answerUnknown, "seen": answerSeen, "opened": answerOpened, "not": answerNot}},
	} {
		if got := cEnum(t, tt.spec, tt.name, tt.prefix); !maps.Equal(got, tt.want) {
			t.Errorf("enum %s is %v, Go has %v", tt.name, got, tt.want)
		}
	}
	if got := Verdict(200).String(); got != "verdict-200" {
		t.Errorf("unknown verdict is %q", got)
	}
}

// TestStructsMatchC: one Go type serves several objects, so all must have it
// alike.
func TestStructsMatchC(t *testing.T) {
	classifier, err := loadClassifier()
	if err != nil {
		t.Fatal(err)
	}
	returns, err := loadReturns()
	if err != nil {
		t.Fatal(err)
	}
	reflector, err := loadReflector()
	if err != nil {
		t.Fatal(err)
	}
	guard, err := loadGuard()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		spec *ebpf.CollectionSpec
		name string
		goes reflect.Type
	}{
		{classifier, "prefix4", reflect.TypeFor[classifierPrefix4]()},
		{returns, "prefix4", reflect.TypeFor[classifierPrefix4]()},
		{classifier, "prefix6", reflect.TypeFor[classifierPrefix6]()},
		{returns, "prefix6", reflect.TypeFor[classifierPrefix6]()},
		{classifier, "set_prefix4", reflect.TypeFor[classifierSetPrefix4]()},
		{classifier, "set_prefix6", reflect.TypeFor[classifierSetPrefix6]()},
		{classifier, "tenant", reflect.TypeFor[classifierTenant]()},
		{classifier, "node", reflect.TypeFor[classifierNode]()},
		{classifier, "interval", reflect.TypeFor[classifierInterval]()},
		{classifier, "outcome", reflect.TypeFor[classifierOutcome]()},
		{classifier, "policy", reflect.TypeFor[classifierPolicy]()},
		{classifier, "flow_key", reflect.TypeFor[classifierFlowKey]()},
		{classifier, "flow", reflect.TypeFor[classifierFlow]()},
		{classifier, "candidates", reflect.TypeFor[classifierCandidates]()},
		{classifier, "path", reflect.TypeFor[classifierPath]()},
		{classifier, "live", reflect.TypeFor[classifierLive]()},
		{reflector, "path", reflect.TypeFor[classifierPath]()},
		{reflector, "live", reflect.TypeFor[classifierLive]()},
		{reflector, "session", reflect.TypeFor[reflectorSession]()},
		{reflector, "sender", reflect.TypeFor[reflectorSender]()},
		{reflector, "sender_key", reflect.TypeFor[reflectorSenderKey]()},
		{reflector, "sent", reflect.TypeFor[reflectorSent]()},
		{reflector, "reply", reflect.TypeFor[reflectorReply]()},
		{classifier, "classifier_settings", reflect.TypeFor[classifierClassifierSettings]()},
		{reflector, "reflector_settings", reflect.TypeFor[reflectorReflectorSettings]()},
		{reflector, "guard_settings", reflect.TypeFor[guardGuardSettings]()},
		{guard, "guard_settings", reflect.TypeFor[guardGuardSettings]()},
		{guard, "address", reflect.TypeFor[guardAddress]()},
		{guard, "set_prefix4", reflect.TypeFor[guardSetPrefix4]()},
		{guard, "set_prefix6", reflect.TypeFor[guardSetPrefix6]()},
	} {
		compareStruct(t, tt.spec, tt.name, tt.goes)
	}
	for name, want := range map[string]uint32{
		classifierMapVerdicts: uint32(numVerdicts), classifierMapPaths: MaxPaths + 1, classifierMapLive: MaxPaths + 1,
		classifierMapCandidates: MaxGroups * uint32(numClasses),
	} {
		if got := classifier.Maps[name].MaxEntries; got != want {
			t.Errorf("map %s has %d entries, Go thinks %d", name, got, want)
		}
	}
}

func compareStruct(t *testing.T, spec *ebpf.CollectionSpec, name string, goes reflect.Type) {
	t.Helper()
	var s *btf.Struct
	if err := spec.Types.TypeByName(name, &s); err != nil {
		t.Error(err)
		return
	}
	if s.Size != uint32(goes.Size()) {
		t.Errorf("struct %s has %d bytes, Go %d", name, s.Size, goes.Size())
	}
	fields := 0
	for i := range goes.NumField() {
		if goes.Field(i).Name != "_" {
			fields++
		}
	}
	if fields != len(s.Members) {
		t.Errorf("struct %s has %d members, Go %d", name, len(s.Members), fields)
	}
	for _, m := range s.Members {
		f, ok := goes.FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, strings.ReplaceAll(m.Name, "_", "")) })
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Error(err)
			continue
		}
		if !ok || f.Offset != uintptr(m.Offset.Bytes()) || f.Type.Size() != uintptr(size) {
			t.Errorf("struct %s: %s at %d, %d bytes; Go has it at %d, %d bytes (%v)", name, m.Name, m.Offset.Bytes(), size, f.Offset, f.Type.Size(), ok)
		}
	}
}
