package wan

// ring is a growing FIFO. The zero value is empty.
type ring[T any] struct {
	buf  []T // length a power of two
	head int
	n    int
}

func (r *ring[T]) len() int { return r.n }

// at returns the i-th element from the head; the pointer holds until the next push.
func (r *ring[T]) at(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(16, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.buf, r.head = grown, 0
	}
	r.buf[(r.head+r.n)&(len(r.buf)-1)] = v
	r.n++
}

// pop removes the head, which must exist.
func (r *ring[T]) pop() T {
	var zero T
	p := &r.buf[r.head]
	v := *p
	*p = zero // drop what it points to
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return v
}
