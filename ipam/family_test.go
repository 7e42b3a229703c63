package ipam

import (
	"errors"
	"net/netip"
	"testing"
)

func TestOneFamily(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29", "fd00::/64")
	for i, family := range []Family{OnlyIPv6, OnlyIPv4, OnlyIPv6} {
		key := testKey(string(rune('a' + i)))
		leases, err := f.Allocate(key, Request{Family: family})
		if err != nil || len(leases) != 1 || !family.Has(leases[0].Addr) {
			t.Errorf("%s: %v, %v", family, leases, err)
		}
		again, err := f.Allocate(key, Request{})
		if err != nil || len(again) != 1 || again[0].Addr != leases[0].Addr {
			t.Errorf("again of any family: %v, %v; want %v", again, err, leases)
		}
	}
	if _, err := f.Allocate(testKey("a"), Request{Family: OnlyIPv4}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a key that holds IPv6 was given as IPv4: %v", err)
	}
	both, err := f.Allocate(testKey("both"), Request{})
	if err != nil || len(both) != 2 {
		t.Fatalf("of any family: %v, %v", both, err)
	}
	if _, err := f.Allocate(testKey("both"), Request{Family: OnlyIPv6}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a key that holds both was given as IPv6: %v", err)
	}
}

func TestBadFamily(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	for name, req := range map[string]Request{
		"no such family":            {Family: "ipx"},
		"none in the pool":          {Family: OnlyIPv6},
		"address of the other one":  {Family: OnlyIPv6, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}},
		"and of the other, of both": {Family: OnlyIPv4, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")}},
	} {
		if leases, err := f.Allocate(testKey("a"), req); !errors.Is(err, ErrInvalidWish) {
			t.Errorf("%s: %v, %v", name, leases, err)
		}
	}
	if leases := f.Leases(); len(leases) != 0 {
		t.Errorf("leased all the same: %v", leases)
	}
}
