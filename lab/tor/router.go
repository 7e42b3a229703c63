package tor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/server"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
	"golang.org/x/sync/errgroup"
)

// RunEmbedded is one process of an embedded router, in the namespace it is started in, until the context ends. The
// speaker's process must exit then.
func RunEmbedded(ctx context.Context, configFile string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)) // which the lab has made the process's log file
	raw, err := os.ReadFile(configFile)
	if err != nil {
		return fmt.Errorf("embedded router: %w", err)
	}
	var c embeddedConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("embedded router: %s: %w", configFile, err)
	}
	switch c.Role {
	case roleSpeaker:
		return server.Run(ctx, server.Options{Socket: speakerSocket(c.Node), Log: log})
	case roleRouter:
		return newRouter(c.Node, log).run(ctx)
	}
	return fmt.Errorf("embedded router: %s: role %q is not known", configFile, c.Role)
}

// routerMetric is that of learned routes.
const routerMetric = 20

// router carries what the speaker learns into the kernel, and tells what it knows on the status socket.
type router struct {
	node    Node
	log     *slog.Logger
	speaker *bgp.Speaker
	table   *routes.Table

	mu      sync.Mutex
	learned map[netip.Prefix]struct{}
}

func newRouter(n Node, log *slog.Logger) *router {
	r := &router{node: n, log: log, learned: map[netip.Prefix]struct{}{}}
	r.speaker = bgp.New(bgp.Options{Socket: speakerSocket(n), Log: log, Events: bgp.Events{
		Routes: r.update,
		Synced: func() { r.table.Synced(routes.Fabric) },
	}})
	return r
}

func (r *router) run(ctx context.Context) error {
	fib, err := kernel.New(kernel.Options{Log: r.log})
	if err != nil {
		return fmt.Errorf("router %s: %w", r.node.Name, err)
	}
	r.table = routes.NewTable(fib, routes.Options{Log: r.log})
	r.table.Synced(routes.Blocks) // a router has neither blocks nor endpoints
	r.table.Synced(routes.Endpoints)
	if err := r.speaker.Configure(ctx, r.config()); err != nil {
		return fmt.Errorf("router %s: %w", r.node.Name, err)
	}
	if err := r.speaker.Announce(ctx, r.announcements()); err != nil {
		return fmt.Errorf("router %s: %w", r.node.Name, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.table.Run(ctx) })
	g.Go(func() error { return r.speaker.Run(ctx) })
	g.Go(func() error { return r.serve(ctx) })
	return g.Wait()
}

func (r *router) config() bgp.Config {
	c := bgp.Config{ASN: r.node.ASN, RouterID: r.node.RouterID, Policy: bgp.TransitPolicy{}, Multipath: 64}
	// A router that was killed is gone: hosts must not hold on to its routes, while it holds on to theirs.
	c.GracefulRestart.HelperOnly = true
	families := []bgp.Family{bgp.IPv4}
	if r.node.IPv6 {
		families = append(families, bgp.IPv6)
	}
	for _, n := range r.node.Neighbors {
		c.Listen = c.Listen || n.Passive
		c.Peers = append(c.Peers, bgp.Peer{
			Address: n.Address, ASN: n.ASN, Description: n.Name, Passive: n.Passive, Families: families,
			LocalAddress: n.Local, NextHop6: n.Local6,
		})
	}
	return c
}

func (r *router) announcements() []bgp.Announcement {
	var all []bgp.Announcement
	for _, p := range r.node.Networks {
		all = append(all, bgp.Announcement{Prefix: p})
	}
	return all
}

func (r *router) update(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix) {
	add := make([]routes.Route, 0, len(upserts))
	for _, u := range upserts {
		route := routes.Route{Prefix: u.Prefix, Metric: routerMetric}
		for _, hop := range u.NextHops {
			route.NextHops = append(route.NextHops, routes.NextHop{Addr: hop})
		}
		add = append(add, route)
	}
	r.table.Update(routes.Fabric, add, withdrawn)

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range upserts {
		r.learned[u.Prefix] = struct{}{}
	}
	for _, p := range withdrawn {
		delete(r.learned, p)
	}
}

// serve answers on the status socket.
func (r *router) serve(ctx context.Context) error {
	path := statusSocket(r.node)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("router %s: status socket of an earlier run: %w", r.node.Name, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("router %s: status socket: %w", r.node.Name, err)
	}
	s := &http.Server{Handler: http.HandlerFunc(r.answer), ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("router %s: status socket: %w", r.node.Name, err)
	}
	return nil
}

func (r *router) answer(w http.ResponseWriter, req *http.Request) {
	s, err := r.status(req.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err := json.NewEncoder(w).Encode(s); err != nil {
		r.log.Warn("status not sent", "error", err)
	}
}

func (r *router) status(ctx context.Context) (embeddedStatus, error) {
	peers, err := r.speaker.Peers(ctx)
	if err != nil {
		return embeddedStatus{}, err
	}
	s := embeddedStatus{Total: len(peers)}
	for _, p := range peers {
		if p.State == bgp.StateEstablished {
			s.Established++
		}
		s.UpdatesReceived += p.Received.Update
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Prefixes = slices.Collect(maps.Keys(r.learned))
	return s, nil
}
