package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

func TestOneBlockForOneHost(t *testing.T) {
	f := newFabric(t)
	wanted := prefixes("10.64.1.0/26", "10.64.1.128/25", "fd00:0:0:5::/64")
	const n = 8
	hosts := make([]*Source, n)
	for i := range hosts {
		hosts[i] = f.host(fmt.Sprint(i), small)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			blocks, err := h.Claim(t.Context(), "", wanted)
			if errs[i] = err; err == nil && len(blocks) != 4 {
				t.Errorf("host %d was told of %v", i, blocks)
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case !errors.Is(err, ipam.ErrTaken):
			t.Errorf("host %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody has it")
	}
	for i, err := range errs {
		if name := "host-" + fmt.Sprint(winner); i != winner && !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not name %s", err, name)
		}
	}
	id := fmt.Sprint(winner)
	f.wantClaims(map[string]string{"10.64.1.0/26": id, "10.64.1.128/26": id, "10.64.1.192/26": id, "fd00:0:0:5::/64": id})

	// Again is fine for the winner; with one that is taken, the rest is not claimed either.
	if _, err := hosts[winner].Claim(t.Context(), "default", wanted); err != nil {
		t.Error(err)
	}
	loser := hosts[(winner+1)%n]
	if _, err := loser.Claim(t.Context(), "", prefixes("10.64.0.0/26", "10.64.1.224/27")); !errors.Is(err, ipam.ErrTaken) {
		t.Error(err)
	}
	if n := len(f.dump()); n != 4 {
		t.Errorf("%d claims", n)
	}
}

func TestClaimRefuses(t *testing.T) {
	f := newFabric(t)
	h := f.host("a", small, large)
	for _, tc := range []struct{ pool, prefix, want string }{
		{"", "192.0.2.0/26", "no such pool: none has 192.0.2.0/26"},
		{"web", "10.64.0.0/26", "no such pool: web"},
		{"large", "10.64.0.0/26", "10.64.0.0/26 is not in pool large, which has 10.128.0.0/12"},
		{"", "10.128.0.0/13", "more than 4096 blocks of /28"},
	} {
		_, err := h.Claim(t.Context(), tc.pool, prefixes(tc.prefix))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s of %q: got %v, want %s", tc.prefix, tc.pool, err, tc.want)
		}
	}
	if blocks, err := h.Claim(t.Context(), "", nil); blocks != nil || err != nil {
		t.Errorf("nothing: %v, %v", blocks, err)
	}
	if _, err := h.Claim(t.Context(), "", prefixes("10.128.0.0/22", "10.128.4.0/23")); err != nil { // 64 + 32
		t.Error(err)
	}
	f.wantCount(96)
	if err := h.Release(t.Context(), prefixes("10.128.0.0/16")); err != nil {
		t.Error(err)
	}
	f.wantCount(0)
}

func (f *fabric) wantCount(want int) {
	f.t.Helper()
	if n := len(f.dump()); n != want {
		f.t.Errorf("%d claims, want %d", n, want)
	}
}

func TestReleaseIsOfOnesOwn(t *testing.T) {
	f := newFabric(t)
	a, b := f.host("a", small), f.host("b", small)
	ours, theirs := mustGrow(t, a), mustGrow(t, b)
	both := map[string]string{ours[0].String(): "a", theirs[0].String(): "b"}
	f.wantClaims(both)
	for _, p := range [][]netip.Prefix{theirs, prefixes("10.64.0.0/27"), prefixes("192.0.2.0/24"), nil} {
		if err := a.Release(t.Context(), p); err != nil {
			t.Errorf("%v: %v", p, err)
		}
		f.wantClaims(both)
	}
	for range 2 {
		if err := a.Release(t.Context(), small.Prefixes); err != nil {
			t.Error(err)
		}
		f.wantClaims(map[string]string{theirs[0].String(): "b"})
	}
	wantPrefixes(t, mustGrow(t, a), "10.64.0.0/26")
}

