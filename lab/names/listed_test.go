package names_test

import (
	"fmt"
	"testing"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestListedHosts: where the ToRs tell the hosts of a default route alone, a list of hosts serves.
func TestListedHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t, fabric.Shape{Name: "nml", Tor: tor.BIRD, Racks: 1, Hosts: 2, IPv6: true, DefaultOnly: true})
	addrs := r.attach(t, "r1h1", 0, "web")
	c := asker(t, r.host(t, "r1h2").NS, r.own(t, "r1h2", false))
	web := fqdn("web", "r1h1")
	settles(t, c, web, "A", "NXDOMAIN") // the fabric has said all that it says
	listed := r.host(t, "r1h1")
	r.configure(t, "r1h2", fmt.Sprintf("dns: {hosts: [{name: r1h1, addresses: [%q, %q], blocks: [%q, %q]}]}\n",
		listed.Blocks[0].Addr(), listed.Blocks[1].Addr(), listed.Blocks[0], listed.Blocks[1]))
	settles(t, c, web, "A", "NOERROR "+addrs[0]) // by a default route that may come a moment later
	want(t, c, web, "AAAA", "NOERROR "+addrs[1], prompt)
	for _, a := range addrs {
		want(t, c, a, "PTR", "NOERROR "+web+".", prompt)
	}
	want(t, c, fqdn("db", "r1h1"), "A", "NXDOMAIN", prompt)
	want(t, c, fqdn("web", "r1h3"), "A", "NXDOMAIN", prompt)
	r.detach(t, "r1h1", 0)
	want(t, c, web, "A", "NXDOMAIN", prompt)
}
