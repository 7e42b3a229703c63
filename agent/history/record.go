package history

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A record is an event as it waits to be written, and as it stands in the tail:
//
//	length of what follows, varint
//	time i64, kind, fields varint (bits, below), then the fields that there are, in their order
//
// A text is its length and its bytes; a list the number of its elements and these; labels are pairs of texts; an address is its length, 4 or
// 16, and its bytes; a prefix an address and a byte of bits; durations are microseconds.
type fields uint32

const (
	hasContainer fields = 1 << iota
	hasInterface
	hasOwner
	hasAddresses
	hasPool
	hasName
	hasAliases
	hasLabels
	hasPrefix
	hasPeer
	hasDuration
	hasCount
	hasError
	hasDetail
	allFields = 1<<iota - 1

	ofSubject = hasPrefix - 1 // fields that say whom an event is about
)

// Limits of what is kept of one event. Callers keep within them but for errors; what exceeds them is cut, not refused.
const (
	maxText    = 1 << 10
	maxList    = 128
	recordRoom = 40 << 10 // more than a record within the limits of package agent takes
)

// appendRecord adds an event to buf, as far as the limits let it.
func appendRecord(buf []byte, e *Event) []byte {
	before := len(buf)
	buf = append(buf, 0, 0, 0) // room for the length, of three bytes always
	start := len(buf)
	buf = appendFields(buf, e, allFields)
	if len(buf)-start > recordRoom {
		buf = appendFields(buf[:start], e, allFields&^(hasLabels|hasAliases))
	}
	n := len(buf) - start
	buf[before], buf[before+1], buf[before+2] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)
	return buf
}

func appendFields(buf []byte, e *Event, wanted fields) []byte {
	buf = binary.LittleEndian.AppendUint64(buf, uint64(micros(e.Time)))
	buf = appendText(buf, string(e.Kind))
	has := e.has() & wanted
	buf = binary.AppendUvarint(buf, uint64(has))
	if has&hasContainer != 0 {
		buf = appendText(buf, e.Container)
	}
	if has&hasInterface != 0 {
		buf = appendText(buf, e.Interface)
	}
	if has&hasOwner != 0 {
		buf = appendText(buf, e.Owner)
	}
	if has&hasAddresses != 0 {
		buf = appendAddrs(buf, e.Addresses)
	}
	if has&hasPool != 0 {
		buf = appendText(buf, e.Pool)
	}
	if has&hasName != 0 {
		buf = appendText(buf, e.Name)
	}
	if has&hasAliases != 0 {
		list := e.Aliases[:min(len(e.Aliases), maxList)]
		buf = binary.AppendUvarint(buf, uint64(len(list)))
		for _, a := range list {
			buf = appendText(buf, a)
		}
	}
	if has&hasLabels != 0 {
		buf = appendLabels(buf, e.Labels)
	}
	if has&hasPrefix != 0 {
		buf = appendAddr(buf, e.Prefix.Addr())
		buf = append(buf, byte(e.Prefix.Bits()))
	}
	if has&hasPeer != 0 {
		buf = appendText(buf, e.Peer)
	}
	if has&hasDuration != 0 {
		buf = binary.AppendUvarint(buf, uint64(e.Duration/time.Microsecond))
	}
	if has&hasCount != 0 {
		buf = binary.AppendUvarint(buf, e.Count)
	}
	if has&hasError != 0 {
		buf = appendText(buf, e.Error)
	}
	if has&hasDetail != 0 {
		buf = appendText(buf, e.Detail)
	}
	return buf
}

// has tells which fields an event has.
func (e *Event) has() fields {
	var has fields
	for _, f := range [...]struct {
		bit fields
		is  bool
	}{
		{hasContainer, e.Container != ""}, {hasInterface, e.Interface != ""}, {hasOwner, e.Owner != ""}, {hasAddresses, len(e.Addresses) > 0},
		{hasPool, e.Pool != ""}, {hasName, e.Name != ""}, {hasAliases, len(e.Aliases) > 0}, {hasLabels, len(e.Labels) > 0},
		{hasPrefix, e.Prefix.IsValid()}, {hasPeer, e.Peer != ""}, {hasDuration, e.Duration >= time.Microsecond}, {hasCount, e.Count != 0},
		{hasError, e.Error != ""}, {hasDetail, e.Detail != ""},
	} {
		if f.is {
			has |= f.bit
		}
	}
	return has
}

