// Package otlp sends events to an OpenTelemetry receiver, as log records, besides keeping them in the ledger. Who records waits for
// nothing: what does not fit a bounded queue is dropped, and counted.
package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/hostfabric/hostfabric/agent/history"
)

// Options say where events go, and whose they are.
type Options struct {
	GRPC    bool        // else HTTP
	Address string      // host:port
	Path    string      // of HTTP
	TLS     *tls.Config // nil: none
	Headers map[string]string
	Host    string
	Version string
	Log     *slog.Logger

	// What follows has its default where it is 0.
	Queue    int           // events that wait: 4096
	Batch    int           // events in one request: 512
	Interval time.Duration // for which a batch waits to be full: 1 s
	Timeout  time.Duration // of one request: 10 s
	Patience time.Duration // for which a batch is tried again: 1 min
}

// How soon a batch is tried again that was not taken; the wait doubles.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// lastWords is how long an exporter that ends has to be rid of what it has. A request that is under way is not broken off, or what the
// receiver has taken by then would be sent once more by nobody, and counted as lost.
const lastWords = 2 * time.Second

// Stats are an exporter's counts since it was made.
type Stats struct {
	Exported uint64 // events that the receiver has taken
	Overflow uint64 // dropped, because the queue was full
	Refused  uint64 // dropped, because the receiver does not want them
	Expired  uint64 // dropped, because the receiver could not be reached for too long
	Errors   uint64 // requests that failed
	Queued   int
}

// Exporter is safe for concurrent use.
type Exporter struct {
	opts     Options
	queue    chan history.Event
	exporter sdk.Exporter
	taken    func(err error) verdict // of the last request
	idle     func()                  // lets go of connections that are not used
	records  collector
	logger   log.Logger
	provider *sdk.LoggerProvider

	exported, overflow, refused, expired, failed atomic.Uint64

	failing bool // Run's own: the last request failed
}

// New makes an exporter; nothing is sent before Run.
func New(o Options) (*Exporter, error) {
	defaults(&o)
	e := &Exporter{opts: o, queue: make(chan history.Event, o.Queue)}
	open := e.overHTTP
	if o.GRPC {
		open = e.overGRPC
	}
	if err := open(); err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	e.provider = sdk.NewLoggerProvider(sdk.WithProcessor(&e.records), sdk.WithResource(resource.NewSchemaless(
		attribute.String("service.name", "hostfabric"), attribute.String("service.version", o.Version), attribute.String("host.name", o.Host),
	)))
	e.logger = e.provider.Logger("github.com/hostfabric/hostfabric/agent/telemetry/otlp", log.WithInstrumentationVersion(o.Version))
	return e, nil
}

func defaults(o *Options) {
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{{&o.Interval, time.Second}, {&o.Timeout, 10 * time.Second}, {&o.Patience, time.Minute}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if o.Queue == 0 {
		o.Queue = 4096
	}
	if o.Batch == 0 {
		o.Batch = 512
	}
}

// Record takes an event to be sent.
func (e *Exporter) Record(ev history.Event) {
	select {
	case e.queue <- ev:
	default:
		e.overflow.Add(1)
	}
}

// Stats tells how it does.
func (e *Exporter) Stats() Stats {
	return Stats{
		Exported: e.exported.Load(), Overflow: e.overflow.Load(), Refused: e.refused.Load(), Expired: e.expired.Load(), Errors: e.failed.Load(),
		Queued: len(e.queue),
	}
}

// Run sends what is recorded until ctx ends, and then what there still is, if the receiver takes it at once. It runs once.
func (e *Exporter) Run(ctx context.Context) error {
	defer e.close()
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
	for {
		batch := e.collect(ctx)
		if ctx.Err() != nil {
			e.last(ctx, requests, batch)
			return nil
		}
		e.send(ctx, requests, batch)
	}
}

// collect waits for a batch: until it is full, or has waited for long enough.
func (e *Exporter) collect(ctx context.Context) []history.Event {
	var batch []history.Event
	var full <-chan time.Time
	for len(batch) < e.opts.Batch {
		select {
		case ev := <-e.queue:
			if len(batch) == 0 {
				full = time.After(e.opts.Interval)
			}
			batch = append(batch, ev)
		case <-full:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// last sends what is left, beginning with batch.
func (e *Exporter) last(ctx, requests context.Context, batch []history.Event) {
	for {
		for len(batch) < e.opts.Batch && len(e.queue) > 0 {
			batch = append(batch, <-e.queue)
		}
		if len(batch) == 0 {
			return
		}
		e.send(ctx, requests, batch)
		batch = nil
	}
}

// send has the receiver take a batch. If it cannot, that is tried again for a while, or until ctx ends; requests last as long as theirs.
func (e *Exporter) send(ctx, requests context.Context, batch []history.Event) {
	n := uint64(len(batch))
	records := e.convert(batch)
	began, wait := time.Now(), minRetry
	for {
		limited, cancel := context.WithTimeout(requests, e.opts.Timeout)
		err := e.exporter.Export(limited, records)
		cancel()
		e.heard(err)
		v := e.taken(err)
		switch {
		case err == nil:
			e.exported.Add(n)
			return
		case !v.again:
			lost := min(v.rejected, n)
			e.refused.Add(lost)
			e.exported.Add(n - lost)
			return
		case ctx.Err() != nil, time.Since(began)+wait > e.opts.Patience:
			e.expired.Add(n)
			return
		}
		select {
		case <-ctx.Done(): // once more, and that is it
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetry)
	}
}

// heard counts failures, and logs when they begin and end.
func (e *Exporter) heard(err error) {
	if err != nil {
		e.failed.Add(1)
	}
	switch was := e.failing; {
	case err != nil && !was:
		e.opts.Log.Warn("events are not taken by the OTLP receiver, which is tried again", "receiver", e.opts.Address, "err", err)
	case err == nil && was:
		e.opts.Log.Info("events are taken by the OTLP receiver again", "receiver", e.opts.Address)
	}
	e.failing = err != nil
}

func (e *Exporter) close() {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	if err := errors.Join(e.exporter.Shutdown(ctx), e.provider.Shutdown(ctx)); err != nil {
		e.opts.Log.Debug("OTLP not closed cleanly", "err", err)
	}
	if e.idle != nil {
		e.idle()
	}
}

// verdict is what is to become of a batch that was not taken as it is.
type verdict struct {
	again    bool
	rejected uint64 // events that are lost, if it is not sent again
}

// collector is a log.Processor that keeps the records of one batch, since only a provider can make them whole.
type collector struct {
	mu      sync.Mutex
	records []sdk.Record
}

// Enabled implements log.Processor.
func (*collector) Enabled(context.Context, sdk.EnabledParameters) bool { return true }

// OnEmit implements log.Processor.
func (c *collector) OnEmit(_ context.Context, r *sdk.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, r.Clone())
	return nil
}

// Shutdown implements log.Processor.
func (*collector) Shutdown(context.Context) error { return nil }

// ForceFlush implements log.Processor.
func (*collector) ForceFlush(context.Context) error { return nil }

func (c *collector) take() []sdk.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	records := c.records
	c.records = nil
	return records
}
