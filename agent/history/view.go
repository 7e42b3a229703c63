package history

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// shown is the ledger as its writer left it last. Nothing in it is changed afterwards.
type shown struct {
	sealed []segment
	// The segment that is being written, if there is one.
	open    *segment
	entries []entry
	tail    int64 // bytes
	// The events that are not in a block yet.
	span
	from    origin
	records []byte
}

// show has queries see what was written.
func (w *writer) show() {
	s := &shown{sealed: w.sealed, tail: w.tail.size, span: w.span, from: w.from, records: w.records[:w.tailed:w.tailed]}
	if w.inTail < w.count { // what could not be written is not shown, since it can still be lost
		s.count = w.inTail
	}
	w.seen = w.seen || s.count > 0
	if w.seg != nil {
		open := w.seg.segment
		s.open, s.entries = &open, w.seg.entries[:len(w.seg.entries):len(w.seg.entries)]
	}
	l := w.l
	l.shown.Store(s)
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	close(l.watch)
	l.watch = make(chan struct{})
}

// changed is closed once there is more to see than there may be in what is shown next.
func (l *Ledger) changed() <-chan struct{} {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	return l.watch
}

func (s *shown) segments() (n int, size int64) {
	n, size = len(s.sealed), s.tail
	for _, one := range s.sealed {
		size += one.size
	}
	if s.open != nil {
		n++
		size += s.open.size
	}
	return n, size
}

// all is what there is from the oldest event on. Between segments numbers may be missing.
func (s *shown) all() span {
	var all span
	for _, one := range s.sealed {
		all = all.add(one.span)
	}
	if s.open != nil && s.open.count > 0 {
		all = all.add(s.open.span)
	}
	if s.count > 0 {
		all = all.add(s.span)
	}
	return all
}

// last is the number of the newest event; 0: there is none.
func (s *shown) last() uint64 {
	if all := s.all(); all.count > 0 {
		newest := s.span
		switch {
		case s.count > 0:
		case s.open != nil && s.open.count > 0:
			newest = s.open.span
		default:
			newest = s.sealed[len(s.sealed)-1].span
		}
		return newest.end() - 1
	}
	return 0
}

// view is what one query sees: blocks in their order, each in a segment or in memory. It is used by one goroutine.
type view struct {
	parts  []*part
	damage []string
	recent []readAlready // newest last
}

// part is a segment, or what is not in a block yet.
type part struct {
	segment
	entries []entry // nil: not read yet
	ready   bool
	file    *os.File

	records []byte // of the last part
	decoded []Entry
}

// Entry is an event with its number in the ledger: one more than that of the event recorded before.
type Entry struct {
	Number uint64
	Event
}

func (s *shown) view() *view {
	v := &view{}
	for _, one := range s.sealed {
		if one.broken != "" {
			v.damaged("%s: its events are missing", one.broken)
			continue
		}
		v.parts = append(v.parts, &part{segment: one})
	}
	if s.open != nil {
		v.parts = append(v.parts, &part{segment: *s.open, entries: s.entries, ready: true})
	}
	if s.count > 0 {
		v.addRecords(s.span, s.from, s.records)
	}
	return v
}

func (v *view) addRecords(s span, from origin, records []byte) {
	v.parts = append(v.parts, &part{segment: segment{span: s, origin: from}, entries: []entry{{span: s}}, ready: true, records: records})
}

// viewDir sees a directory that somebody else may be writing. What is in both the tail and a block is seen once; so the tail is read first.
func viewDir(dir string) (*view, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	left, err := readTail(filepath.Join(dir, tailName))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	paths, err := listWritten(dir)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	v := &view{}
	next := uint64(1)
	for i, path := range paths {
		s, err := readSegment(path)
		newest := i == len(paths)-1
		if errors.Is(err, fs.ErrNotExist) || newest && errors.Is(err, errEmpty) {
			continue // retention was faster, or the writer is not so far
		}
		if err != nil {
			v.damaged("%v: its events are missing", err)
			continue
		}
		p := &part{segment: s}
		if !s.sealed {
			if !newest {
				v.damaged("segment %s has no footer: events at its end may be missing", path)
			}
			v.ready(p)
			for _, e := range p.entries {
				p.span = p.add(e.span)
			}
		}
		if p.count > 0 {
			next = p.end()
			v.parts = append(v.parts, p)
		}
	}
	left.skip(next)
	if left.count > 0 {
		s := span{}
		for rest := left.records; len(rest) > 0; {
			one, more, err := cutRecord(rest)
			if err != nil {
				break // they were looked at
			}
			t := recordTime(one)
			s = s.add(span{first: left.first, count: 1, min: t, max: t})
			rest = more
		}
		v.addRecords(s, left.origin, left.records)
	}
	return v, nil
}

