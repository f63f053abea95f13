package bpf

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFeatures: on a kernel that loads the programs nothing is missing; without
// capabilities nothing is said to be.
func TestFeatures(t *testing.T) {
	loadTestClassifier(t, ClassifierConfig{})
	loadTestCarrier(t, CarrierConfig{})
	for _, f := range Features() {
		if f.Err != nil {
			t.Errorf("%s: %v, but the programs load", f.Name, f.Err)
		}
		if f.Since == "" || !f.Classifier && !f.Carrier {
			t.Errorf("%+v: incomplete", f)
		}
	}
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread has lost its capabilities
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if e := unix.Capset(&hdr, &(make([]unix.CapUserData, 2))[0]); e != nil {
			err <- e
			return
		}
		err <- haveGlobalFunctions()
	}()
	if e := <-err; !errors.Is(e, os.ErrPermission) || errors.Is(e, errors.ErrUnsupported) {
		t.Errorf("without capabilities: %v", e)
	}
}