func appendText(buf []byte, s string) []byte {
	s = clip(s, maxText)
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

func appendAddrs(buf []byte, addrs []netip.Addr) []byte {
	addrs = addrs[:min(len(addrs), maxList)]
	buf = binary.AppendUvarint(buf, uint64(len(addrs)))
	for _, a := range addrs {
		buf = appendAddr(buf, a)
	}
	return buf
}

func appendAddr(buf []byte, a netip.Addr) []byte {
	if a.Is4() {
		b := a.As4()
		return append(append(buf, 4), b[:]...)
	}
	b := a.As16() // the zero address is ::, which nobody has
	return append(append(buf, 16), b[:]...)
}

// appendLabels leaves the order to the reader: this is on the path of an attach.
func appendLabels(buf []byte, labels map[string]string) []byte {
	n := min(len(labels), maxList)
	buf = binary.AppendUvarint(buf, uint64(n))
	for key, value := range labels {
		if n--; n < 0 {
			break
		}
		buf = appendText(appendText(buf, key), value)
	}
	return buf
}

type label struct{ key, value []byte }

// record is a parsed one. Its texts are parts of what it was parsed from.
type record struct {
	time                                                         int64
	kind                                                         []byte
	has                                                          fields
	container, iface, owner, pool, name, peer, errorText, detail []byte
	addrs                                                        []netip.Addr
	aliases                                                      [][]byte
	labels                                                       []label // by key
	prefix                                                       netip.Prefix
	duration, count                                              uint64
}

// recordTime is the time of the first record in b, which is known to be whole.
func recordTime(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b[3:])) }

// cutRecord splits the first record from b, with its length.
func cutRecord(b []byte) (rec, rest []byte, err error) {
	r := reader{b: b}
	n := r.uvarint()
	if r.err || n < 10 || n > uint64(len(r.b)) || len(b)-len(r.b) != 3 {
		return nil, nil, fmt.Errorf("record: %w", errFormat)
	}
	end := 3 + int(n)
	return b[:end], b[end:], nil
}

// parse reads a record as cutRecord returns it.
func (rec *record) parse(b []byte) error {
	r := reader{b: b[3:]}
	rec.time = int64(r.uint64())
	rec.kind = r.text()
	rec.has = fields(r.uvarint())
	if rec.has&^allFields != 0 {
		return fmt.Errorf("record: %w", errFormat)
	}
	text := func(bit fields, into *[]byte) {
		*into = nil
		if rec.has&bit != 0 {
			*into = r.text()
		}
	}
	text(hasContainer, &rec.container)
	text(hasInterface, &rec.iface)
	text(hasOwner, &rec.owner)
	rec.parseAddrs(&r)
	text(hasPool, &rec.pool)
	text(hasName, &rec.name)
	rec.parseLists(&r)
	rec.prefix = netip.Prefix{}
	if rec.has&hasPrefix != 0 {
		a := r.addr()
		rec.prefix = netip.PrefixFrom(a, int(r.byte()))
	}
	text(hasPeer, &rec.peer)
	rec.duration, rec.count = 0, 0
	if rec.has&hasDuration != 0 {
		rec.duration = r.uvarint()
	}
	if rec.has&hasCount != 0 {
		rec.count = r.uvarint()
	}
	text(hasError, &rec.errorText)
	text(hasDetail, &rec.detail)
	if r.err || len(r.b) > 0 {
		return fmt.Errorf("record: %w", errFormat)
	}
	return nil
}

func (rec *record) parseAddrs(r *reader) {
	rec.addrs = rec.addrs[:0]
	if rec.has&hasAddresses == 0 {
		return
	}
	for range r.count() {
		rec.addrs = append(rec.addrs, r.addr())
	}
}

func (rec *record) parseLists(r *reader) {
	rec.aliases, rec.labels = rec.aliases[:0], rec.labels[:0]
	if rec.has&hasAliases != 0 {
		for range r.count() {
			rec.aliases = append(rec.aliases, r.text())
		}
	}
	if rec.has&hasLabels != 0 {
		for range r.count() {
			key := r.text()
			rec.labels = append(rec.labels, label{key, r.text()})
		}
		slices.SortFunc(rec.labels, func(x, y label) int { return bytes.Compare(x.key, y.key) })
	}
}

// event is the record as others see it, sharing nothing with what it was parsed from.
func (rec *record) event() Event {
	e := Event{
		Time: fromMicros(rec.time), Kind: Kind(rec.kind), Container: string(rec.container), Interface: string(rec.iface), Owner: string(rec.owner),
		Pool: string(rec.pool), Name: string(rec.name), Prefix: rec.prefix, Peer: string(rec.peer),
		Duration: time.Duration(rec.duration) * time.Microsecond, Count: rec.count, Error: string(rec.errorText), Detail: string(rec.detail),
	}
	if len(rec.addrs) > 0 {
		e.Addresses = slices.Clone(rec.addrs)
	}
	for _, a := range rec.aliases {
		e.Aliases = append(e.Aliases, string(a))
	}
	if len(rec.labels) > 0 {
		e.Labels = make(map[string]string, len(rec.labels))
		for _, l := range rec.labels {
			e.Labels[string(l.key)] = string(l.value)
		}
	}
	return e
}
