package history

import (
	"encoding/binary"
	"net/netip"
)

// reader takes values off the front of bytes that nobody vouches for. After the first that is not there, all are zero.
type reader struct {
	b   []byte
	err bool
}

func (r *reader) take(n uint64) []byte {
	if r.err || n > uint64(len(r.b)) {
		r.err = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.err || n <= 0 {
		r.err = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count is the number of elements that follow, of at least a byte each.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.err = true
		return 0
	}
	return int(n)
}

func (r *reader) text() []byte { return r.take(r.uvarint()) }

func (r *reader) addr() netip.Addr {
	size := r.byte()
	if size != 4 && size != 16 {
		r.err = true
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(r.take(uint64(size)))
	return a
}
