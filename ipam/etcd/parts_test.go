package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// large has 256 base blocks in each /20.
var large = ipam.Pool{Name: "large", Prefixes: prefixes("10.128.0.0/12"), BaseIPv4: 28}

// transactions counts those that made the claims there are.
func (f *fabric) transactions() int {
	f.t.Helper()
	resp, err := f.client.Get(f.t.Context(), DefaultPrefix+"/claims/", clientv3.WithPrefix())
	if err != nil {
		f.t.Fatal(err)
	}
	revisions := map[int64]bool{}
	for _, kv := range resp.Kvs {
		revisions[kv.CreateRevision] = true
	}
	return len(revisions)
}

func TestClaimInParts(t *testing.T) {
	f := newFabric(t)
	h := f.host("a", large)
	for _, tc := range []struct {
		prefixes             string
		blocks, transactions int // in all
	}{
		{"10.128.0.0/22", 64, 1},
		{"10.129.0.0/22 10.129.4.0/23 10.129.6.0/24 10.129.7.0/25 10.129.7.128/26 10.129.7.192/27 10.129.7.224/28", 64 + 127, 2},
		{"10.130.0.0/21", 64 + 127 + 128, 4},
		{"10.128.0.0/20", 127 + 128 + 256, 6}, // 64 of which it has
	} {
		wanted := prefixes(strings.Fields(tc.prefixes)...)
		for range 2 {
			blocks, err := h.Claim(t.Context(), "large", wanted)
			if err != nil {
				t.Fatal(err)
			}
			if got := ipam.Cover(prefixesOf(blocks)); fmt.Sprint(got) != fmt.Sprint(ipam.Cover(wanted)) {
				t.Errorf("was told of %v, want %v", got, wanted)
			}
			f.wantCount(tc.blocks)
			if n := f.transactions(); n != tc.transactions {
				t.Errorf("%s: %d transactions in all, want %d", tc.prefixes, n, tc.transactions)
			}
		}
	}
	if blocks, err := f.host("b", large).Claim(t.Context(), "", prefixes("10.136.0.0/16")); err != nil || len(blocks) != maxWanted {
		t.Errorf("as many as may be: %d, %v", len(blocks), err)
	}
}

func TestNothingIsClaimedIfOneBlockOfManyIsTaken(t *testing.T) {
	f := newFabric(t)
	if _, err := f.host("b", large).Claim(t.Context(), "", prefixes("10.128.15.240/28")); err != nil {
		t.Fatal(err)
	}
	_, err := f.host("a", large).Claim(t.Context(), "", prefixes("10.128.0.0/20"))
	wantError(t, err, ipam.ErrTaken, "10.128.15.240/28 by host host-b")
	f.wantClaims(map[string]string{"10.128.15.240/28": "b"})
}

// What was claimed when a later part fails stays claimed, and serves when the caller tries again.
func TestALaterPartFails(t *testing.T) {
	f := newFabric(t)
	_, user := f.EnableAuth(DefaultPrefix)
	root := f.Client()
	areas := DefaultPrefix + "/claims/large/ipv4/"
	may := func(kind clientv3.PermissionType, from, to string) {
		if _, err := root.RoleGrantPermission(t.Context(), "part", from, to, kind); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.RoleAdd(t.Context(), "part"); err != nil {
		t.Fatal(err)
	}
	may(clientv3.PermissionType(clientv3.PermRead), DefaultPrefix+"/", clientv3.GetPrefixRangeEnd(DefaultPrefix+"/"))
	may(clientv3.PermissionType(clientv3.PermWrite), DefaultPrefix+"/pools", "")
	may(clientv3.PermissionType(clientv3.PermWrite), areas+"10.128.0.", areas+"10.128.8.") // the first part, not the second
	if _, err := root.UserGrantRole(t.Context(), user.Name, "part"); err != nil {
		t.Fatal(err)
	}
	h := newSource(t, Config{Endpoints: []string{f.Endpoint()}, Username: user.Name, Password: user.Password}, "a", large)
	wanted := prefixes("10.128.0.0/20")
	_, err := h.Claim(t.Context(), "", wanted)
	wantError(t, err, ErrDenied, "claim 10.128.0.0/20: 127 of its blocks were claimed and stay so: ")
	if have := mustBlocks(t, h); len(have) != maxClaim {
		t.Errorf("has %d blocks, want %d", len(have), maxClaim)
	}
	may(clientv3.PermissionType(clientv3.PermWrite), areas, clientv3.GetPrefixRangeEnd(areas))
	if blocks, err := h.Claim(t.Context(), "", wanted); err != nil || len(blocks) != 256 {
		t.Errorf("was told of %d blocks, %v", len(blocks), err)
	}
	if have := mustBlocks(t, h); len(have) != 256 {
		t.Errorf("has %d blocks", len(have))
	}
}

// Another host claims the last block when the first is looked at as free.
func TestALaterPartIsTaken(t *testing.T) {
	f := newFabric(t)
	a, b := f.host("a", large), f.host("b", large)
	snap, err := a.ready(t.Context(), a.pools, a.keys.claims())
	if err != nil {
		t.Fatal(err)
	}
	all, err := a.widen("", prefixes("10.128.0.0/20"))
	if err != nil {
		t.Fatal(err)
	}
	missing, _, err := a.missing(snap, all)
	if err != nil || len(missing) != 256 {
		t.Fatal(len(missing), err)
	}
	if _, err := b.Claim(t.Context(), "", prefixes("10.128.15.240/28")); err != nil {
		t.Fatal(err)
	}
	if n, err := a.claimParts(t.Context(), snap, missing, nil); n != 2*maxClaim || err != nil {
		t.Errorf("claimed %d, %v, want %d", n, err, 2*maxClaim)
	}
	_, err = a.Claim(t.Context(), "", prefixes("10.128.0.0/20"))
	wantError(t, err, ipam.ErrTaken, "10.128.15.240/28 by host host-b")
	f.wantCount(2*maxClaim + 1)
}

// The connection breaks when a part was claimed.
func TestConnectionBreaksBetweenParts(t *testing.T) {
	f := newFabric(t)
	p := newProxy(t, f.Endpoint())
	h := newSource(t, Config{Endpoints: []string{p.endpoint()}}, "a", large)
	ctx, cancel := context.WithCancel(t.Context())
	watch := f.client.Watch(ctx, DefaultPrefix+"/claims/", clientv3.WithPrefix())
	var wg sync.WaitGroup
	wg.Go(func() {
		<-watch
		p.cut()
	})
	blocks, err := h.Claim(t.Context(), "", prefixes("10.128.0.0/18"))
	cancel()
	wg.Wait()
	if err != nil || len(blocks) != 1024 {
		t.Errorf("was told of %d blocks, %v", len(blocks), err)
	}
	f.wantCount(1024)
}

func TestManyBlocksForOneHost(t *testing.T) {
	f := newFabric(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		h := f.host(fmt.Sprint(i), large)
		wg.Go(func() { _, errs[i] = h.Claim(t.Context(), "", prefixes("10.128.0.0/20")) })
	}
	wg.Wait()
	winners := 0
	for i, err := range errs {
		switch {
		case err == nil:
			winners++
		case !errors.Is(err, ipam.ErrTaken):
			t.Errorf("host %d: %v", i, err)
		}
	}
	if winners != 1 {
		t.Errorf("%d hosts have it", winners)
	}
	f.wantCount(256)
}
