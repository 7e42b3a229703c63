package cni

import (
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostfabric/hostfabric/agent"
)

var sample = agent.Endpoint{
	Key: agent.Key{ContainerID: "c1", Interface: "eth0"}, HostInterface: "hf1", MAC: "02:00:00:00:00:02", HostMAC: "02:00:00:00:00:01", MTU: 1500,
	Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.7"), netip.MustParseAddr("fd00::7")},
	Gateways:  []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")},
}

func TestSingleFamilyResult(t *testing.T) {
	for want, ep := range map[string]agent.Endpoint{
		"10.64.0.7/32 0.0.0.0/0 169.254.1.1": {Addresses: sample.Addresses[:1], Gateways: sample.Gateways[:1]},
		"fd00::7/128 ::/0 fe80::1":           {Addresses: sample.Addresses[1:], Gateways: sample.Gateways[1:]},
	} {
		r := endpointResult(ep, "/x", types.DNS{})
		if len(r.IPs) != 1 || len(r.Routes) != 1 {
			t.Fatalf("%d addresses, %d routes", len(r.IPs), len(r.Routes))
		}
		if got := r.IPs[0].Address.String() + " " + r.Routes[0].Dst.String() + " " + r.IPs[0].Gateway.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestCompareWithItsOwnResult(t *testing.T) {
	if err := compare(sample, "/x", endpointResult(sample, "/x", types.DNS{})); err != nil {
		t.Error(err)
	}
	fewer := sample
	fewer.Addresses = sample.Addresses[:1]
	if err := compare(fewer, "/x", endpointResult(sample, "/x", types.DNS{})); err == nil {
		t.Error("a missing address went unnoticed")
	}
}
