package history

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// textField is a field of subjects or events, as read: the texts there are, and by subject or event which one it has, or noText.
type textField struct {
	texts []string
	at    []int32
}

const noText = -1 << 31

func (f *textField) text(i int) string {
	if f.at[i] < 0 {
		return ""
	}
	return f.texts[f.at[i]]
}

// block is one that was read, as far as somebody wanted: its subjects first, the events then, and labels last.
type block struct {
	span
	u unpacker

	has                                 []uint64 // of subjects
	container, iface, owner, pool, name textField
	aliases                             textField
	addrs                               [][]netip.Addr // by subject

	times           []int64
	shapes          textField
	kinds           []Kind   // by shape
	fields          []fields // by shape
	subjects        []int32  // by event; -1: none
	prefix, peer    textField
	errors, details textField
	durations       []uint64 // by event
	counts          []uint64

	labelled bool
	keys     textField
	lists    [][]string // keys, by their text
	values   map[string]*textField
}

// blockRoom bounds what a block's columns take when they are read.
const blockRoom = 128 << 20

// readBlock reads the subjects of a block's payload, which is not changed and must not be.
func readBlock(s span, payload []byte) (*block, error) {
	b := &block{span: s, u: unpacker{reader: reader{b: payload}, room: blockRoom}}
	err := b.unpack(func() {
		n := b.u.uvarint()
		if n > s.count {
			b.u.err = true
			return
		}
		b.has = b.u.numbersRoom(n)
		b.container = b.subjectField(hasContainer)
		b.iface = b.subjectField(hasInterface)
		b.owner = b.subjectField(hasOwner)
		b.pool = b.subjectField(hasPool)
		b.name = b.subjectField(hasName)
		b.readAddresses()
		b.aliases = b.subjectField(hasAliases)
	})
	return b, err
}

var errColumns = errors.New("columns cannot be read")

func (b *block) unpack(do func()) error {
	b.u.decode = decoders.Get().(*zstd.Decoder)
	defer decoders.Put(b.u.decode)
	do()
	if b.u.err {
		return fmt.Errorf("%w: %w", errColumns, errFormat)
	}
	return nil
}

// subjectField reads a column over the subjects that have a field.
func (b *block) subjectField(bit fields) textField {
	return b.field(len(b.has), func(i int) bool { return fields(b.has[i])&bit != 0 }, 0)
}

// field reads a column over those of n that have it.
func (b *block) field(n int, has func(int) bool, special uint64) textField {
	count := 0
	for i := range n {
		if has(i) {
			count++
		}
	}
	c := b.u.column(count, special)
	f := textField{texts: c.texts, at: make([]int32, n)}
	if b.u.err {
		return f
	}
	next := 0
	for i := range n {
		f.at[i] = noText
		if has(i) {
			f.at[i] = c.at[next]
			next++
		}
	}
	return f
}

func (b *block) readAddresses() {
	families := b.subjectField(hasAddresses)
	if b.u.err {
		return
	}
	fours, sixes := 0, 0
	for i := range families.at {
		for _, f := range []byte(families.text(i)) {
			if f == '4' {
				fours++
			} else {
				sixes++
			}
		}
		if fours+sixes > maxEvents*maxList {
			b.u.err = true
			return
		}
	}
	ipv4, ipv6 := b.addresses(fours, 4), b.addresses(sixes, 16)
	b.addrs = make([][]netip.Addr, len(b.has))
	if b.u.err {
		return
	}
	all := make([]netip.Addr, 0, fours+sixes)
	for i := range b.addrs {
		start := len(all)
		for _, f := range []byte(families.text(i)) {
			from := &ipv6
			if f == '4' {
				from = &ipv4
			}
			all = append(all, (*from)[0])
			*from = (*from)[1:]
		}
		b.addrs[i] = all[start:len(all):len(all)]
	}
}

// addresses reads n of a family, of so many bytes each.
func (b *block) addresses(n, size int) []netip.Addr {
	c := b.u.steps(n)
	parsed := make([]netip.Addr, len(c.texts))
	for i, text := range c.texts {
		if len(text) != size {
			b.u.err = true
			return nil
		}
		parsed[i], _ = netip.AddrFromSlice([]byte(text))
	}
	if b.u.err {
		return nil
	}
	out := make([]netip.Addr, n)
	for i, at := range c.at {
		out[i] = parsed[at]
	}
	return out
}

// readEvents reads what is not read yet, but for labels.
func (b *block) readEvents() error {
	if b.times != nil {
		return nil
	}
	return b.unpack(func() {
		n := int(b.count)
		deltas := b.u.numbersRoom(b.count)
		if b.u.err {
			return
		}
		times, last := make([]int64, n), b.min
		for i, d := range deltas {
			last += unzigzag(d)
			times[i] = last
		}
		b.shapes = b.field(n, func(int) bool { return true }, 0)
		b.readShapes()
		if b.u.err {
			return
		}
		b.readReferences(n)
		if b.u.err {
			return
		}
		event := func(bit fields) textField {
			return b.field(n, func(i int) bool { return b.of(i)&bit != 0 }, 0)
		}
		b.prefix = event(hasPrefix)
		b.peer = event(hasPeer)
		b.durations = b.amounts(n, hasDuration)
		b.counts = b.amounts(n, hasCount)
		b.errors = event(hasError)
		b.details = event(hasDetail)
		b.times = times
	})
}

