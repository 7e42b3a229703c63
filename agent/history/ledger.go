package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what is kept; whole segments go, oldest first.
type Limits struct {
	MaxSize int64         // bytes on disk
	MaxAge  time.Duration // of the newest event of a segment
}

// Options is what a ledger needs to know.
type Options struct {
	Dir    string
	Host   string
	BootID string // empty: the kernel's
	Limits Limits
	// Flush is how long an event may wait to be written; 0 takes 100 ms. SIGKILL loses these.
	Flush time.Duration
	// Sync is how long what was written may wait to be on the disk itself; 0: until the kernel does it. A crash of the machine loses these.
	Sync time.Duration
	Log  *slog.Logger

	// What tests have smaller; 0 takes what it should be.
	blockEvents, bufferEvents int
	segmentSize               int64
}

const (
	defaultFlush = 100 * time.Millisecond
	bootIDFile   = "/proc/sys/kernel/random/boot_id"
)

// The buffer between those who record and the writer.
const (
	bufferEvents = 64 << 10
	chunkSize    = 256 << 10
	bufferChunks = 48
	spareChunks  = 2
	// eager is how many events are written without waiting for more.
	eager = blockEvents / 2
)

// Ledger records events and answers about them. It is safe for concurrent use, and the only one that writes in its directory.
type Ledger struct {
	opts Options
	log  *slog.Logger
	lock *os.File

	mu       sync.Mutex // guards the buffer, the fields up to the next empty line, and opts.Limits
	buffer   [][]byte   // chunks of whole records
	buffered int        // events
	spare    [][]byte   // empty chunks
	lost     uint64     // events since the last one that said so
	lostWhy  string
	failing  string // why nothing can be written at the moment
	closed   bool

	wake    chan struct{} // of size 1: there is something to write
	flushes chan chan error
	limits  chan Limits
	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
	closeIn error // of Close

	shown    atomic.Pointer[shown]
	watchMu  sync.Mutex
	watch    chan struct{} // closed when shown changes
	counters counters
}

type counters struct {
	recorded, dropped, written, writes, errors atomic.Uint64
	spent                                      atomic.Int64 // nanoseconds in writes
}

// Stats is how a ledger does.
type Stats struct {
	Recorded    uint64        // events taken in since the start
	Dropped     uint64        // of events since the start, those that were not: the buffer was full
	Written     uint64        // bytes since the start
	Writes      uint64        // of blocks and frames, since the start
	WriteTime   time.Duration // that all of these took, compression and syncing included
	WriteErrors uint64        // since the start
	Failing     string        // why nothing can be written at the moment; empty: it can
	Buffered    int           // events that wait to be written
	Segments    int
	Size        int64  // bytes on disk
	Events      uint64 // on disk
	Oldest      time.Time
	Newest      time.Time
}

