package bpf

// Method is how a program is attached to a NIC.
type Method uint8

// The methods.
const (
	Auto   Method = iota // TCX, or Clsact where the kernel has no tcx
	TCX                  // tcx link (kernel 6.6): goes away with the process, whatever happens
	Clsact               // tc filter: survives a killed process, the next start replaces it
)

// String returns the method's name.
func (m Method) String() string {
	switch m {
	case TCX:
		return "tcx"
	case Clsact:
		return "clsact"
	}
	return "auto"
}
