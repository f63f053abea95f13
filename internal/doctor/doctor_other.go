//go:build !linux

package doctor

import "runtime"

// Run has one finding where there is no Linux kernel.
func Run(o Options) []Result {
	r := Result{Check: "kernel", Level: Warn, Detail: runtime.GOOS,
		Lost: "transparent capture, kept source addresses, sockets bound to interfaces",
		Hint: "run gateways on Linux; an agent here can offer its proxies"}
	if o.Capture {
		r.Level = Fail
	}
	return []Result{r}
}
