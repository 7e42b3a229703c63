package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// The ledger on disk. All integers are little-endian; varints are those of encoding/binary; times are microseconds since 1970; checksums
// are CRC-32C. Every event has a sequence number, one more than the event before it. Order is that of recording, by number: a clock that
// steps back leaves times that go back, and nothing else.
//
// A directory holds
//
//	lock                    held (flock) by the one process that writes
//	00000000000000000001.seg   a segment: events from number 1 on, in blocks
//	tail                    events that are not in a block yet
//
// Segment:
//
//	file header, 192 bytes: magic "HFLEDGER", version u16, length of host u16, of boot ID u16, zero u16, created i64,
//	    host [64], boot ID [64], zero..., checksum u32 of all before it
//	blocks
//	footer, of a segment that is not being written: for each block 48 bytes (offset u64, length u32, length of its filter u32, first
//	    number u64, events u32, zero u32, earliest i64, latest i64), then the filters one after another
//	trailer, 64 bytes: offset of the footer u64, its length u32, its checksum u32, first number u64, events u64, earliest i64, latest i64,
//	    magic "HFFOOTER", zero u32, checksum u32 of the trailer before it
//
// A segment without a trailer is being written, or its writer was killed. Its blocks are found one behind the other.
//
// Block: header of 56 bytes (magic "HFBK" u32, length of the payload u32, first number u64, events u32, zero u32, earliest i64, latest i64, zero u64, checksum of the payload u32, checksum of the header before it u32), then the
// payload, see block.go: columns, each compressed by itself (zstd). Within a block all times are in order, but for less than a second.
//
// Tail: the same file header with magic "HFL-TAIL", then frames: header of 32 bytes (magic "HFTL" u32, length u32, first number u64, events
// u32, zero u32, checksum of the payload u32, of the header before it u32), then records, see record.go. A frame is one write(2). When a
// block has taken over what is in the tail, the tail is cut back to its header: numbers that both have are the same events.
//
// What a crash leaves: SIGKILL, what was written, for the kernel has it; that is all but the events of the last flush interval. A crash of the
// machine, what was synced besides. A frame or block that was cut short is cut off when the next writer opens the ledger; a reader that
// does not write passes over it.
const version = 1

const (
	segmentMagic = "HFLEDGER"
	tailMagic    = "HFL-TAIL"
	footerMagic  = "HFFOOTER"

	blockMagic = uint32('H') | 'F'<<8 | 'B'<<16 | 'K'<<24
	frameMagic = uint32('H') | 'F'<<8 | 'T'<<16 | 'L'<<24

	fileHeaderSize  = 192
	blockHeaderSize = 56
	frameHeaderSize = 32
	entrySize       = 48
	trailerSize     = 64

	hostRoom = 64 // of a host's name, and of a boot ID
)

// Limits of what a decoder believes.
const (
	maxPayload = 32 << 20 // of a block or frame
	maxEvents  = 1 << 16  // of a block or frame
)

var errFormat = errors.New("not what this version writes")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// origin is what a file's header says of whoever wrote it.
type origin struct {
	host, boot string
	created    int64
}

// same tells that both are of one host and boot.
func (o origin) same(other origin) bool { return o.host == other.host && o.boot == other.boot }

func (o origin) encode(magic string) []byte {
	b := make([]byte, fileHeaderSize)
	copy(b, magic)
	host, boot := clip(o.host, hostRoom), clip(o.boot, hostRoom)
	binary.LittleEndian.PutUint16(b[8:], version)
	binary.LittleEndian.PutUint16(b[10:], uint16(len(host)))
	binary.LittleEndian.PutUint16(b[12:], uint16(len(boot)))
	binary.LittleEndian.PutUint64(b[16:], uint64(o.created))
	copy(b[24:], host)
	copy(b[24+hostRoom:], boot)
	binary.LittleEndian.PutUint32(b[fileHeaderSize-4:], checksum(b[:fileHeaderSize-4]))
	return b
}

