package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
)

const ledgerHost = "200 containers of 5 s life, 4 events each, IPv4 and IPv6, names and labels used again"

// openLedger opens a ledger that keeps everything and flushes as the agent's does.
func openLedger(dir string) (*history.Ledger, error) {
	return history.Open(history.Options{
		Dir: dir, Host: "bench", Limits: history.Limits{MaxSize: 1 << 40, MaxAge: 1 << 60}, Log: slog.New(slog.DiscardHandler),
	})
}

// recordAtATime is how many events are recorded between flushes: the buffer of a ledger has room for them, and nothing is dropped.
const recordAtATime = 16 << 10

// ledgerIngest counts the events a second that one core records and writes, beside the same events as compressed JSON lines.
func ledgerIngest(ctx context.Context, o Options) (_ []Result, err error) {
	dir, err := os.MkdirTemp("", "hfbench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := openLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	lines, err := newJSONLines(filepath.Join(dir, "lines.zst"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lines.file.Close()) }()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	host := historytest.New(historytest.Options{Seed: 1})
	var ours, theirs, record []float64 // events a second; nanoseconds each
	events := make([]history.Event, recordAtATime)
	for i := range o.LedgerRounds {
		for k := range events {
			events[k] = host.Next()
		}
		began := time.Now()
		for k := range events {
			l.Record(events[k])
		}
		record = append(record, float64(time.Since(began).Nanoseconds())/recordAtATime)
		if err := l.Flush(ctx); err != nil {
			return nil, err
		}
		ours = append(ours, recordAtATime/time.Since(began).Seconds())
		began = time.Now()
		if err := lines.write(events); err != nil {
			return nil, err
		}
		theirs = append(theirs, recordAtATime/time.Since(began).Seconds())
		o.step("rounds of recorded events")(i+1, o.LedgerRounds)
	}
	if s := l.Stats(); s.Dropped > 0 {
		return nil, fmt.Errorf("%d events were dropped", s.Dropped)
	}
	where, err := machine(dir)
	if err != nil {
		return nil, err
	}
	conditions := fmt.Sprintf("recorded, compressed, indexed and written with write(2), no fsync; GOMAXPROCS 1; median of %d interleaved rounds of %d; %s; %s",
		o.LedgerRounds, recordAtATime, ledgerHost, where)
	call := Result{
		Name: "ledger.ingest.record", Unit: "ns", Value: quantile(record, 0.5), Target: "<= 2,000",
		Conditions: "what Record costs its caller, each; " + conditions,
	}
	return []Result{
		Result{Name: "ledger.ingest", Unit: "events/s", Value: quantile(ours, 0.5), Target: ">= 200,000", Conditions: conditions}.
			against("JSON lines through zstd -3", quantile(theirs, 0.5)),
		call,
	}, nil
}

// jsonLines is what one would write without a ledger: JSON lines, compressed as they come.
type jsonLines struct {
	file   *os.File
	zip    *zstd.Encoder
	buffer *bufio.Writer
	encode *json.Encoder
}

func newJSONLines(path string) (*jsonLines, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	zip, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1)) // zstd's own level 3
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	buffer := bufio.NewWriterSize(zip, 1<<16)
	return &jsonLines{file: f, zip: zip, buffer: buffer, encode: json.NewEncoder(buffer)}, nil
}

