package history

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// A block holds events as columns, see column.go. Most events are about a subject: a container's interface with its owner, addresses, pool,
// name, aliases and labels. What is allocated, attached, detached and released is one subject, written once; an event says by its
// fields how much of it the event had. In the order of the payload:
//
//	number of subjects, varint; their fields
//	container, interface, owner, pool, name, each a column over the subjects that have it
//	of those with addresses: a column of texts with a 4 or a 6 for each; then the IPv4 ones as a column of steps, then the IPv6 ones
//	aliases, a column of lists as records have them
//	times, as differences to the one before, zigzag
//	a column of fields (varint) and kind
//	subjects, of the events that have one: 0 a new one, 1 that of the event before, 2 + how many came after it
//	prefixes (address, bits), peers, durations, counts, errors, details, over the events that have them
//	labels of the subjects, a column of lists of keys; then for each key, as they come first, a column of the values. Special reference 1
//	    is the subject's name, which a pod's label repeats

// sameAsName is the special reference of a label's value.
const sameAsName = 1

// Limits of a block.
const (
	blockEvents = 8192
	blockBytes  = 4 << 20 // of records
)

// about is a subject in the making: its fields by their numbers in the dictionaries.
type about struct {
	has                                          fields
	container, iface, owner, pool, name, aliases uint32
	families, keys                               uint32
	addrs, values                                []uint32 // addresses in order; values of labels by the order of keys
}

// blockEncoder makes blocks of records. It is used by one goroutine.
type blockEncoder struct {
	packer *packer

	containers, ifaces, owners, pools, names, aliases dictionary
	families, ipv4, ipv6, keys                        dictionary
	values                                            map[string]*dictionary // of labels, by key
	prefixes, peers, errors, details, shapes          dictionary

	subjects []about
	latest   map[uint64]int // by container and interface
	before   int            // subject of the event before; -1: none yet
	numbers  []uint32       // what addrs and values are parts of

	span
	last                                       int64 // time
	times, refs, durations, counts             []uint64
	shapeRefs, prefixRefs, peerRefs, errorRefs references
	detailRefs, column                         references
	rec                                        record
	scratch                                    []byte
}

func newBlockEncoder() *blockEncoder {
	b := &blockEncoder{packer: newPacker(), values: make(map[string]*dictionary), latest: make(map[uint64]int)}
	b.reset(0)
	return b
}

func (b *blockEncoder) reset(first uint64) {
	for _, d := range []*dictionary{
		&b.containers, &b.ifaces, &b.owners, &b.pools, &b.names, &b.aliases, &b.families, &b.ipv4, &b.ipv6, &b.keys,
		&b.prefixes, &b.peers, &b.errors, &b.details, &b.shapes,
	} {
		d.reset()
	}
	clear(b.values)
	clear(b.latest)
	b.subjects, b.numbers, b.before = b.subjects[:0], nil, -1
	b.span = span{first: first}
	b.times, b.refs, b.durations, b.counts = b.times[:0], b.refs[:0], b.durations[:0], b.counts[:0]
	for _, r := range []*references{&b.shapeRefs, &b.prefixRefs, &b.peerRefs, &b.errorRefs, &b.detailRefs} {
		r.reset(0)
	}
}

// encode makes a block of whole records, of which the first has that number. The result is good until the next call.
func (b *blockEncoder) encode(first uint64, records []byte) (block []byte, e entry, err error) {
	b.reset(first)
	for len(records) > 0 {
		var one []byte
		if one, records, err = cutRecord(records); err == nil {
			err = b.rec.parse(one)
		}
		if err != nil {
			return nil, entry{}, err
		}
		b.add(&b.rec)
	}
	p := b.packer
	p.out = append(p.out[:0], make([]byte, blockHeaderSize)...)
	b.packSubjects(p)
	b.packEvents(p)
	b.packLabels(p)
	h := blockHeader{span: b.span, length: len(p.out) - blockHeaderSize, sum: checksum(p.out[blockHeaderSize:])}
	h.put(p.out)
	return p.out, entry{span: b.span, length: len(p.out), filter: b.filter()}, nil
}

