package firewall_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/agent/firewall"
)

// BenchmarkRoundTrip sends datagrams from a container to the ToR and back, with the table and without.
func BenchmarkRoundTrip(b *testing.B) {
	r := newRig(b, firewall.Policy{Enabled: true, Closed: []firewall.Port{{Protocol: firewall.TCP, Number: 179}}})
	for _, to := range []netip.Addr{www4, www6} {
		var server, client *net.UDPConn
		if err := r.tor.Do(func() (err error) {
			server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
			return err
		}); err != nil {
			b.Fatal(err)
		}
		defer server.Close()
		if err := r.box.Do(func() (err error) {
			client, err = net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
			return err
		}); err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		for _, on := range []bool{true, false} {
			name := to.String() + " without"
			if on {
				name = to.String() + " with"
			}
			r.firewall.SetPolicy(firewall.Policy{Enabled: on})
			b.Run(name, func(b *testing.B) {
				buf := make([]byte, 64)
				for b.Loop() {
					if _, err := client.Write(buf); err != nil {
						b.Fatal(err)
					}
					n, peer, err := server.ReadFromUDPAddrPort(buf)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := server.WriteToUDPAddrPort(buf[:n], peer); err != nil {
						b.Fatal(err)
					}
					if _, err := client.Read(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
