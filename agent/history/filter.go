package history

import (
	"net/netip"
)

// filter tells what a block does not know: a Bloom filter of its containers, names and addresses. Empty, it tells nothing.
type filter []byte

const (
	filterBits   = 12 // for each key
	filterProbes = 8  // 3 of 1,000 keys that are not there seem to be
)

// subject is what somebody asks about, as filters know it.
type subject uint64

// Short forms of container IDs are looked for too, so that only the beginning counts.
const containerKey = 12

func containerSubject(id string) subject { return hashed('c', id[:min(len(id), containerKey)]) }

func nameSubject(name string) subject { return hashed('n', name) }

func addressSubject(a netip.Addr) subject {
	b := a.As16()
	return hashed('a', string(b[:]))
}

// hashed is FNV-1a with a finish: it has to be the same for ever, as it is on disk.
func hashed(kind byte, text string) subject {
	h := (uint64(14695981039346656037) ^ uint64(kind)) * 1099511628211
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return subject(h ^ h>>33)
}

func newFilter(subjects map[subject]struct{}) filter {
	f := make(filter, (len(subjects)*filterBits+7)/8)
	for s := range subjects {
		f.each(s, func(at uint64) bool { f[at/8] |= 1 << (at % 8); return true })
	}
	return f
}

// may reports whether the block may know s; false is certain.
func (f filter) may(s subject) bool {
	if len(f) == 0 {
		return true
	}
	found := true
	f.each(s, func(at uint64) bool { found = f[at/8]&(1<<(at%8)) != 0; return found })
	return found
}

func (f filter) each(s subject, do func(at uint64) bool) {
	bits := uint64(len(f)) * 8
	step := uint64(s)>>32 | 1
	for i := range uint64(filterProbes) {
		if !do((uint64(s) + i*step) % bits) {
			return
		}
	}
}

// namedSubjects are the containers and names that a block has texts of; the aliases of an endpoint are one text.
func namedSubjects(containers, names, aliases []string) map[subject]struct{} {
	known := make(map[subject]struct{}, 2*(len(containers)+len(names)))
	for _, text := range containers {
		known[containerSubject(text)] = struct{}{}
	}
	for _, text := range names {
		known[nameSubject(text)] = struct{}{}
	}
	for _, list := range aliases {
		for _, text := range splitTexts(list) {
			known[nameSubject(text)] = struct{}{}
		}
	}
	return known
}

// known are the subjects that a filter of the block has.
func (b *block) known() map[subject]struct{} {
	known := namedSubjects(b.container.texts, b.name.texts, b.aliases.texts)
	for _, addrs := range b.addrs {
		for _, a := range addrs {
			known[addressSubject(a)] = struct{}{}
		}
	}
	return known
}
