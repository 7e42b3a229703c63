package main

import (
	"net/netip"
	"strings"

	"github.com/hostfabric/hostfabric/agent/config"
)

// containerDomain is where this host's containers have names; empty where nobody answers for them.
func containerDomain(cfg *config.Config) string {
	if !cfg.DNS.Enabled {
		return ""
	}
	return strings.ToLower(cfg.Host) + "." + cfg.DNS.Zone
}

// tellOfServers has containers told to ask at these addresses of the host.
func (r *rooms) tellOfServers(host []netip.Addr) { r.warnUnwritten(r.notice.SetServers(host)) }

// tellOfZone has containers told where their names are.
func (r *rooms) tellOfZone(cfg *config.Config) {
	r.warnUnwritten(r.notice.SetZone(containerDomain(cfg), cfg.DNS.Zone))
}

// warnUnwritten says that the file was not written. It costs its containers no more than that, and those whose runtime writes one nothing.
func (r *rooms) warnUnwritten(err error) {
	if err != nil {
		r.log.Error("containers are not told of the resolver", "err", err)
	}
}
