package history

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// somePieces are a block's payload, a footer, and the frames of a tail, each of the same few events.
func somePieces(t testing.TB) (s span, payload []byte, footer []byte, tr trailer, frames []byte) {
	t.Helper()
	var records []byte
	for i := range 40 {
		e := Event{
			Time: time.UnixMicro(int64(i) * 1e5), Kind: Attach, Container: string(rune('a'+i%7)) + "0123456789abcdef", Interface: "eth0", Name: "web",
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.MustParseAddr("fd00::1")}, Aliases: []string{"x"},
			Labels: map[string]string{"k": "web", "u": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, Duration: time.Millisecond * time.Duration(i),
		}
		if i%5 == 0 {
			e = Event{Time: e.Time, Kind: Withdraw, Prefix: netip.MustParsePrefix("10.0.0.0/26"), Peer: "p", Error: "e", Detail: "d", Count: uint64(i)}
		}
		records = appendRecord(records, &e)
	}
	block, e, err := newBlockEncoder().encode(1, records)
	if err != nil {
		t.Fatal(err)
	}
	e.offset = fileHeaderSize
	footer = encodeFooter([]entry{e})
	tr = trailer{span: e.span, footer: e.offset + int64(e.length), length: len(footer)}
	head := make([]byte, frameHeaderSize)
	frameHeader{first: 1, count: 40, length: len(records), sum: checksum(records)}.put(head)
	return e.span, bytes.Clone(block[blockHeaderSize:]), footer, tr, append(head, records...)
}

// FuzzBlock: a payload, whatever it is, is refused or read, with as many events as there are said to be.
func FuzzBlock(f *testing.F) {
	s, payload, _, _, _ := somePieces(f)
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := readBlock(s, payload)
		if err != nil {
			return
		}
		found, err := b.matching(&Filter{})
		if err == nil && len(found) != int(s.count) {
			t.Errorf("%d events of %d", len(found), s.count)
		}
		b.known()
	})
}

// FuzzTail: frames that are read are whole, and are what the same writer would write for them.
func FuzzTail(f *testing.F) {
	_, _, _, _, frames := somePieces(f)
	f.Add(frames)
	f.Fuzz(func(t *testing.T, b []byte) {
		var h held
		decodeFrames(b, &h)
		if got := decodeRecords(h.first, h.records); uint64(len(got)) != h.count {
			t.Errorf("%d events of %d", len(got), h.count)
		}
	})
}

// FuzzRecords: what is taken for a record can be told of and recorded again.
func FuzzRecords(f *testing.F) {
	_, _, _, _, frames := somePieces(f)
	f.Add(frames[frameHeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec record
		for len(b) > 0 {
			one, rest, err := cutRecord(b)
			if err != nil || rec.parse(one) != nil {
				return
			}
			e := rec.event()
			if _, _, err := newBlockEncoder().encode(1, appendRecord(nil, &e)); err != nil {
				t.Errorf("%+v: %v", e, err)
			}
			b = rest
		}
	})
}

// FuzzFooter: entries lie within the segment, one behind the other.
func FuzzFooter(f *testing.F) {
	_, _, footer, tr, _ := somePieces(f)
	f.Add(footer)
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := decodeFooter(b, tr)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.offset < fileHeaderSize || e.offset+int64(e.length) > tr.footer {
				t.Errorf("%+v lies outside", e)
			}
			e.filter.may(addressSubject(netip.IPv6Unspecified()))
		}
	})
}

// FuzzSegment: a file, whatever it is, is read or refused.
func FuzzSegment(f *testing.F) {
	s, payload, _, _, _ := somePieces(f)
	file := origin{host: "h", boot: "b"}.encode(segmentMagic)
	head := make([]byte, blockHeaderSize)
	blockHeader{span: s, length: len(payload), sum: checksum(payload)}.put(head)
	file = append(append(file, head...), payload...)
	f.Add(file)
	entries := []entry{{span: s, offset: fileHeaderSize, length: blockHeaderSize + len(payload)}}
	footer := encodeFooter(entries)
	f.Add(append(append(bytes.Clone(file), footer...), trailer{span: s, footer: int64(len(file)), length: len(footer), sum: checksum(footer)}.encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.seg"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := viewDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = v.events(t.Context(), Filter{}, func(Entry) bool { return true })
		v.close()
	})
}
