package dns

import (
	"net/netip"
	"testing"
)

// moving is a directory that knows better the second time.
type moving struct {
	nobody
	servers [][]netip.Addr // of one host, by how often was asked
}

func (d *moving) Host(string) ([]netip.Addr, error) {
	servers := d.servers[0]
	if len(d.servers) > 1 {
		d.servers = d.servers[1:]
	}
	return servers, nil
}

// TestRelayFollows: a host that moves to another address while it is asked is found there.
func TestRelayFollows(t *testing.T) {
	port := freePort(t)
	other := newOther(t, port, "127.0.0.2", nil)
	other.opts.Names.Publish(endpoint("db", "10.64.4.7", "db"))
	s := newServer(t, func(o *Options) {
		o.Directory, o.Port = &moving{servers: [][]netip.Addr{addrs("127.0.0.9"), addrs("127.0.0.2")}}, port
	})
	s.SetBlocks(prefixes("10.64.0.64/26"), addrs("127.0.0.64")) // its source address
	const want = "NOERROR | db.r2h1.fabric.internal. 0 A 10.64.4.7"
	if got := told(s.ask(t, question("db.r2h1.fabric.internal.", "A"), aContainer)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
