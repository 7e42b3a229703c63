package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/etcd/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var small = ipam.Pool{Name: ipam.DefaultPool, Prefixes: prefixes("10.64.0.0/22", "fd00::/60"), BaseIPv4: 26, BaseIPv6: 64}

// fabric is an etcd with what hosts need to share pools in it.
type fabric struct {
	*etcdtest.Server
	t      testing.TB
	client *clientv3.Client
}

func newFabric(t testing.TB) *fabric {
	t.Helper()
	s := etcdtest.Start(t, etcdtest.Options{})
	return &fabric{s, t, s.Client()}
}

func (f *fabric) host(id string, pools ...ipam.Pool) *Source {
	f.t.Helper()
	return newSource(f.t, Config{Endpoints: []string{f.Endpoint()}}, id, pools...)
}

func newSource(t testing.TB, cfg Config, id string, pools ...ipam.Pool) *Source {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(cfg, Identity{ID: id, Host: "host-" + id}, pools)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// dump returns the claims in etcd, by key, and fails unless they are disjoint prefixes.
func (f *fabric) dump() map[string]string {
	f.t.Helper()
	resp, err := f.client.Get(f.t.Context(), DefaultPrefix+"/claims/", clientv3.WithPrefix())
	if err != nil {
		f.t.Fatal(err)
	}
	claims := map[string]string{}
	var all []netip.Prefix
	for _, kv := range resp.Kvs {
		_, p, err := keys{DefaultPrefix}.parse(string(kv.Key))
		if err != nil {
			f.t.Fatal(err)
		}
		if slices.ContainsFunc(all, p.Overlaps) {
			f.t.Errorf("%s overlaps another claim", kv.Key)
		}
		all = append(all, p)
		claims[p.String()] = decodeHolder(kv.Value).ID
	}
	return claims
}

func (f *fabric) wantClaims(want map[string]string) {
	f.t.Helper()
	if got := f.dump(); fmt.Sprint(got) != fmt.Sprint(want) {
		f.t.Errorf("etcd has %v, want %v", got, want)
	}
}

func mustGrow(t testing.TB, s *Source, have ...netip.Prefix) []netip.Prefix {
	t.Helper()
	blocks, err := s.Grow(t.Context(), ipam.Growth{Have: have})
	if err != nil {
		t.Fatal(err)
	}
	return prefixesOf(blocks)
}

func prefixesOf(blocks []ipam.Block) []netip.Prefix {
	var out []netip.Prefix
	for _, b := range blocks {
		out = append(out, b.Prefix)
	}
	return out
}

func mustBlocks(t testing.TB, s *Source) []netip.Prefix {
	t.Helper()
	blocks, err := s.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return prefixesOf(blocks)
}

func wantPrefixes(t testing.TB, got []netip.Prefix, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(prefixes(want...)) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// eventually polls until check returns nil.
func eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	again := retry{first: 20 * time.Millisecond, most: 20 * time.Millisecond}
	for {
		err := check()
		if err == nil {
			return
		}
		if !again.wait(ctx) {
			t.Fatalf("after %s: %v", within, err)
		}
	}
}