func TestGrowthFitsOrNot(t *testing.T) {
	f := newFabric(t)
	h := f.host("a", small)
	have := mustGrow(t, h)
	budget := func(most int) func([]netip.Prefix) error {
		return func(added []netip.Prefix) error {
			if n := len(ipam.Cover(append(added, have...))); n > most {
				return fmt.Errorf("%w: %d prefixes", ipam.ErrBudget, n)
			}
			return nil
		}
	}
	for _, want := range []int{2, 4, 8} { // with one prefix it can only double
		blocks, err := h.Grow(t.Context(), ipam.Growth{Have: have, Fits: budget(1)})
		if err != nil {
			t.Fatal(err)
		}
		if have = append(have, prefixesOf(blocks)...); len(have) != want {
			t.Fatalf("has %v, want %d", have, want)
		}
	}
	if mustGrow(t, f.host("b", small))[0] != netip.MustParsePrefix("10.64.2.0/26") {
		t.Error("the sibling should be taken now")
	}
	_, err := h.Grow(t.Context(), ipam.Growth{Have: have, Fits: budget(1)})
	if !errors.Is(err, ipam.ErrBudget) || !strings.Contains(err.Error(), "2 prefixes") {
		t.Errorf("got %v", err)
	}
	f.wantCount(9)
}

func TestSiblings(t *testing.T) {
	f := newFabric(t)
	a, b := f.host("a", small), f.host("b", small)
	for _, c := range []struct {
		s        *Source
		prefixes []netip.Prefix
	}{
		{a, prefixes("10.64.0.0/26", "10.64.0.64/26", "10.64.1.0/26", "10.64.2.0/26", "10.64.3.0/26")},
		{b, prefixes("10.64.1.64/26", "10.64.0.128/26")},
	} {
		if _, err := c.s.Claim(t.Context(), "", c.prefixes); err != nil {
			t.Fatal(err)
		}
	}
	ask := prefixes("10.64.0.0/26", "10.64.0.0/25", "10.64.1.0/26", "10.64.2.0/26", "10.64.2.0/24", "10.64.0.0/22", "192.0.2.0/26", "fd00::/64", "0.0.0.0/0")
	got, err := a.Siblings(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"{10.64.0.64/26 own }", "{10.64.0.128/25 taken host-b}", "{10.64.1.64/26 taken host-b}", "{10.64.2.64/26 free }", "{10.64.3.0/24 free }",
		"{10.64.4.0/22 outside }", "{192.0.2.64/26 outside }", "{fd00:0:0:1::/64 free }", "{invalid Prefix outside }",
	} {
		if s := fmt.Sprint(got[ask[i]]); s != want {
			t.Errorf("%s: got %s, want %s", ask[i], s, want)
		}
	}
}

func TestOperators(t *testing.T) {
	f := newFabric(t)
	old, older, now := f.installation("old", "web1"), f.installation("older", "web1"), f.installation("now", "web1")
	for _, s := range []*Source{old, older, now, f.host("other", small)} {
		mustGrow(t, s)
	}
	now2 := mustBlocks(t, now)
	if all, err := now.Claims(t.Context()); err != nil || len(all) != 4 || all[0].Host != "web1" || time.Since(all[0].Claimed) > time.Minute {
		t.Errorf("claims are %v, %v", all, err)
	}
	if released, err := now.ReleaseHost(t.Context(), "web1", "older"); err != nil || len(released) != 1 || released[0].ID != "older" {
		t.Errorf("released %v, %v", released, err)
	}
	released, err := now.ReleaseHost(t.Context(), "web1", "")
	if err != nil || len(released) != 1 || released[0].ID != "old" || released[0].Pool != "default" {
		t.Errorf("released %v, %v", released, err)
	}
	if released, err := now.ReleaseHost(t.Context(), "web1", ""); err != nil || len(released) != 0 {
		t.Errorf("released again %v, %v", released, err)
	}
	// What a host goes on using it does not release, by whatever name, nor does another machine that has its ID.
	for _, s := range []*Source{now, f.installation("now", "web2")} {
		for _, host := range []string{"web1", "web2"} {
			_, err := s.ReleaseHost(t.Context(), host, "now")
			wantError(t, err, ipam.ErrOwnClaims, "ID now: use `hostfabric blocks release --all` instead")
			if released, err := s.ReleaseHost(t.Context(), host, ""); err != nil || len(released) != 0 {
				t.Errorf("released %v, %v", released, err)
			}
		}
	}
	if _, err := now.ReleaseHost(t.Context(), "", ""); err == nil {
		t.Error("released the claims of no host")
	}
	f.wantClaims(map[string]string{now2[0].String(): "now", "10.64.3.0/26": "other"})
}