func decodeOrigin(b []byte, magic string) (origin, error) {
	if len(b) < fileHeaderSize || string(b[:8]) != magic {
		return origin{}, fmt.Errorf("header: %w", errFormat)
	}
	b = b[:fileHeaderSize]
	if binary.LittleEndian.Uint32(b[fileHeaderSize-4:]) != checksum(b[:fileHeaderSize-4]) {
		return origin{}, errors.New("header: wrong checksum")
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != version {
		return origin{}, fmt.Errorf("version %d: %w", v, errFormat)
	}
	host, boot := int(binary.LittleEndian.Uint16(b[10:])), int(binary.LittleEndian.Uint16(b[12:]))
	if host > hostRoom || boot > hostRoom {
		return origin{}, fmt.Errorf("header: %w", errFormat)
	}
	return origin{
		host: string(b[24 : 24+host]), boot: string(b[24+hostRoom : 24+hostRoom+boot]),
		created: int64(binary.LittleEndian.Uint64(b[16:])),
	}, nil
}

// span is which events something holds.
type span struct {
	first    uint64 // number of the first
	count    uint64
	min, max int64 // earliest and latest time
}

func (s span) end() uint64 { return s.first + s.count }

// add has s hold the next event, or the next events.
func (s span) add(o span) span {
	switch {
	case s.count == 0:
		return o
	case o.count == 0:
		return s
	}
	return span{first: s.first, count: s.count + o.count, min: min(s.min, o.min), max: max(s.max, o.max)}
}

type blockHeader struct {
	span
	length int
	sum    uint32
}

func (h blockHeader) put(b []byte) {
	clear(b[:blockHeaderSize])
	binary.LittleEndian.PutUint32(b, blockMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(h.length))
	binary.LittleEndian.PutUint64(b[8:], h.first)
	binary.LittleEndian.PutUint32(b[16:], uint32(h.count))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.min))
	binary.LittleEndian.PutUint64(b[32:], uint64(h.max))
	binary.LittleEndian.PutUint32(b[48:], h.sum)
	binary.LittleEndian.PutUint32(b[52:], checksum(b[:52]))
}

func decodeBlockHeader(b []byte) (blockHeader, error) {
	if len(b) < blockHeaderSize || binary.LittleEndian.Uint32(b) != blockMagic || binary.LittleEndian.Uint32(b[52:]) != checksum(b[:52]) {
		return blockHeader{}, errors.New("no block begins here")
	}
	h := blockHeader{
		span: span{
			first: binary.LittleEndian.Uint64(b[8:]), count: uint64(binary.LittleEndian.Uint32(b[16:])),
			min: int64(binary.LittleEndian.Uint64(b[24:])), max: int64(binary.LittleEndian.Uint64(b[32:])),
		},
		length: int(binary.LittleEndian.Uint32(b[4:])), sum: binary.LittleEndian.Uint32(b[48:]),
	}
	if h.length > maxPayload || h.count == 0 || h.count > maxEvents {
		return blockHeader{}, fmt.Errorf("block header: %w", errFormat)
	}
	return h, nil
}

type frameHeader struct {
	first  uint64
	count  uint64
	length int
	sum    uint32
}

func (h frameHeader) put(b []byte) {
	clear(b[:frameHeaderSize])
	binary.LittleEndian.PutUint32(b, frameMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(h.length))
	binary.LittleEndian.PutUint64(b[8:], h.first)
	binary.LittleEndian.PutUint32(b[16:], uint32(h.count))
	binary.LittleEndian.PutUint32(b[24:], h.sum)
	binary.LittleEndian.PutUint32(b[28:], checksum(b[:28]))
}

func decodeFrameHeader(b []byte) (frameHeader, error) {
	if len(b) < frameHeaderSize || binary.LittleEndian.Uint32(b) != frameMagic || binary.LittleEndian.Uint32(b[28:]) != checksum(b[:28]) {
		return frameHeader{}, errors.New("no frame begins here")
	}
	h := frameHeader{
		first: binary.LittleEndian.Uint64(b[8:]), count: uint64(binary.LittleEndian.Uint32(b[16:])),
		length: int(binary.LittleEndian.Uint32(b[4:])), sum: binary.LittleEndian.Uint32(b[24:]),
	}
	if h.length > maxPayload || h.count == 0 || h.count > maxEvents {
		return frameHeader{}, fmt.Errorf("frame header: %w", errFormat)
	}
	return h, nil
}

// trailer ends a segment that nobody writes any more.
type trailer struct {
	span
	footer int64 // offset
	length int
	sum    uint32
}