// of is the fields of an event.
func (b *block) of(i int) fields { return b.fields[b.shapes.at[i]] }

func (b *block) readShapes() {
	for _, text := range b.shapes.texts {
		r := reader{b: []byte(text)}
		f := fields(r.uvarint())
		if r.err || f&^allFields != 0 {
			b.u.err = true
			return
		}
		b.fields = append(b.fields, f)
		b.kinds = append(b.kinds, Kind(r.b))
	}
}

func (b *block) readReferences(n int) {
	count := b.u.uvarint()
	if count > b.count {
		b.u.err = true
		return
	}
	refs := b.u.numbersRoom(count)
	b.subjects = make([]int32, n)
	known, last := 0, -1
	for i := range b.subjects {
		b.subjects[i] = -1
		if b.of(i)&ofSubject == 0 {
			continue
		}
		if len(refs) == 0 {
			b.u.err = true
			return
		}
		switch ref := refs[0]; {
		case ref == 0:
			last = known
			known++
		case ref == 1:
		case ref-2 < uint64(known):
			last = known - 1 - int(ref-2)
		default:
			b.u.err = true
			return
		}
		if last < 0 || last >= len(b.has) {
			b.u.err = true
			return
		}
		b.subjects[i] = int32(last)
		refs = refs[1:]
	}
}

// amounts reads numbers over the events that have them.
func (b *block) amounts(n int, bit fields) []uint64 {
	count := 0
	for i := range n {
		if b.of(i)&bit != 0 {
			count++
		}
	}
	values := b.u.numbersRoom(uint64(count))
	out := make([]uint64, n)
	if b.u.err {
		return out
	}
	next := 0
	for i := range out {
		if b.of(i)&bit != 0 {
			out[i] = values[next]
			next++
		}
	}
	return out
}

func (b *block) readLabels() error {
	if b.labelled {
		return nil
	}
	return b.unpack(func() {
		b.keys = b.subjectField(hasLabels)
		for _, text := range b.keys.texts {
			b.lists = append(b.lists, splitTexts(text))
		}
		var order []string
		seen := make([]bool, len(b.lists))
		for _, at := range b.keys.at {
			if at < 0 || b.u.err || seen[at] {
				continue
			}
			seen[at] = true
			for _, key := range b.lists[at] {
				if !slices.Contains(order, key) {
					order = append(order, key)
				}
			}
		}
		b.values = make(map[string]*textField, len(order))
		for _, key := range order {
			with := make([]bool, len(b.lists))
			for i, list := range b.lists {
				with[i] = slices.Contains(list, key)
			}
			f := b.field(len(b.has), func(i int) bool { return b.keys.at[i] >= 0 && with[b.keys.at[i]] }, sameAsName)
			b.values[key] = &f
			if b.u.err {
				return
			}
		}
		b.labelled = !b.u.err && len(b.u.b) == 0
		b.u.err = !b.labelled
	})
}

// event is the i-th one. Events and labels have been read.
func (b *block) event(i int) Event {
	has := b.of(i)
	e := Event{
		Time: fromMicros(b.times[i]), Kind: b.kinds[b.shapes.at[i]], Peer: b.peer.text(i), Duration: time.Duration(b.durations[i]) * time.Microsecond,
		Count: b.counts[i], Error: b.errors.text(i), Detail: b.details.text(i),
	}
	if has&hasPrefix != 0 {
		r := reader{b: []byte(b.prefix.text(i))}
		a := r.addr()
		e.Prefix = netip.PrefixFrom(a, int(r.byte()))
	}
	if s := b.subjects[i]; s >= 0 {
		b.fill(&e, int(s), has)
	}
	return e
}

// fill gives an event those fields of a subject that it had.
func (b *block) fill(e *Event, s int, has fields) {
	text := func(bit fields, f *textField) string {
		if has&bit == 0 {
			return ""
		}
		return f.text(s)
	}
	e.Container = text(hasContainer, &b.container)
	e.Interface = text(hasInterface, &b.iface)
	e.Owner = text(hasOwner, &b.owner)
	e.Pool = text(hasPool, &b.pool)
	e.Name = text(hasName, &b.name)
	if has&hasAddresses != 0 {
		e.Addresses = slices.Clone(b.addrs[s])
	}
	if list := text(hasAliases, &b.aliases); list != "" {
		e.Aliases = splitTexts(list)
	}
	if has&hasLabels != 0 && b.keys.at[s] >= 0 {
		keys := b.lists[b.keys.at[s]]
		e.Labels = make(map[string]string, len(keys))
		for _, key := range keys {
			f := b.values[key]
			if f.at[s] == -sameAsName {
				e.Labels[key] = b.name.text(s)
				continue
			}
			e.Labels[key] = f.text(s)
		}
	}
}
