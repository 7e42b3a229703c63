package main

import (
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/dns"
)

// newDNS makes the server that answers for the names of this host's endpoints.
func (r *rooms) newDNS() *dns.Server {
	s := dns.NewServer(dns.Options{Settings: dnsSettings(r.cfg), Names: r.names, Ready: r.agent.Restored(), Log: r.log.With("room", "dns")})
	s.SetBlocks(r.blocks.Own())
	return s
}

// dnsSettings are what of the configuration is about DNS.
func dnsSettings(cfg *config.Config) dns.Settings {
	d := cfg.DNS
	return dns.Settings{
		Enabled: d.Enabled, Host: cfg.Host, Zone: d.Zone, Fabric: cfg.Fabric, Forward: d.Forward, Upstreams: d.Upstreams, Listen: d.Listen,
		Timeout: d.Timeout, Cache: d.Cache, Rate: d.Rate,
	}
}
