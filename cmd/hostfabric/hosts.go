package main

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/hosts"
	"github.com/hostfabric/hostfabric/bgp"
)

// newHosts is the directory of other hosts. What the fabric announces, and what becomes of the speaker, is told to it by others.
func newHosts(cfg *config.Config, source *blockSource) *hosts.Directory {
	d := hosts.New(hosts.Options{Claims: source.roster != nil})
	listHosts(d, cfg)
	return d
}

// listHosts has the directory know the hosts of a configuration.
func listHosts(d *hosts.Directory, cfg *config.Config) {
	var list []hosts.Listed
	for _, h := range cfg.DNS.Hosts {
		list = append(list, hosts.Listed{Name: h.Name, Servers: h.Addresses, Blocks: h.Blocks})
	}
	d.SetListed(list)
}

// runHosts keeps the directory up with the claims of the fabric, and the fabric with this host's own addresses.
func (r *rooms) runHosts(ctx context.Context, g *errgroup.Group) {
	if r.source.roster != nil {
		g.Go(func() error { return r.source.roster.Follow(ctx, r.hosts.SetClaims) })
	}
}

// mark tells the fabric whose a prefix is that this host announces, and where it answers.
func (r *rooms) mark(prefix netip.Prefix, own []netip.Addr) []bgp.LargeCommunity {
	cfg := r.running.Load()
	if !cfg.DNS.Enabled {
		return nil
	}
	return hosts.Marks(cfg.DNS.Community, cfg.Host, prefix, own)
}

// tellHosts tells the other hosts of this one's own addresses where it claims its blocks. Whoever tells later tells what is later.
func (r *rooms) tellHosts() {
	if r.source.roster == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	own := r.learner.HostAddresses()
	if !r.running.Load().DNS.Enabled {
		own = nil
	}
	r.source.roster.SetAddresses(own)
}
