package agent

import "net/netip"

// DNSStatus is what answers for the names of this host's endpoints.
type DNSStatus struct {
	Enabled   bool
	Origin    string // what the names are below, with the last dot
	Listeners []netip.AddrPort
	Names     int // endpoints that have some
	Forwards  bool
	Upstreams []netip.AddrPort // asked for what is not of the fabric
	Problems  []string
}

// DNS is the state of the DNS server.
func (a *Agent) DNS() DNSStatus {
	if a.opts.DNS == nil {
		return DNSStatus{}
	}
	return a.opts.DNS()
}
