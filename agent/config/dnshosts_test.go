package config

import (
	"fmt"
	"testing"
)

func TestDNSHosts(t *testing.T) {
	c := mustLoad(t, small+`dns:
  community: 64086.59904
  hosts:
    - {name: R1H1, addresses: [10.64.0.0, "fd00:64::"], blocks: [10.64.0.0/26]}
    - {name: r1h2, addresses: [192.0.2.2]}
`, nil)
	if got := fmt.Sprint(c.DNS.Community, c.DNS.Hosts); got != "4200000000 [{r1h1 [10.64.0.0 fd00:64::] [10.64.0.0/26]} {r1h2 [192.0.2.2] []}]" {
		t.Error(got)
	}
	again := mustLoad(t, small+"dns: {hosts: [{name: r1h2, addresses: [192.0.2.3]}]}\n", nil)
	want := "[{dns.community 4200000000 4200000176 true} {dns.hosts r1h1 at [10.64.0.0 fd00:64::] with [10.64.0.0/26]  false} " +
		"{dns.hosts r1h2 at [192.0.2.2]  false} {dns.hosts  r1h2 at [192.0.2.3] false}]"
	if got := fmt.Sprint(Changes(c, again)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDNSHostMistakes(t *testing.T) {
	_, err := Load(write(t, small+`dns:
  community: 0
  hosts:
    - {addresses: [10.64.0.0]}
    - {name: r1.h2, addresses: [10.64.0.300, 192.0.2.1, 192.0.2.1]}
    - {name: r1h3}
    - {name: R1H3, addresses: [192.0.2.3], blocks: [10.64.0.0/26, 10.64.0.1/26]}
    - {name: r1h4, addresses: [192.0.2.4], blocks: [10.64.0.0/26], via: etcd}
`), nil)
	want := `dns.community: AS number 0 is reserved (RFC 7607) (private ones are 64512 to 65534 and 4200000000 to 4294967294)
dns.hosts[0].name: missing (the other host's name, its key host)
dns.hosts[1].addresses[0]: "10.64.0.300" is not an IP address (such as 10.0.0.1 or fd00::1)
dns.hosts[1].addresses[2]: 192.0.2.1 is there twice (remove one)
dns.hosts[1].name: "r1.h2" is not a host name (letters, digits and inner hyphens, at most 63, no dots)
dns.hosts[2].addresses: missing (where the host answers DNS, such as [10.64.0.0]: the first address of its first block)
dns.hosts[3].blocks[1]: 10.64.0.1/26 has host bits set (write 10.64.0.0/26)
dns.hosts[3].name: r1h3 is also dns.hosts[2] (one entry a host)
dns.hosts[4].blocks[0]: 10.64.0.0/26 is also dns.hosts[3].blocks[0] (remove one)
dns.hosts[4].via: line 15: unknown key (keys here: addresses, blocks, name)`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}
