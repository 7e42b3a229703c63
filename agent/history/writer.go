package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	// clockStep is how far back the time of an event may lie behind those before it without the clock having been set.
	clockStep = int64(time.Second / time.Microsecond)

	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	tidyEvery  = time.Minute
)

// writer owns the files of a ledger. All of it is one goroutine's.
type writer struct {
	l      *Ledger
	origin origin
	limits Limits

	sealed  []segment      // oldest first
	seg     *segmentWriter // nil: the next block begins one
	tail    *tail
	encoder *blockEncoder // nil until the first block: a quiet host needs none

	chunks [][]byte // taken from the buffer
	fed    int      // bytes of the first one that are in records

	// The next block's records so far, of which the first tailed bytes are in the tail.
	records []byte
	span
	from   origin // whose they are
	tailed int
	inTail uint64 // events
	cut    bool   // the block ends here
	seen   bool   // somebody may be reading records

	retry time.Duration // until the next try; 0: the last one went well
}

// openWriter finds what the last writer left.
func openWriter(l *Ledger) (*writer, error) {
	w := &writer{
		l: l, limits: l.opts.Limits,
		origin: origin{host: l.opts.Host, boot: l.opts.BootID, created: micros(time.Now())},
	}
	w.tail = &tail{path: filepath.Join(l.opts.Dir, tailName), origin: w.origin}
	left, err := readTail(w.tail.path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	free, err := w.openSegments()
	if err != nil {
		return nil, err
	}
	next := uint64(1)
	if n := len(w.sealed); n > 0 {
		next = max(next, w.sealed[n-1].end())
	}
	if w.seg != nil {
		next = max(next, w.seg.end())
	}
	left.skip(next)
	if left.file > left.size {
		l.log.Warn("the end of the ledger's tail was cut short and is dropped", "file", w.tail.path, "bytes", left.file-left.size)
	}
	if left.count == 0 {
		left.size = 0
	}
	if left.file > left.size { // or it would follow upon what is written next
		if err := os.Truncate(w.tail.path, left.size); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	w.span, w.from = span{first: max(next, free)}, w.origin
	if left.count > 0 {
		return w, w.adopt(left)
	}
	return w, nil
}

// adopt goes on with the events of a tail. Those of another boot are a block of their own, in a segment of their own.
func (w *writer) adopt(left held) error {
	w.span = span{first: left.first}
	for rest := left.records; len(rest) > 0; {
		one, more, err := cutRecord(rest)
		if err != nil {
			return fmt.Errorf("tail %s: %w", w.tail.path, err)
		}
		w.add(one)
		rest = more
	}
	w.tail.size, w.tail.next = left.size, w.end()
	w.tailed, w.inTail = len(w.records), w.count
	if !left.same(w.origin) {
		w.from, w.cut, w.tail.foreign = left.origin, true, true
	}
	return nil
}

// openSegments looks at all segments, and goes on with the last one if it is of this boot. From free on no number has been given, not even
// in what cannot be read.
func (w *writer) openSegments() (free uint64, err error) {
	paths, err := listSegments(w.l.opts.Dir)
	if err != nil {
		return 0, fmt.Errorf("ledger: %w", err)
	}
	for i, path := range paths {
		s, err := readSegment(path)
		newest := i == len(paths)-1
		goOn := err == nil && newest && s.same(w.origin) && s.size < w.segmentSize()
		switch {
		case newest && errors.Is(err, errEmpty):
			err = os.Remove(path)
		case err != nil:
		case s.sealed && !goOn:
			w.sealed = append(w.sealed, s)
		default:
			err = w.resume(path, goOn)
		}
		if err != nil {
			w.l.log.Warn("a segment of the ledger cannot be read: it stays until its time has come", "err", err)
			w.sealed = append(w.sealed, broken(path, s.size, err))
			free = max(free, segmentNumber(path)+uint64(s.size))
		}
	}
	return free, nil
}

// broken is a segment of which nothing can be read. Its age is its file's.
func broken(path string, size int64, why error) segment {
	s := segment{span: span{first: segmentNumber(path)}, path: path, size: size, broken: why.Error()}
	if info, err := os.Stat(path); err == nil {
		s.max = micros(info.ModTime())
	}
	return s
}

// resume opens a segment that was not sealed, and seals it unless it is to be gone on with.
func (w *writer) resume(path string, goOn bool) error {
	seg, cut, err := resumeSegment(path)
	if err != nil {
		return err
	}
	if cut > 0 {
		w.l.log.Warn("the end of a segment of the ledger was cut short and is dropped", "segment", path, "bytes", cut)
	}
	if goOn {
		w.seg = seg
		return nil
	}
	if seg.count == 0 {
		return errors.Join(seg.file.Close(), os.Remove(path))
	}
	if err := seg.seal(); err != nil { // it can be read without a footer, if slowly
		w.l.log.Warn("a segment of the ledger has no footer", "err", err)
	}
	w.sealed = append(w.sealed, seg.segment)
	return seg.file.Close()
}

// run writes what is recorded until the ledger is closed.
func (w *writer) run() {
	defer close(w.l.stopped)
	flush, sync := newAlarm(), newAlarm()
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	if w.cut {
		flush.set(w.l.opts.Flush)
	}
	for {
		select {
		case <-w.l.wake:
			if w.retry == 0 && w.l.waiting() >= eager {
				w.noteError(w.write())
			}
		case <-flush.C:
			flush.rang()
			w.noteError(w.write())
		case done := <-w.l.flushes:
			done <- w.flush()
		case <-sync.C:
			sync.rang()
			if err := w.sync(); err != nil { // that it went well says nothing of writing
				w.noteError(err)
			}
		case w.limits = <-w.l.limits:
			w.tidy()
		case <-tidy.C:
			w.tidy()
		case <-w.l.stop:
			w.l.closeIn = w.close()
			return
		}
		switch {
		case w.retry > 0:
			flush.set(w.retry)
		case w.l.waiting() > 0:
			flush.set(w.l.opts.Flush)
		}
		if w.l.opts.Sync > 0 && w.dirty() {
			sync.set(w.l.opts.Sync)
		}
	}
}

// alarm is a timer that can be set while it runs, which changes nothing.
type alarm struct {
	*time.Timer
	on bool
}

func newAlarm() *alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &alarm{Timer: t}
}

func (a *alarm) set(d time.Duration) {
	if !a.on {
		a.on = true
		a.Reset(d)
	}
}

func (a *alarm) rang() { a.on = false }

// flush writes until nothing waits that was there before.
func (w *writer) flush() error {
	err := w.write()
	if err == nil && w.l.waiting() > 0 { // the event that says what was dropped, at least
		err = w.write()
	}
	w.noteError(err)
	return err
}

// write takes everything from the buffer to the files.
func (w *writer) write() error {
	began := time.Now()
	err := w.step()
	w.show()
	w.l.counters.spent.Add(int64(time.Since(began)))
	return err
}

func (w *writer) noteError(err error) {
	if err == nil {
		if w.retry > 0 {
			w.retry = 0
			w.l.setFailing("")
			w.l.log.Info("the ledger is written again", "dir", w.l.opts.Dir)
		}
		return
	}
	w.l.setFailing(err.Error())
	w.l.counters.errors.Add(1)
	if w.retry == 0 {
		w.l.log.Error("the ledger cannot be written: what happens is kept in memory as long as there is room", "err", err)
	}
	w.retry = min(max(2*w.retry, firstRetry), lastRetry)
}

// step writes what waits. What an error leaves undone is done by the next.
func (w *writer) step() error {
	if len(w.chunks) == 0 {
		w.chunks = w.l.take()
	}
	for {
		if w.full() {
			if err := w.writeBlock(); err != nil {
				return err
			}
		}
		if len(w.chunks) == 0 {
			return w.writeTail()
		}
		w.feed()
	}
}

func (w *writer) full() bool {
	return w.cut || w.count >= uint64(w.l.opts.blockEvents) || len(w.records) >= blockBytes
}

// feed adds records to the next block until it is full or a chunk is empty.
func (w *writer) feed() {
	chunk := w.chunks[0]
	for w.fed < len(chunk) && !w.full() {
		one, _, err := cutRecord(chunk[w.fed:])
		if err != nil {
			panic("history: " + err.Error()) // written by put
		}
		if w.count > 0 && recordTime(one) < w.max-clockStep {
			w.cut = true
			return
		}
		w.add(one)
		w.fed += len(one)
	}
	if w.fed == len(chunk) {
		w.l.giveBack(chunk)
		w.chunks, w.fed = w.chunks[1:], 0
	}
}

func (w *writer) add(rec []byte) {
	t := recordTime(rec)
	w.span = w.span.add(span{first: w.end(), count: 1, min: t, max: t})
	w.records = append(w.records, rec...)
}

// writeBlock has the block in a segment, and not in the tail any more.
func (w *writer) writeBlock() error {
	if err := w.rotate(); err != nil {
		return err
	}
	if w.encoder == nil {
		w.encoder = newBlockEncoder()
	}
	block, e, err := w.encoder.encode(w.first, w.records)
	if err != nil {
		panic("history: " + err.Error()) // written by put, or looked at by readTail
	}
	if w.seg == nil {
		o := w.from
		o.created = micros(time.Now())
		if w.seg, err = createSegment(w.l.opts.Dir, w.first, o); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	if err := w.seg.append(block, e); err != nil {
		return err
	}
	w.wrote(len(block))
	w.nextBlock()
	// The numbers say what the block has, so that nothing depends on this but room. Whoever relies on what was synced has it in one of both.
	if w.tail.size > fileHeaderSize {
		if w.l.opts.Sync > 0 {
			if err := w.seg.sync(); err != nil {
				return err
			}
		}
		return w.tail.clear()
	}
	return nil
}

func (w *writer) nextBlock() {
	w.span, w.from = span{first: w.end()}, w.origin
	w.tailed, w.inTail, w.cut = 0, 0, false
	if w.seen {
		w.records, w.seen = nil, false
	}
	w.records = w.records[:0]
}

// writeTail writes what is in no file yet.
func (w *writer) writeTail() error {
	fresh := w.records[w.tailed:]
	if len(fresh) == 0 {
		return nil
	}
	if err := w.tail.append(w.first+w.inTail, w.count-w.inTail, fresh); err != nil {
		return err
	}
	w.wrote(frameHeaderSize + len(fresh))
	w.tailed, w.inTail = len(w.records), w.count
	return nil
}

func (w *writer) wrote(bytes int) {
	w.l.counters.written.Add(uint64(bytes))
	w.l.counters.writes.Add(1)
}

func (w *writer) dirty() bool { return w.tail.dirty || w.seg != nil && w.seg.dirty }

func (w *writer) sync() error {
	if w.seg != nil {
		if err := w.seg.sync(); err != nil {
			return err
		}
	}
	return w.tail.sync()
}

// close writes, seals and syncs.
func (w *writer) close() error {
	err := w.flush()
	if w.seg != nil {
		if err == nil {
			err = w.seg.seal()
		}
		err = errors.Join(err, w.seg.sync(), w.seg.file.Close())
	}
	return errors.Join(err, w.tail.sync(), w.tail.close())
}