func (t trailer) encode() []byte {
	b := make([]byte, trailerSize)
	binary.LittleEndian.PutUint64(b, uint64(t.footer))
	binary.LittleEndian.PutUint32(b[8:], uint32(t.length))
	binary.LittleEndian.PutUint32(b[12:], t.sum)
	binary.LittleEndian.PutUint64(b[16:], t.first)
	binary.LittleEndian.PutUint64(b[24:], t.count)
	binary.LittleEndian.PutUint64(b[32:], uint64(t.min))
	binary.LittleEndian.PutUint64(b[40:], uint64(t.max))
	copy(b[48:], footerMagic)
	binary.LittleEndian.PutUint32(b[60:], checksum(b[:60]))
	return b
}

// decodeTrailer is of the last bytes of a file of that size.
func decodeTrailer(b []byte, size int64) (trailer, error) {
	if len(b) != trailerSize || string(b[48:56]) != footerMagic || binary.LittleEndian.Uint32(b[60:]) != checksum(b[:60]) {
		return trailer{}, errors.New("no footer ends here")
	}
	t := trailer{
		span: span{
			first: binary.LittleEndian.Uint64(b[16:]), count: binary.LittleEndian.Uint64(b[24:]),
			min: int64(binary.LittleEndian.Uint64(b[32:])), max: int64(binary.LittleEndian.Uint64(b[40:])),
		},
		footer: int64(binary.LittleEndian.Uint64(b)), length: int(binary.LittleEndian.Uint32(b[8:])), sum: binary.LittleEndian.Uint32(b[12:]),
	}
	if t.footer < fileHeaderSize || t.footer+int64(t.length)+trailerSize != size {
		return trailer{}, fmt.Errorf("footer: %w", errFormat)
	}
	return t, nil
}

// entry is where a block is, and what it may know.
type entry struct {
	span
	offset int64
	length int    // with its header
	filter filter // nil: it may know anything
}

func encodeFooter(entries []entry) []byte {
	size := len(entries) * entrySize
	for _, e := range entries {
		size += len(e.filter)
	}
	b := make([]byte, 0, size)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.offset))
		b = binary.LittleEndian.AppendUint32(b, uint32(e.length))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.filter)))
		b = binary.LittleEndian.AppendUint64(b, e.first)
		b = binary.LittleEndian.AppendUint32(b, uint32(e.count))
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.min))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.max))
	}
	for _, e := range entries {
		b = append(b, e.filter...)
	}
	return b
}

// decodeFooter returns entries whose filters are parts of b. The number of entries is not written: they end where the filters begin.
func decodeFooter(b []byte, t trailer) ([]entry, error) {
	var entries []entry
	rest := len(b) // of b, for filters
	next := t.first
	for events := uint64(0); events < t.count; {
		at := len(entries) * entrySize
		if at+entrySize > len(b) {
			return nil, fmt.Errorf("footer: %w", errFormat)
		}
		e := b[at : at+entrySize]
		one := entry{
			span: span{
				first: binary.LittleEndian.Uint64(e[16:]), count: uint64(binary.LittleEndian.Uint32(e[24:])),
				min: int64(binary.LittleEndian.Uint64(e[32:])), max: int64(binary.LittleEndian.Uint64(e[40:])),
			},
			offset: int64(binary.LittleEndian.Uint64(e)), length: int(binary.LittleEndian.Uint32(e[8:])),
		}
		size := int(binary.LittleEndian.Uint32(e[12:]))
		rest -= size
		if one.count == 0 || one.first < next || one.length < blockHeaderSize || one.length > blockHeaderSize+maxPayload || one.offset < fileHeaderSize ||
			one.offset+int64(one.length) > t.footer || rest < at+entrySize {
			return nil, fmt.Errorf("footer: %w", errFormat)
		}
		next = one.end()
		events += one.count
		entries = append(entries, one)
	}
	if rest != len(entries)*entrySize {
		return nil, fmt.Errorf("footer: %w", errFormat)
	}
	for i := range entries {
		size := int(binary.LittleEndian.Uint32(b[i*entrySize+12:]))
		entries[i].filter = filter(b[rest : rest+size : rest+size])
		rest += size
	}
	return entries, nil
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us) }

// clip shortens a text to so many bytes, without cutting a character in two.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