// Open opens the ledger in a directory, which is made if it is not there, and goes on where the last writer ended. It fails if another
// process writes there. A full disk is no reason to fail: what is recorded is written when there is room.
func Open(o Options) (*Ledger, error) {
	if o.Flush == 0 {
		o.Flush = defaultFlush
	}
	if o.blockEvents == 0 {
		o.blockEvents = blockEvents
	}
	if o.bufferEvents == 0 {
		o.bufferEvents = bufferEvents
	}
	if o.BootID == "" {
		id, err := os.ReadFile(bootIDFile)
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		o.BootID = strings.TrimSpace(string(id))
	}
	if err := os.MkdirAll(o.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		opts: o, log: o.Log, lock: lock,
		wake: make(chan struct{}, 1), flushes: make(chan chan error), limits: make(chan Limits),
		stop: make(chan struct{}), stopped: make(chan struct{}), watch: make(chan struct{}),
	}
	w, err := openWriter(l)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	w.show()
	go w.run()
	return l, nil
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("ledger %s: another process writes it: stop that agent, or give this one a history.dir of its own", dir)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Record takes an event in, or counts it as dropped where the buffer is full. It waits for nothing but others in Record. An event
// without a time is of now.
func (l *Ledger) Record(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.mu.Lock()
	if l.closed || !l.hasRoom() {
		l.lost++
		if l.failing != "" {
			l.lostWhy = "could not be written: " + l.failing
		}
		l.mu.Unlock()
		l.counters.dropped.Add(1)
		return
	}
	l.put(&e)
	n := l.buffered
	l.mu.Unlock()
	l.counters.recorded.Add(1)
	if n == 1 || n == eager {
		l.nudge()
	}
}

func (l *Ledger) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// hasRoom also has a chunk at hand that the next record fits in. l.mu is held.
func (l *Ledger) hasRoom() bool {
	if l.buffered >= l.opts.bufferEvents {
		return false
	}
	if n := len(l.buffer); n > 0 && cap(l.buffer[n-1])-len(l.buffer[n-1]) >= recordRoom {
		return true
	}
	if len(l.buffer) >= bufferChunks {
		return false
	}
	if n := len(l.spare); n > 0 {
		l.buffer, l.spare = append(l.buffer, l.spare[n-1]), l.spare[:n-1]
		return true
	}
	l.buffer = append(l.buffer, make([]byte, 0, chunkSize))
	return true
}

func (l *Ledger) put(e *Event) {
	n := len(l.buffer) - 1
	l.buffer[n] = appendRecord(l.buffer[n], e)
	l.buffered++
}

// take empties the buffer. What was lost since the last time is the first event of what comes next.
func (l *Ledger) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.buffer
	l.buffer, l.buffered = nil, 0
	if l.lost > 0 {
		l.hasRoom()
		l.put(&Event{Time: time.Now(), Kind: Dropped, Count: l.lost, Detail: cmp.Or(l.lostWhy, "they came faster than they could be written")})
		l.lost, l.lostWhy = 0, ""
		l.counters.recorded.Add(1)
	}
	return taken
}

// giveBack takes a chunk for the next use.
func (l *Ledger) giveBack(chunk []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spare) < spareChunks {
		l.spare = append(l.spare, chunk[:0])
	}
}

func (l *Ledger) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffered
}

func (l *Ledger) setFailing(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = why
}

var errClosed = errors.New("the ledger is closed")

// Flush has everything written that was recorded before. Whatever ends the process then, it is there; a crash of the machine may still
// take it, see Options.Sync.
func (l *Ledger) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case l.flushes <- done:
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	case <-l.stopped:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kept tells where the ledger is, and within what limits.
func (l *Ledger) Kept() (dir string, limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Dir, l.opts.Limits
}

// SetLimits has other limits from now on.
func (l *Ledger) SetLimits(limits Limits) {
	l.mu.Lock()
	l.opts.Limits = limits
	l.mu.Unlock()
	select {
	case l.limits <- limits:
	case <-l.stopped:
	}
}

// Close writes and syncs what was recorded, and lets go of the directory.
func (l *Ledger) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.stop)
		<-l.stopped
		l.closeIn = errors.Join(l.closeIn, l.lock.Close())
	})
	return l.closeIn
}

// Stats tells how the ledger does.
func (l *Ledger) Stats() Stats {
	s := l.shown.Load()
	c := &l.counters
	l.mu.Lock()
	buffered, failing := l.buffered, l.failing
	l.mu.Unlock()
	stats := Stats{
		Recorded: c.recorded.Load(), Dropped: c.dropped.Load(), Written: c.written.Load(), Writes: c.writes.Load(),
		WriteTime: time.Duration(c.spent.Load()), WriteErrors: c.errors.Load(), Failing: failing, Buffered: buffered,
	}
	stats.Segments, stats.Size = s.segments()
	stats.setRange(s.all())
	return stats
}

func (s *Stats) setRange(all span) {
	s.Events = all.count
	if all.count > 0 {
		s.Oldest, s.Newest = fromMicros(all.min), fromMicros(all.max)
	}
}
