package names_test

import (
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/resolve"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestAcrossRacks: a container of one rack has its name found in the other, by hosts and by containers, through routers that know
// nothing of it.
func TestAcrossRacks(t *testing.T) {
	for name, shape := range map[string]fabric.Shape{
		"FRR, IPv4 alone":              {Name: "nma", Tor: tor.FRR},
		"BIRD, dual stack, unnumbered": {Name: "nmb", Tor: tor.BIRD, IPv6: true, Unnumbered: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shape.Racks, shape.Hosts = 2, 1
			r := newRig(t, shape)
			addrs := r.attach(t, "r1h1", 0, "Web.Shop")
			r.attach(t, "r2h1", 0, "db")
			near := r.host(t, "r2h1")
			web, ipv4, ipv6 := fqdn("web.shop", "r1h1"), addrs[0], "NOERROR"
			server := r.own(t, "r2h1", false)
			askers := map[string]*resolve.Client{
				"host":      asker(t, near.NS, server),
				"container": asker(t, near.Containers[0].NS, server),
			}
			if shape.IPv6 {
				ipv6 += " " + addrs[1]
				askers["container by IPv6"] = asker(t, near.Containers[0].NS, r.own(t, "r2h1", true))
			}
			settles(t, askers["host"], web, "A", "NOERROR "+ipv4)
			settles(t, askers["host"], fqdn("web.shop", "r9h9"), "A", "NXDOMAIN") // all routes are known
			for who, c := range askers {
				t.Log(who)
				want(t, c, web, "A", "NOERROR "+ipv4, prompt)
				want(t, c, strings.ToUpper(web), "AAAA", ipv6, prompt)
				for _, a := range addrs {
					want(t, c, a, "PTR", "NOERROR "+web+".", prompt)
				}
				want(t, c, fqdn("db", "r1h1"), "A", "NXDOMAIN", prompt)
				want(t, c, fqdn("db", "r2h1"), "PTR", "NOERROR", prompt) // its own
				want(t, c, fqdn("web.shop", "r9h9"), "A", "NXDOMAIN", prompt)
				want(t, c, "10.65.1.1", "PTR", "NXDOMAIN", prompt) // in the container space, and nobody's
			}
			answer, err := askers["host"].Ask(fqdn("none", "r1h1"), "A")
			if err != nil || !answer.Negated {
				t.Errorf("%+v, %v: nobody says for how long it is so", answer, err)
			}
			if answer, err = askers["host"].Ask(web, "A"); err != nil || len(answer.TTLs) != 1 || answer.TTLs[0] != 0 {
				t.Errorf("%+v, %v: want a TTL of 0", answer, err)
			}
			r.detach(t, "r1h1", 0)
			for _, c := range askers {
				want(t, c, web, "A", "NXDOMAIN", prompt)
				for _, a := range addrs {
					want(t, c, a, "PTR", "NXDOMAIN", prompt)
				}
			}
		})
	}
}