func (v *view) close() {
	for _, p := range v.parts {
		p.close()
	}
}

func (p *part) close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// damaged says once what cannot be read.
func (v *view) damaged(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(v.damage, text) {
		v.damage = append(v.damage, text)
	}
}

// err tells what a query could not read; nil: it could read everything.
func (v *view) err() error {
	if len(v.damage) == 0 {
		return nil
	}
	return &DamageError{v.damage}
}

// DamageError tells what of the ledger could not be read. What could be is in the answer.
type DamageError struct{ Parts []string }

func (e *DamageError) Error() string { return "damaged: " + strings.Join(e.Parts, "; ") }

// ready opens a segment and finds its blocks. It reports whether there are any to be read; one that retention has deleted has none.
func (v *view) ready(p *part) bool {
	if p.path == "" || p.file != nil {
		return true
	}
	f, err := os.Open(p.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			v.damaged("segment %v: events %d to %d are missing", err, p.first, p.end()-1)
		}
		p.ready = true
		p.entries = nil
		return false
	}
	p.file = f
	if p.ready {
		return true
	}
	p.ready = true
	if p.sealed {
		if p.entries, err = readFooter(f, p.size); err == nil {
			return true
		}
		v.damaged("segment %s: %v: every block has to be read", p.path, err)
	}
	if p.entries, _, err = findBlocks(f, p.size); err != nil {
		v.damaged("segment %s: %v", p.path, err)
	}
	if found := countEvents(p.entries); p.sealed && found < p.count {
		v.damaged("segment %s: %d of its %d events are missing", p.path, p.count-found, p.count)
	}
	return true
}

func countEvents(entries []entry) uint64 {
	n := uint64(0)
	for _, e := range entries {
		n += e.count
	}
	return n
}

// place is a block: which of which part.
type place struct{ part, block int }

// matching are the events of a block that a filter wants, in their order.
func (v *view) matching(at place, f *Filter) []Entry {
	p := v.parts[at.part]
	e := p.entries[at.block]
	if p.path == "" {
		if p.decoded == nil {
			p.decoded = decodeRecords(p.first, p.records)
		}
		var out []Entry
		for _, one := range p.decoded {
			if f.wants(&one) {
				out = append(out, one)
			}
		}
		return out
	}
	b, err := v.read(at)
	if err == nil {
		var out []Entry
		if out, err = b.matching(f); err == nil {
			return out
		}
	}
	v.damaged("segment %s: block at %d: %v: events %d to %d are missing", p.path, e.offset, err, e.first, e.end()-1)
	return nil
}

// readAlready is a block that the same query may ask again: around a time it looks both ways, for an address and then for its container.
type readAlready struct {
	place
	*block
}

const mostRecent = 3

func (v *view) read(at place) (*block, error) {
	for _, r := range v.recent {
		if r.place == at {
			return r.block, nil
		}
	}
	p := v.parts[at.part]
	b, err := readBlockAt(p.file, p.entries[at.block])
	if err != nil {
		return nil, err
	}
	if len(v.recent) == mostRecent {
		v.recent = append(v.recent[:0], v.recent[1:]...)
	}
	v.recent = append(v.recent, readAlready{at, b})
	return b, nil
}

// decodeRecords is of whole records.
func decodeRecords(first uint64, records []byte) []Entry {
	var out []Entry
	var rec record
	for len(records) > 0 {
		one, rest, err := cutRecord(records)
		if err != nil || rec.parse(one) != nil {
			return out // they were looked at when they were read
		}
		out = append(out, Entry{Number: first, Event: rec.event()})
		first++
		records = rest
	}
	return out
}