func (b *blockEncoder) add(rec *record) {
	if b.count == 0 {
		b.min, b.max, b.last = rec.time, rec.time, rec.time
		b.times = append(b.times, uint64(rec.time))
	} else {
		b.times = append(b.times, zigzag(rec.time-b.last))
	}
	b.count++
	b.last, b.min, b.max = rec.time, min(b.min, rec.time), max(b.max, rec.time)
	b.scratch = append(binary.AppendUvarint(b.scratch[:0], uint64(rec.has)), rec.kind...)
	b.shapeRefs.add(b.shapes.number(b.scratch))
	if rec.has&ofSubject != 0 {
		b.addSubject(rec)
	}
	if rec.has&hasPrefix != 0 {
		b.scratch = append(appendAddr(b.scratch[:0], rec.prefix.Addr()), byte(rec.prefix.Bits()))
		b.prefixRefs.add(b.prefixes.number(b.scratch))
	}
	if rec.has&hasPeer != 0 {
		b.peerRefs.add(b.peers.number(rec.peer))
	}
	if rec.has&hasDuration != 0 {
		b.durations = append(b.durations, rec.duration)
	}
	if rec.has&hasCount != 0 {
		b.counts = append(b.counts, rec.count)
	}
	if rec.has&hasError != 0 {
		b.errorRefs.add(b.errors.number(rec.errorText))
	}
	if rec.has&hasDetail != 0 {
		b.detailRefs.add(b.details.number(rec.detail))
	}
}

// addSubject refers to the subject that the record fits, or to a new one.
func (b *blockEncoder) addSubject(rec *record) {
	one := b.about(rec)
	key := uint64(one.container)<<32 | uint64(one.iface)
	at, ok := b.latest[key]
	if !ok || !b.subjects[at].merge(&one) {
		at = len(b.subjects)
		b.subjects = append(b.subjects, one)
		b.latest[key] = at
		b.before = at
		b.refs = append(b.refs, 0)
		return
	}
	if at == b.before {
		b.refs = append(b.refs, 1)
		return
	}
	b.before = at
	b.refs = append(b.refs, 2+uint64(len(b.subjects)-1-at))
}

// merge has s be the other one, too, if nothing of it contradicts.
func (s *about) merge(o *about) bool {
	both := s.has & o.has
	differ := func(bit fields, x, y uint32) bool { return both&bit != 0 && x != y }
	if differ(hasOwner, s.owner, o.owner) || differ(hasPool, s.pool, o.pool) || differ(hasName, s.name, o.name) || differ(hasAliases, s.aliases, o.aliases) {
		return false
	}
	if both&hasAddresses != 0 && !slices.Equal(s.addrs, o.addrs) {
		return false
	}
	if both&hasLabels != 0 && (s.keys != o.keys || !slices.Equal(s.values, o.values)) {
		return false
	}
	more := o.has &^ s.has
	if more == 0 {
		return true
	}
	s.has |= more
	s.owner, s.pool, s.name, s.aliases = max(s.owner, o.owner), max(s.pool, o.pool), max(s.name, o.name), max(s.aliases, o.aliases)
	if more&hasAddresses != 0 {
		s.families, s.addrs = o.families, o.addrs
	}
	if more&hasLabels != 0 {
		s.keys, s.values = o.keys, o.values
	}
	return true
}

func (b *blockEncoder) about(rec *record) about {
	one := about{has: rec.has & ofSubject}
	number := func(d *dictionary, bit fields, text []byte) uint32 {
		if rec.has&bit == 0 {
			return 0
		}
		return d.number(text)
	}
	one.container = number(&b.containers, hasContainer, rec.container)
	one.iface = number(&b.ifaces, hasInterface, rec.iface)
	one.owner = number(&b.owners, hasOwner, rec.owner)
	one.pool = number(&b.pools, hasPool, rec.pool)
	one.name = number(&b.names, hasName, rec.name)
	if rec.has&hasAddresses != 0 {
		one.families, one.addrs = b.addresses(rec.addrs)
	}
	if rec.has&hasAliases != 0 {
		b.scratch = b.scratch[:0]
		for _, a := range rec.aliases {
			b.scratch = append(binary.AppendUvarint(b.scratch, uint64(len(a))), a...)
		}
		one.aliases = b.aliases.number(b.scratch)
	}
	if rec.has&hasLabels != 0 {
		one.keys, one.values = b.labels(rec.labels)
	}
	return one
}

func (b *blockEncoder) addresses(addrs []netip.Addr) (families uint32, numbers []uint32) {
	var of [maxList]byte
	start := len(b.numbers)
	for i, a := range addrs {
		if a.Is4() {
			of[i] = '4'
			four := a.As4()
			b.numbers = append(b.numbers, b.ipv4.number(four[:]))
			continue
		}
		of[i] = '6'
		six := a.As16()
		b.numbers = append(b.numbers, b.ipv6.number(six[:]))
	}
	return b.families.number(of[:len(addrs)]), b.numbers[start:len(b.numbers):len(b.numbers)]
}

