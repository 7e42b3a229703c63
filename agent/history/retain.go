package history

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Segments are cut so that what retention takes away at a time is a small part of what is kept.
const (
	smallestSegment = 256 << 10
	largestSegment  = 16 << 20
	partsOfSize     = 64
	partsOfAge      = 32
)

// segmentSize is what a segment grows to.
func (w *writer) segmentSize() int64 {
	if w.l.opts.segmentSize > 0 {
		return w.l.opts.segmentSize
	}
	return min(max(w.limits.MaxSize/partsOfSize, smallestSegment), largestSegment)
}

// rotate ends the segment if it is large or old enough.
func (w *writer) rotate() error {
	if w.seg == nil || w.seg.count == 0 {
		return nil
	}
	if !w.seg.same(w.from) {
		return w.seal()
	}
	if w.seg.size < w.segmentSize() && !w.old(w.seg.created) {
		return nil
	}
	return w.seal()
}

// old tells that what began then is to end, so that it can go when its age has come.
func (w *writer) old(began int64) bool {
	return time.Since(fromMicros(began)) >= max(w.limits.MaxAge/partsOfAge, time.Minute)
}

// seal ends the segment.
func (w *writer) seal() error {
	if w.seg == nil {
		return nil
	}
	if err := w.seg.seal(); err != nil {
		return err
	}
	if w.l.opts.Sync > 0 {
		if err := w.seg.sync(); err != nil {
			return err
		}
	}
	if err := w.seg.file.Close(); err != nil {
		w.l.log.Warn("segment of the ledger not closed", "err", err)
	}
	w.sealed, w.seg = append(w.sealed, w.seg.segment), nil
	w.retain(time.Now())
	return nil
}

// tidy does what comes with time.
func (w *writer) tidy() {
	err := w.rotate()
	if err == nil && w.count > 0 && w.old(w.min) { // a quiet host's, or its clock was wrong
		w.cut = true
		err = w.step()
	}
	if err != nil {
		w.noteError(err)
	}
	w.retain(time.Now())
	w.show()
}

// retain deletes what exceeds the limits. A query that has a segment open goes on reading it.
func (w *writer) retain(now time.Time) {
	total := w.tail.size + w.segmentSize() // what the segment that is being written may come to
	for _, s := range w.sealed {
		total += s.size
	}
	oldest := micros(now.Add(-w.limits.MaxAge))
	gone := 0
	for _, s := range w.sealed {
		if total <= w.limits.MaxSize && s.max >= oldest {
			break
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.l.log.Warn("a segment of the ledger cannot be deleted", "err", err)
			break
		}
		total -= s.size
		gone++
	}
	w.sealed = slices.Delete(slices.Clone(w.sealed), 0, gone)
}
