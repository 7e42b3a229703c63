package uplink

import (
	"net/netip"
	"testing"
)

func TestContainersAreNoConcern(t *testing.T) {
	near, far := netip.MustParseAddr("172.31.0.0"), netip.MustParseAddr("172.31.0.2")
	found := &Links{peers: []netip.Addr{near}, linkOf: map[netip.Addr]string{near: "eth0"}}
	searching := &Links{peers: []netip.Addr{near, far}, linkOf: map[netip.Addr]string{near: "eth0"}}
	for _, tt := range []struct {
		name  string
		links *Links
		c     linkChange
		want  bool
	}{
		{"a router's link goes down", found, linkChange{name: "eth0"}, true},
		{"a router's link comes up", found, linkChange{name: "eth0", up: true}, true},
		{"a container comes", found, linkChange{name: "hf0", up: true}, false},
		{"a container goes", found, linkChange{name: "hf0"}, false},
		{"what comes up may lead to the router that is not found", searching, linkChange{name: "eth1", up: true}, true},
		{"what goes down does not", searching, linkChange{name: "eth1"}, false},
	} {
		if got := tt.links.concerns(tt.c); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