func (b *blockEncoder) labels(labels []label) (keys uint32, values []uint32) {
	start := len(b.numbers)
	b.scratch = b.scratch[:0]
	for _, l := range labels {
		b.scratch = append(binary.AppendUvarint(b.scratch, uint64(len(l.key))), l.key...)
		d := b.values[string(l.key)]
		if d == nil {
			d = &dictionary{}
			b.values[string(l.key)] = d
		}
		b.numbers = append(b.numbers, d.number(l.value))
	}
	return b.keys.number(b.scratch), b.numbers[start:len(b.numbers):len(b.numbers)]
}

func (b *blockEncoder) packSubjects(p *packer) {
	p.out = binary.AppendUvarint(p.out, uint64(len(b.subjects)))
	has := make([]uint64, len(b.subjects))
	for i, s := range b.subjects {
		has[i] = uint64(s.has)
	}
	p.numbers(has)
	b.packTexts(p, &b.containers, hasContainer, func(s *about) uint32 { return s.container })
	b.packTexts(p, &b.ifaces, hasInterface, func(s *about) uint32 { return s.iface })
	b.packTexts(p, &b.owners, hasOwner, func(s *about) uint32 { return s.owner })
	b.packTexts(p, &b.pools, hasPool, func(s *about) uint32 { return s.pool })
	b.packTexts(p, &b.names, hasName, func(s *about) uint32 { return s.name })
	b.packTexts(p, &b.families, hasAddresses, func(s *about) uint32 { return s.families })
	b.packAddresses(p, &b.ipv4, '4')
	b.packAddresses(p, &b.ipv6, '6')
	b.packTexts(p, &b.aliases, hasAliases, func(s *about) uint32 { return s.aliases })
}

// packTexts writes a column of the subjects that have a field.
func (b *blockEncoder) packTexts(p *packer, d *dictionary, bit fields, of func(*about) uint32) {
	b.column.reset(0)
	for i := range b.subjects {
		if b.subjects[i].has&bit != 0 {
			b.column.add(of(&b.subjects[i]))
		}
	}
	b.column.pack(p, d)
}

func (b *blockEncoder) packAddresses(p *packer, d *dictionary, family byte) {
	b.column.reset(0)
	for i := range b.subjects {
		s := &b.subjects[i]
		for k, n := range s.addrs {
			if b.families.text(s.families)[k] == family {
				b.column.add(n)
			}
		}
	}
	b.column.packSteps(p, d)
}

// packLabels writes a column for each key, in the order in which the subjects bring them.
func (b *blockEncoder) packLabels(p *packer) {
	b.packTexts(p, &b.keys, hasLabels, func(s *about) uint32 { return s.keys })
	lists := make(map[uint32][]string) // keys, by their number
	var order []string
	for i := range b.subjects {
		s := &b.subjects[i]
		if s.has&hasLabels == 0 || lists[s.keys] != nil {
			continue
		}
		lists[s.keys] = splitTexts(b.keys.text(s.keys))
		for _, key := range lists[s.keys] {
			if !slices.Contains(order, key) {
				order = append(order, key)
			}
		}
	}
	for _, key := range order {
		d := b.values[key]
		b.column.reset(sameAsName)
		for i := range b.subjects {
			s := &b.subjects[i]
			if s.has&hasLabels == 0 {
				continue
			}
			at := slices.Index(lists[s.keys], key)
			switch {
			case at < 0:
			case s.has&hasName != 0 && b.names.text(s.name) == d.text(s.values[at]):
				b.column.addSpecial(sameAsName)
			default:
				b.column.add(s.values[at])
			}
		}
		b.column.pack(p, d)
	}
}

// splitTexts takes a list apart that was made of lengths and texts.
func splitTexts(list string) []string {
	texts := []string{}
	for r := (reader{b: []byte(list)}); len(r.b) > 0 && !r.err; {
		texts = append(texts, string(r.text()))
	}
	return texts
}

func (b *blockEncoder) packEvents(p *packer) {
	b.times[0] = zigzag(int64(b.times[0]) - b.min)
	p.numbers(b.times)
	b.shapeRefs.pack(p, &b.shapes)
	p.out = binary.AppendUvarint(p.out, uint64(len(b.refs)))
	p.numbers(b.refs)
	b.prefixRefs.pack(p, &b.prefixes)
	b.peerRefs.pack(p, &b.peers)
	p.numbers(b.durations)
	p.numbers(b.counts)
	b.errorRefs.pack(p, &b.errors)
	b.detailRefs.pack(p, &b.details)
}

func (b *blockEncoder) filter() filter {
	known := namedSubjects(b.containers.texts, b.names.texts, b.aliases.texts)
	for _, d := range []*dictionary{&b.ipv4, &b.ipv6} {
		for _, text := range d.texts {
			a, _ := netip.AddrFromSlice([]byte(text)) // 4 or 16 bytes
			known[addressSubject(a)] = struct{}{}
		}
	}
	return newFilter(known)
}
