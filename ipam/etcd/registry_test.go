package etcd

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/hostfabric/hostfabric/ipam"
)

func TestRegistryKeepsPoolsApart(t *testing.T) {
	f := newFabric(t)
	mustGrow(t, f.host("a", small))
	for _, tc := range []struct {
		pool ipam.Pool
		want string
	}{
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/22"), BaseIPv4: 27}, "pool default has blocks of /27 here and of /26 in the fabric"},
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/21"), BaseIPv4: 26}, "10.64.0.0/21 of pool default overlaps 10.64.0.0/22, which is in pool default of the fabric"},
		{ipam.Pool{Name: "web", Prefixes: prefixes("10.64.2.0/23"), BaseIPv4: 26}, "10.64.2.0/23 of pool web overlaps 10.64.0.0/22, which is in pool default of the fabric"},
	} {
		h := f.host("b", tc.pool)
		_, err := h.Grow(t.Context(), ipam.Growth{Pool: tc.pool.Name})
		if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %s", err, tc.want)
		}
		if _, err := h.Claim(t.Context(), tc.pool.Name, tc.pool.Prefixes); !errors.Is(err, ErrConflict) {
			t.Errorf("claim: %v", err)
		}
	}
	// A pool that fits is not held up by one that does not.
	other := ipam.Pool{Name: "other", Prefixes: prefixes("10.0.0.0/24"), BaseIPv4: 26}
	h := f.host("c", ipam.Pool{Name: "web", Prefixes: prefixes("10.64.2.0/23"), BaseIPv4: 26}, other)
	if _, err := h.Grow(t.Context(), ipam.Growth{Pool: "other"}); err != nil {
		t.Error(err)
	}
	// A host may know more prefixes, and another fewer.
	more := ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/22", "10.65.0.0/22"), BaseIPv4: 26}
	if blocks := mustGrow(t, f.host("d", more)); len(blocks) != 1 {
		t.Error(blocks)
	}
	few := ipam.Pool{Name: "default", Prefixes: prefixes("fd00::/60"), BaseIPv6: 64}
	if _, err := f.host("e", few).Grow(t.Context(), ipam.Growth{IPv6: true}); err != nil {
		t.Error(err)
	}
	if _, err := f.host("e", few).Grow(t.Context(), ipam.Growth{}); !errors.Is(err, ipam.ErrUnknownPool) {
		t.Error(err)
	}
	f.dump()
}

// Who deletes the registry to give pools another shape cannot make blocks overlap with those that are still claimed.
func TestRegistryIsWrittenAnewByTheClaims(t *testing.T) {
	f := newFabric(t)
	a := f.host("a", small)
	have := mustGrow(t, a)
	if _, err := f.client.Delete(t.Context(), DefaultPrefix+"/pools"); err != nil {
		t.Fatal(err)
	}
	reshaped := ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/22"), BaseIPv4: 25}
	b := f.host("b", reshaped)
	if _, err := b.Grow(t.Context(), ipam.Growth{}); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "host-a") {
		t.Errorf("got %v", err)
	}
	have = append(have, mustGrow(t, a, have...)...) // registers its pools again
	wantPrefixes(t, have, "10.64.0.0/26", "10.64.0.64/26")

	// The pool changes its shape between what a host has read and what it claims.
	if err := a.Release(t.Context(), have); err != nil {
		t.Fatal(err)
	}
	change := sync.OnceFunc(func() {
		if _, err := f.client.Delete(t.Context(), DefaultPrefix+"/pools"); err != nil {
			t.Error(err)
		}
		if _, err := b.Grow(t.Context(), ipam.Growth{}); err != nil {
			t.Error(err)
		}
	})
	_, err := a.Grow(t.Context(), ipam.Growth{Fits: func([]netip.Prefix) error { change(); return nil }})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("got %v", err)
	}
	f.wantClaims(map[string]string{"10.64.0.0/25": "b"})
}

func TestRegistryThatCannotBeRead(t *testing.T) {
	f := newFabric(t)
	for key, value := range map[string]string{
		"/pools": "{", "/pools?": `{"a":{"prefixes":["10.0.0.1/24"]}}`, "/claims/default/ipv4/10.64.0.0-025": "{}",
	} {
		key := DefaultPrefix + strings.TrimSuffix(key, "?")
		if _, err := f.client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		if _, err := f.host("a", small).Grow(t.Context(), ipam.Growth{}); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v", key, err)
		}
		if _, err := f.client.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	// A block whose claim says nothing is nobody's, and taken.
	h := f.host("a", small)
	have := mustGrow(t, h)
	if _, err := f.client.Put(t.Context(), DefaultPrefix+"/claims/default/ipv4/10.64.0.64-26", "?"); err != nil {
		t.Fatal(err)
	}
	wantPrefixes(t, mustGrow(t, h, have...), "10.64.2.0/26")
	if _, err := h.Claim(t.Context(), "", prefixes("10.64.0.64/26")); !errors.Is(err, ipam.ErrTaken) {
		t.Error(err)
	}
}