// line is an event as JSON, without what it has not.
type line struct {
	Time      time.Time         `json:"time"`
	Kind      history.Kind      `json:"kind"`
	Container string            `json:"container,omitempty"`
	Interface string            `json:"interface,omitempty"`
	Owner     string            `json:"owner,omitempty"`
	Addresses []netip.Addr      `json:"addresses,omitempty"`
	Pool      string            `json:"pool,omitempty"`
	Name      string            `json:"name,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Duration  int64             `json:"duration_us,omitempty"`
}

func (j *jsonLines) write(events []history.Event) error {
	for _, e := range events {
		if err := j.encode.Encode(line{
			e.Time.Truncate(time.Microsecond), e.Kind, e.Container, e.Interface, e.Owner, e.Addresses, e.Pool, e.Name, e.Labels, e.Duration.Microseconds(),
		}); err != nil {
			return err
		}
	}
	return j.flush()
}

func (j *jsonLines) flush() error { return errors.Join(j.buffer.Flush(), j.zip.Flush()) }

// ledgerSize is how many bytes an event takes at rest, index and all, beside the same events as compressed JSON lines.
func ledgerSize(ctx context.Context, o Options) ([]Result, error) {
	again, err := ledgerSizeOf(ctx, o, "ledger.size", false, ledgerHost)
	if err != nil {
		return nil, err
	}
	pods, err := ledgerSizeOf(ctx, o, "ledger.size.pods", true,
		"200 pods of 5 s life, 4 events each, IPv4 and IPv6; of each pod its ID, its UID and the end of its name are random")
	return []Result{again, pods}, err
}

func ledgerSizeOf(ctx context.Context, o Options, name string, pods bool, what string) (_ Result, err error) {
	dir, err := os.MkdirTemp("", "hfbench-")
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "ledger")
	lines, err := newJSONLines(filepath.Join(dir, "lines.zst"))
	if err != nil {
		return Result{}, err
	}
	n := o.LedgerEvents / 10
	err = fillLedger(ctx, path, n, pods, lines.write, o.step("events of "+name))
	if err = errors.Join(err, lines.zip.Close(), lines.file.Close()); err != nil {
		return Result{}, err
	}
	ours, err := diskUse(path)
	if err != nil {
		return Result{}, err
	}
	theirs, err := diskUse(filepath.Join(dir, "lines.zst"))
	if err != nil {
		return Result{}, err
	}
	return Result{
		Name: name, Unit: "bytes/event", Value: float64(ours) / float64(n), Target: "<= 20",
		Conditions: fmt.Sprintf("%d events, all files of the closed ledger; %s", n, what),
	}.against("JSON lines through zstd -3, no index", float64(theirs)/float64(n)), nil
}

// fillLedger records n events and tells also of each batch of them; nil: nobody.
func fillLedger(ctx context.Context, dir string, n int, pods bool, also func([]history.Event) error, step func(done, of int)) (err error) {
	l, err := openLedger(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	host := historytest.New(historytest.Options{Seed: 1, Pods: pods})
	batch := make([]history.Event, 0, recordAtATime)
	for done := 0; done < n; done += len(batch) {
		batch = batch[:min(recordAtATime, n-done)]
		for i := range batch {
			batch[i] = host.Next()
		}
		if err := l.Flush(ctx); err != nil { // the last one, meanwhile
			return err
		}
		for i := range batch {
			l.Record(batch[i])
		}
		if also != nil {
			if err := also(batch); err != nil {
				return err
			}
		}
		step(done+len(batch), n)
	}
	if err := l.Flush(ctx); err != nil {
		return err
	}
	if s := l.Stats(); s.Dropped > 0 {
		return fmt.Errorf("%d events were dropped", s.Dropped)
	}
	return nil
}

// diskUse is the size of a file, or of all files in a directory.
func diskUse(path string) (int64, error) {
	total := int64(0)
	err := filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return err
	})
	return total, err
}

const ledgerQueries = 400

// ledgerQuery asks who had an address at a time, of all times there are, beside looking at every event.
func ledgerQuery(ctx context.Context, o Options) (_ []Result, err error) {
	dir, err := os.MkdirTemp("", "hfbench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := fillLedger(ctx, dir, o.LedgerEvents, false, nil, o.step("events recorded")); err != nil {
		return nil, err
	}
	l, err := openLedger(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	stats := l.Stats()
	first, last := stats.Oldest, stats.Newest
	rng := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 64, 0, byte(1 + rng.IntN(254))}) }
	var took []float64
	answered := 0
	for range ledgerQueries {
		at := first.Add(time.Duration(rng.Int64N(int64(last.Sub(first)))))
		began := time.Now()
		found, err := l.At(ctx, at, history.Filter{Address: address()})
		if err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began)))
		answered += len(found)
	}
	began := time.Now()
	seen := 0
	if err := l.Events(ctx, history.Filter{Address: address(), Kinds: []history.Kind{history.Attach}}, func(history.Entry) bool { seen++; return true }); err != nil {
		return nil, err
	}
	scan := milliseconds(time.Since(began))
	where, err := machine(dir)
	if err != nil {
		return nil, err
	}
	p99 := quantile(took, 0.99)
	return []Result{Result{
		Name: "ledger.query", Unit: "ms", Value: quantile(took, 0.5), P99: &p99, Target: "<= 10",
		Conditions: fmt.Sprintf("who had one of 254 addresses at a time, both random, p50 of %d, of which %d had somebody; %d events over %s, %d MB, in the page cache; %s; %s",
			ledgerQueries, answered, o.LedgerEvents, last.Sub(first).Round(time.Minute), stats.Size>>20, ledgerHost, where),
	}.against("every block looked at", scan)}, nil
}
