package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/tunnel/compress"
)

// After the header a flow's stream holds frames: kind 1, length 3 (big endian), payload. A stream that ends before one of
// the frames that end a direction, anywhere, goes on in the direction's continuation stream.
type frameKind uint8

const (
	frameRaw       frameKind = 1 + iota // payload bytes
	frameZstdStart                      // first bytes of a new zstd stream
	frameZstd                           // more bytes of it
	frameZstdEnd                        // the zstd stream is over; no payload
	frameEOF                            // end of the direction; no payload; FIN follows
	frameReset                          // the direction broke; payload: code 2; FIN follows
	numFrames
)

const (
	frameHeader = 4
	// maxChunk is one read of a connection. Large, because each costs a system call, a frame and a stream write.
	maxChunk = compress.MaxChunk
	// maxFrame is the largest payload of a frame.
	maxFrame = maxChunk + compress.MaxExpansion
)

func (k frameKind) data() bool { return k >= frameRaw && k <= frameZstdEnd }

func putFrameHeader(b []byte, k frameKind, n int) {
	binary.BigEndian.PutUint32(b, uint32(k)<<24|uint32(n))
}

// parseFrame checks the frame header at the start of b.
func parseFrame(b []byte) (k frameKind, n int, err error) {
	v := binary.BigEndian.Uint32(b)
	k, n = frameKind(v>>24), int(v&0xffffff)
	lo, hi := 0, 0
	switch k {
	case frameRaw, frameZstdStart, frameZstd:
		lo, hi = 1, maxFrame
	case frameReset:
		lo, hi = 2, 2
	case frameZstdEnd, frameEOF:
	default:
		return 0, 0, fmt.Errorf("%w frame: kind %d", ErrMalformed, k)
	}
	if n < lo || n > hi {
		return 0, 0, fmt.Errorf("%w frame: kind %d, length %d, allowed %d to %d", ErrMalformed, k, n, lo, hi)
	}
	return k, n, nil
}

// Code says why a flow was reset. It travels in reset frames and as QUIC stream error code.
type Code uint16

const (
	CodeReset       Code = 1 + iota // the connection at the other end was reset
	CodeRefused                     // the destination refused the connection
	CodeDialTimeout                 // the destination did not answer in time
	CodeUnreachable                 // no route to the destination at the exit
	CodeDialFailed                  // the exit could not connect for another reason
	CodeDenied                      // a node on the way does not authorise the flow
	CodeNoRoute                     // a node on the way has no route
	CodeHopLimit                    // routing loop
	CodeNoTunnel                    // the next hop is not connected
	CodeLaneLost                    // the lane or session under the flow ended
	CodeProtocol                    // malformed or unexpected bytes
	CodeVersion                     // header version not spoken there
	CodeStalled                     // the receiver stood still while the buffers were needed (Limits.BufferedBytes)
	CodeLimit                       // too many flows
	CodeShutdown                    // a node on the way stopped
	CodeTimeout                     // the connection at the other end timed out
	CodeNotRead                     // the other end takes no more data
	numCodes
)

func (c Code) String() string {
	if c == 0 || c >= numCodes {
		return fmt.Sprintf("code %d", uint16(c))
	}
	return [...]string{
		"connection reset", "connection refused", "connect timed out", "destination unreachable", "connect failed",
		"not authorised", "no route", "hop limit reached", "next hop not connected", "lane lost", "protocol error",
		"unknown version", "receiver stalled over the buffer budget", "too many flows", "node shut down",
		"connection timed out", "receiver closed",
	}[c-1]
}

// ResetError is why a flow ended before its end. Remote is false if this node decided it.
type ResetError struct {
	Code   Code
	Remote bool
}

func (e *ResetError) Error() string {
	if e.Remote {
		return "flow reset by peer: " + e.Code.String()
	}
	return "flow reset: " + e.Code.String()
}

// streamErr turns an error of a QUIC stream into a *ResetError.
func streamErr(err error) error {
	var re *ResetError
	if errors.As(err, &re) {
		return err
	}
	var se *quic.StreamError
	if errors.As(err, &se) {
		c := Code(se.ErrorCode)
		if c == 0 || uint64(se.ErrorCode) >= uint64(numCodes) {
			c = CodeProtocol
		}
		return &ResetError{Code: c, Remote: se.Remote}
	}
	return &ResetError{Code: CodeLaneLost}
}

// codeOf returns the code of an error of streamErr.
func codeOf(err error) Code {
	var re *ResetError
	if errors.As(err, &re) {
		return re.Code
	}
	return CodeProtocol
}

// connCode says what an error of a customer's connection is to the other end.
func connCode(err error) Code {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.EPIPE):
		return CodeNotRead
	case errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &ne) && ne.Timeout():
		return CodeTimeout
	}
	return CodeReset
}

// dialCode says why the exit could not connect.
func dialCode(err error) Code {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return CodeRefused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &ne) && ne.Timeout():
		return CodeDialTimeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return CodeUnreachable
	}
	return CodeDialFailed
}
