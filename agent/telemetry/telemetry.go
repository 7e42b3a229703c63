// Package telemetry serves the agent's metrics and health over HTTP. Every metric is of the host, a room or a peer:
// none grows with containers.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/bgp"
)

// Source is what the metrics are read from at each scrape.
type Source interface {
	Status(ctx context.Context) agent.Status
	Blocks(ctx context.Context) []agent.Block
	Counters() agent.Counters
	Sandboxes() sandbox.Status
}

// retryListen is how often a listener that could not be opened is tried again.
const retryListen = 5 * time.Second

// Run answers /metrics and /healthz at an address until ctx ends. One that is taken is tried again: containers do not
// wait for metrics.
func Run(ctx context.Context, network, address string, src Source, log *slog.Logger) error {
	tick := time.NewTicker(retryListen)
	defer tick.Stop()
	for {
		l, err := listen(network, address)
		if err == nil {
			return serve(ctx, l, src, log)
		}
		log.Error("no metrics, will be retried", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listen opens the listener. A unix socket left by a dead agent is replaced.
func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("metrics.listen: %w", err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	return l, nil
}

func serve(ctx context.Context, l net.Listener, src Source, log *slog.Logger) error {
	s := &http.Server{Handler: Handler(src), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	return nil
}

// Handler answers /metrics in the Prometheus text format, and /healthz with 200 or with 503 and what is wrong.
func Handler(src Source) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(&collector{src: src}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if problems := src.Status(r.Context()).Problems; len(problems) > 0 {
			http.Error(w, strings.Join(problems, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

type collector struct{ src Source }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hostfabric_"+name, help, labels, nil)
}

var (
	endpointsDesc   = desc("endpoints", "Attached container interfaces.")
	operationsDesc  = desc("operations_total", "Attaches and detaches by result.", "verb", "result")
	reconcileDesc   = desc("reconcile_seconds", "That the last comparison of all leases with the links took; 0 before the first.")
	leasedDesc      = desc("block_addresses_leased", "Addresses of the block in use.", "block")
	quarantinedDesc = desc("block_addresses_quarantined", "Released addresses of the block that wait for reuse.", "block")
	freeDesc        = desc("block_addresses_free", "Addresses of the block that can be leased.", "block")
	peerUpDesc      = desc("peer_established", "1 while the BGP session is established.", "peer", "asn")
	peerPrefixDesc  = desc("peer_prefixes", "Prefixes on the session by direction.", "peer", "direction")
	peerUpdateDesc  = desc("peer_updates_total", "BGP UPDATE messages on the session by direction.", "peer", "direction")
	announcedDesc   = desc("announced_prefixes", "Prefixes announced to the fabric.")
	routesDesc      = desc("routes", "Routes by state.", "state")
	refusedDesc     = desc("bgp_refused_prefixes", "Prefixes that the peer announces and that are kept out.", "peer", "family", "reason")
	ownSpaceDesc    = desc("bgp_own_space_alarm", "1 while the peer announces addresses of this host: somebody else uses them.", "peer")
	crashesDesc     = desc("speaker_crashes_total", "Speaker processes that ended with a panic or a fatal error.")
	speakerDesc     = desc("speaker_connected", "1 while the speaker process is connected.")
	announcingDesc  = desc("announcing", "1 while the blocks are announced; 0 while the host is unwell or drained, which the status command explains.")
	sandboxesDesc   = desc("sandboxes", "Sandboxes by state.", "state")
	acquiredDesc    = desc("sandbox_acquisitions_total", "Sandboxes that were asked for: ready ones (warm), made on the spot (cold), refused (error).", "result")
	drainedDesc     = desc("drained", "1 while the host is drained, or on the way there or back.")
	spoofedDesc     = desc("spoofed_packets_total", "Packets dropped because their source was not an address of the container that sent them.", "family")
	closedDesc      = desc("closed_port_packets_total", "Packets of containers to ports of the agent, dropped.")
	problemsDesc    = desc("problems", "Things that are wrong; the status command tells them.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsDesc, operationsDesc, reconcileDesc, leasedDesc, quarantinedDesc, freeDesc, peerUpDesc, peerPrefixDesc,
		peerUpdateDesc, refusedDesc, ownSpaceDesc, announcedDesc, routesDesc, speakerDesc, crashesDesc, announcingDesc, drainedDesc, spoofedDesc, closedDesc, problemsDesc,
		sandboxesDesc, acquiredDesc} {
		ch <- d
	}
}

// scrapeTimeout bounds what a scrape asks of the speaker.
const scrapeTimeout = 5 * time.Second

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.src.Status(ctx)
	gauge(endpointsDesc, float64(s.Endpoints))
	gauge(announcedDesc, float64(len(s.Announced)))
	gauge(routesDesc, float64(s.RoutesInstalled), "installed")
	gauge(routesDesc, float64(s.RoutesFailed), "failed")
	gauge(routesDesc, float64(s.RoutesRefused), "refused")
	gauge(speakerDesc, boolean(s.Speaker.Connected))
	gauge(announcingDesc, boolean(s.Announcing))
	gauge(drainedDesc, boolean(s.Drain.Stage != agent.Serving))
	gauge(problemsDesc, float64(len(s.Problems)))
	counter(crashesDesc, s.Speaker.Crashes)
	counter(spoofedDesc, s.Dropped.SpoofedIPv4, "ipv4")
	counter(spoofedDesc, s.Dropped.SpoofedIPv6, "ipv6")
	counter(closedDesc, s.Dropped.Closed)
	n := c.src.Counters()
	attached, attachFailed := n.Attached()
	detached, detachFailed := n.Detached()
	counter(operationsDesc, attached, "attach", "ok")
	counter(operationsDesc, attachFailed, "attach", "error")
	counter(operationsDesc, detached, "detach", "ok")
	counter(operationsDesc, detachFailed, "detach", "error")
	gauge(reconcileDesc, n.Reconcile.Seconds())
	sandboxes := c.src.Sandboxes()
	gauge(sandboxesDesc, float64(sandboxes.Ready), "ready")
	gauge(sandboxesDesc, float64(sandboxes.Acquired), "acquired")
	counter(acquiredDesc, sandboxes.Warm, "warm")
	counter(acquiredDesc, sandboxes.Cold, "cold")
	counter(acquiredDesc, sandboxes.Failed, "error")
	for _, b := range c.src.Blocks(ctx) {
		free, _ := b.Free.Float64()
		gauge(leasedDesc, float64(b.Leased), b.Block.Prefix.String())
		gauge(quarantinedDesc, float64(b.Quarantined), b.Block.Prefix.String())
		gauge(freeDesc, free, b.Block.Prefix.String())
	}
	for _, p := range s.Peers {
		peer := p.Address.String()
		gauge(peerUpDesc, boolean(p.State == bgp.StateEstablished), peer, fmt.Sprint(p.ASN))
		counter(peerUpdateDesc, p.Received.Update, peer, "received")
		counter(peerUpdateDesc, p.Sent.Update, peer, "sent")
		var received, advertised, own uint64
		for _, f := range p.Families {
			received += f.Received
			advertised += f.Advertised
			own += f.Refused.OwnSpace
			for reason, n := range f.RefusedBy() {
				gauge(refusedDesc, float64(n), peer, f.Family.String(), string(reason))
			}
		}
		gauge(ownSpaceDesc, boolean(own > 0), peer)
		gauge(peerPrefixDesc, float64(received), peer, "received")
		gauge(peerPrefixDesc, float64(advertised), peer, "advertised")
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
