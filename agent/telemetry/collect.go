package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/dns"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/agent/telemetry/otlp"
	"github.com/hostfabric/hostfabric/routes"
)

// Agent is what the metrics need of the agent; agent.Agent is the real one.
type Agent interface {
	Status(ctx context.Context) agent.Status
	Ready(ctx context.Context) error
	Counters() agent.Counters
	CountEndpoints() map[string]int
	Views() []blocks.View
}

// Sources are what the metrics are read from at each scrape. What is nil is not there, and neither are its metrics.
type Sources struct {
	Agent     Agent // never nil
	Sandboxes func() sandbox.Status
	Routes    func() routes.Stats
	Failovers func() uint64
	DNS       func() dns.Stats
	Ledger    func() history.Stats
	OTLP      func() otlp.Stats
}

// collector reads the sources anew for each scrape: nothing is counted twice, and nothing is kept.
type collector struct{ Sources }

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range catalog {
		ch <- f.desc
	}
}

// scrapeTimeout bounds what a scrape asks of the speaker.
const scrapeTimeout = 5 * time.Second

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	e := emitter(ch)
	s := c.Agent.Status(ctx)
	e.host(&s)
	e.is(readyFamily, c.Agent.Ready(ctx) == nil)
	e.containers(c.Agent)
	e.pools(c.Agent.Views())
	e.announcements(&s)
	e.peers(s.Peers)
	e.paths(&s)
	if c.Sandboxes != nil {
		e.sandboxes(c.Sandboxes())
	}
	if c.Routes != nil {
		e.routes(c.Routes())
	}
	if c.Failovers != nil {
		e.set(failoversFamily, float64(c.Failovers()))
	}
	if c.DNS != nil {
		e.dns(c.DNS())
	}
	if c.Ledger != nil {
		e.ledger(c.Ledger())
	}
	if c.OTLP != nil {
		e.otlp(c.OTLP())
	}
}
