package history

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A blob is a column as it stands in a block: its length before compression, its length after, or 0 if it was not worth it, and the bytes.
//
// A column of numbers is its width in bytes and then a blob of all lowest bytes, one of all second bytes, and so on: each plane has a
// distribution of its own, and is compressed for it.

// packer puts columns together.
type packer struct {
	out    []byte
	encode *zstd.Encoder
	plane  []byte
	packed []byte
}

// newPacker takes about a megabyte.
func newPacker() *packer {
	encode, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<19))
	if err != nil {
		panic(err) // the options are wrong
	}
	return &packer{encode: encode}
}

// worthwhile is what a blob has to be for compression to be tried.
const worthwhile = 32

func (p *packer) blob(b []byte) {
	p.out = binary.AppendUvarint(p.out, uint64(len(b)))
	if len(b) > worthwhile {
		p.packed = p.encode.EncodeAll(b, p.packed[:0])
		if len(p.packed) < len(b) {
			p.out = binary.AppendUvarint(p.out, uint64(len(p.packed)))
			p.out = append(p.out, p.packed...)
			return
		}
	}
	p.out = append(p.out, 0)
	p.out = append(p.out, b...)
}

func (p *packer) numbers(values []uint64) {
	all := uint64(0)
	for _, v := range values {
		all |= v
	}
	width := (bits.Len64(all) + 7) / 8
	p.out = append(p.out, byte(width))
	for at := range width {
		p.plane = p.plane[:0]
		for _, v := range values {
			p.plane = append(p.plane, byte(v>>(8*at)))
		}
		p.blob(p.plane)
	}
}

// unpacker takes columns apart.
type unpacker struct {
	reader
	room   int // for what is decompressed
	decode *zstd.Decoder
}

// decoders take a while to make.
var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxPayload), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		panic(err) // the options are wrong
	}
	return d
}}

func (u *unpacker) blob() []byte {
	size, packed := u.uvarint(), u.uvarint()
	if packed == 0 {
		return u.take(size)
	}
	b := u.take(packed)
	if u.err || size > uint64(u.room) {
		u.err = true
		return nil
	}
	u.room -= int(size)
	out, err := u.decode.DecodeAll(b, make([]byte, 0, size))
	if err != nil || uint64(len(out)) != size {
		u.err = true
		return nil
	}
	return out
}

// numbers reads n numbers.
func (u *unpacker) numbers(n int) []uint64 {
	width := int(u.byte())
	if u.err || width > 8 {
		u.err = true
		return nil
	}
	values := make([]uint64, n)
	for at := range width {
		plane := u.blob()
		if len(plane) != n {
			u.err = true
			return nil
		}
		for i, b := range plane {
			values[i] |= uint64(b) << (8 * at)
		}
	}
	return values
}

// Texts of random digits are kept as the bytes they stand for.
const (
	plainText = iota
	hexText   // an even number of lower-case digits
	uuidText  // 8-4-4-4-12 of them
)

const shortestHex = 16

// isHex tells lower-case hexadecimal digits.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func textForm(s string) int {
	switch {
	case len(s) >= shortestHex && len(s)%2 == 0 && isHex(s):
		return hexText
	case len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) &&
		isHex(s[19:23]) && isHex(s[24:]):
		return uuidText
	}
	return plainText
}

// appendForm adds a text as the form has it.
func appendForm(b []byte, s string, form int) []byte {
	switch form {
	case hexText:
		return appendHex(b, s)
	case uuidText:
		for _, part := range [...]string{s[:8], s[9:13], s[14:18], s[19:23], s[24:]} {
			b = appendHex(b, part)
		}
		return b
	}
	return append(b, s...)
}

func appendHex(b []byte, digits string) []byte {
	for i := 0; i < len(digits); i += 2 {
		b = append(b, nibble(digits[i])<<4|nibble(digits[i+1]))
	}
	return b
}

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

func fromForm(b []byte, form int) (string, error) {
	switch {
	case form == plainText:
		return string(b), nil
	case form == hexText:
		return hex.EncodeToString(b), nil
	case form == uuidText && len(b) == 16:
		h := hex.EncodeToString(b)
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
	}
	return "", fmt.Errorf("text: %w", errFormat)
}

// dictionary numbers the texts of a column, from 1; 0 is none.
type dictionary struct {
	index map[string]uint32
	texts []string
}

func (d *dictionary) number(b []byte) uint32 {
	if n, ok := d.index[string(b)]; ok {
		return n
	}
	if d.index == nil {
		d.index = make(map[string]uint32)
	}
	s := string(b)
	d.texts = append(d.texts, s)
	n := uint32(len(d.texts))
	d.index[s] = n
	return n
}

