package main

import (
	"slices"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/agent/sysctl"
)

// BFD's ports: control (RFC 5881) and echo.
const bfdControl, bfdEcho = 3784, 3785

// firewallPolicy is what of the configuration is about confining containers. Closed to them are the ports that this host's
// processes of ours listen on, but DNS's, which is there for them, and no other: what else the host serves is its administrator's to decide. The loopback's are
// among them, for some hosts route it (route_localnet).
func firewallPolicy(cfg *config.Config) firewall.Policy {
	p := firewall.Policy{Enabled: cfg.Firewall.Enabled, Masquerade: cfg.Masquerade.Enabled}
	if p.Masquerade {
		p.Except = slices.Concat(cfg.Masquerade.Except, cfg.Fabric)
	}
	closeTo := func(protocol firewall.Protocol, ports ...uint16) {
		for _, port := range ports {
			if !slices.Contains(cfg.Firewall.Open, port) {
				p.Closed = append(p.Closed, firewall.Port{Protocol: protocol, Number: port})
			}
		}
	}
	if cfg.BGP.Listen {
		closeTo(firewall.TCP, uint16(cfg.BGP.Port))
	}
	if slices.ContainsFunc(cfg.Peers, func(peer config.Peer) bool { return peer.BFD.Enabled }) {
		closeTo(firewall.UDP, bfdControl, bfdEcho)
	}
	for _, l := range []config.Listener{cfg.BGP.Inspect, cfg.Metrics.Listen} {
		if l.Network == "tcp" {
			closeTo(firewall.TCP, l.Port())
		}
	}
	return p
}

// linkProblems are what is wrong on the links to the peers.
func (r *rooms) linkProblems() []string {
	problems := r.routers.Problems()
	if ipv4, _ := r.running.Load().Families(); ipv4 {
		problems = append(problems, sysctl.StrictReversePath(r.uplinks.Found().Names)...)
	}
	return problems
}
