package tunnel

import "sync"

// Buffers come in two sizes: idle flows hold a small one for each direction, busy flows a large one.
const (
	// bufRoom is kept free before the data, so that a frame header, and before the first frame the flow header, can be
	// put there and all go out in one stream write.
	bufRoom  = headerPrefix + maxHeader + frameHeader
	smallBuf = 4 << 10
	largeBuf = maxChunk + 4<<10
	// shrinkAfter small reads in a row give the large buffer back.
	shrinkAfter = 16
)

var (
	smallBufs = sync.Pool{New: func() any { return new([smallBuf]byte) }}
	largeBufs = sync.Pool{New: func() any { return new([largeBuf]byte) }}
)

// buffer is a pooled buffer that follows the size of the reads into it.
type buffer struct {
	b     []byte
	small int // small reads in a row
}

// fit makes b as large as the last read suggests. What b holds is lost if the size changes.
func (u *buffer) fit() []byte {
	switch {
	case u.b == nil:
		u.b = smallBufs.Get().(*[smallBuf]byte)[:]
	case len(u.b) == largeBuf && u.small >= shrinkAfter:
		u.release()
		u.b = smallBufs.Get().(*[smallBuf]byte)[:]
	case len(u.b) == smallBuf && u.small < 0:
		u.release()
		u.b = largeBufs.Get().(*[largeBuf]byte)[:]
	}
	return u.b
}

// read notes that n of room bytes were filled.
func (u *buffer) read(n, room int) {
	switch {
	case n == room:
		u.small = -1
	case n > smallBuf/2:
		u.small = 0
	default:
		u.small = max(u.small, 0) + 1
	}
}

func (u *buffer) release() {
	switch len(u.b) {
	case smallBuf:
		smallBufs.Put((*[smallBuf]byte)(u.b))
	case largeBuf:
		largeBufs.Put((*[largeBuf]byte)(u.b))
	}
	u.b, u.small = nil, 0
}