func (d *dictionary) text(n uint32) string { return d.texts[n-1] }

func (d *dictionary) reset() {
	clear(d.index)
	clear(d.texts)
	d.texts = d.texts[:0]
}

// references is a column of texts in the making. In it a text is 0 where it comes for the first time, and then 1 + the number of texts before
// it that were new, or one of the special references that the column has beside, which come first.
type references struct {
	special uint64
	refs    []uint64
	seen    []uint64 // by number in the dictionary: 1 + its number in order of coming; 0: it has not come
	order   []uint32 // numbers in the dictionary, as they came
}

func (r *references) reset(special uint64) {
	r.special = special
	r.refs, r.seen, r.order = r.refs[:0], r.seen[:0], r.order[:0]
}

func (r *references) add(n uint32) {
	for int(n) > len(r.seen) {
		r.seen = append(r.seen, 0)
	}
	if at := r.seen[n-1]; at != 0 {
		r.refs = append(r.refs, at+r.special)
		return
	}
	r.order = append(r.order, n)
	r.seen[n-1] = uint64(len(r.order))
	r.refs = append(r.refs, 0)
}

// addSpecial adds one of the special references, from 1.
func (r *references) addSpecial(n uint64) { r.refs = append(r.refs, n) }

// pack writes the texts that came, then the references.
func (r *references) pack(p *packer, d *dictionary) {
	p.texts(r.order, d)
	p.numbers(r.refs)
}

// packSteps is pack with differences between references: of addresses, which are given in turn.
func (r *references) packSteps(p *packer, d *dictionary) {
	p.texts(r.order, d)
	before, next := int64(0), uint64(0)
	for i, ref := range r.refs {
		if ref == 0 {
			next++
			before = int64(next)
			continue
		}
		r.refs[i] = 1 + zigzag(int64(ref)-before)
		before = int64(ref)
	}
	p.numbers(r.refs)
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

func (p *packer) texts(order []uint32, d *dictionary) {
	sizes, body := make([]uint64, 0, len(order)), []byte(nil)
	for _, n := range order {
		s := d.text(n)
		form, before := textForm(s), len(body)
		body = appendForm(body, s, form)
		sizes = append(sizes, uint64(len(body)-before)<<2|uint64(form))
	}
	p.out = binary.AppendUvarint(p.out, uint64(len(order)))
	p.numbers(sizes)
	p.blob(body)
}

func (u *unpacker) texts() []string {
	n := u.uvarint()
	if n > maxEvents*maxList {
		u.err = true
		return nil
	}
	sizes := u.numbersRoom(n)
	body := reader{b: u.blob(), err: u.err}
	out := make([]string, 0, len(sizes))
	for _, size := range sizes {
		s, err := fromForm(body.take(size>>2), int(size&3))
		if err != nil || body.err {
			u.err = true
			return nil
		}
		out = append(out, s)
	}
	return out
}

// numbersRoom is numbers of a count that nobody vouches for.
func (u *unpacker) numbersRoom(n uint64) []uint64 {
	if u.err || n > uint64(u.room)/8 {
		u.err = true
		return nil
	}
	u.room -= int(n) * 8
	return u.numbers(int(n))
}

// column is one of texts, as read: for each place the number of its text, or below 0 a special reference.
type column struct {
	texts []string
	at    []int32
}

// column reads a column of n references, of which the first special ones are not to texts.
func (u *unpacker) column(n int, special uint64) column {
	c := column{texts: u.texts()}
	refs := u.numbersRoom(uint64(n))
	c.at = make([]int32, 0, len(refs))
	next := int32(0)
	for _, ref := range refs {
		switch {
		case ref == 0:
			c.at = append(c.at, next)
			next++
		case ref <= special:
			c.at = append(c.at, -int32(ref))
		default:
			c.at = append(c.at, int32(min(ref-special-1, maxEvents*maxList)))
		}
	}
	u.check(c)
	return c
}

// steps reads what packSteps wrote.
func (u *unpacker) steps(n int) column {
	c := column{texts: u.texts()}
	refs := u.numbersRoom(uint64(n))
	c.at = make([]int32, 0, len(refs))
	before, next := int64(0), int64(0)
	for _, ref := range refs {
		if ref == 0 {
			next++
			before = next
		} else {
			before += unzigzag(ref - 1)
		}
		if before < 1 || before > int64(len(c.texts)) {
			u.err = true
			return column{}
		}
		c.at = append(c.at, int32(before-1))
	}
	return c
}

// check marks references to texts that are not there.
func (u *unpacker) check(c column) {
	for _, at := range c.at {
		if int(at) >= len(c.texts) {
			u.err = true
			return
		}
	}
}
