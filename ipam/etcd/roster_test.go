package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// follower keeps what a host was last told of the fabric.
type follower struct {
	mu     sync.Mutex
	claims []ipam.Claim
	hosts  []ipam.Host
	told   int
}

// follow runs Follow until the returned function is called, or the test ends.
func follow(t testing.TB, s *Source) (f *follower, stop func()) {
	t.Helper()
	f = &follower{}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		if err := s.Follow(ctx, f.tell); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); following.Wait() })
	t.Cleanup(stop)
	return f, stop
}

func (f *follower) tell(claims []ipam.Claim, hosts []ipam.Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims, f.hosts = claims, hosts
	f.told++
}

func (f *follower) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, c := range f.claims {
		fmt.Fprintf(&b, "%s:%s ", c.Host, c.Prefix)
	}
	for _, h := range f.hosts {
		fmt.Fprintf(&b, "%s/%s=%v ", h.Name, h.ID, h.Addresses)
	}
	return strings.TrimSpace(b.String())
}

func (f *follower) want(t testing.TB, want string) {
	t.Helper()
	eventually(t, hintTime, func() error {
		if got := f.String(); got != want {
			return fmt.Errorf("told %q, want %q", got, want)
		}
		return nil
	})
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// TestHostsFindOneAnother: what a host tells of itself is with the others soon, also what it told while etcd was away, and also
// after somebody has deleted it; it goes with the host.
func TestHostsFindOneAnother(t *testing.T) {
	f := newFabric(t)
	four := ipam.Pool{Name: ipam.DefaultPool, Prefixes: prefixes("10.64.0.0/22"), BaseIPv4: 26}
	a, b := f.host("a", four), f.host("b", four)
	a.SetAddresses(addrs("10.64.0.0"))
	atA, stopA := follow(t, a)
	atB, _ := follow(t, b)
	atB.want(t, "host-a/a=[10.64.0.0]")
	claim := mustGrow(t, a)
	want := fmt.Sprintf("host-a:%s host-a/a=[10.64.0.0]", claim[0])
	atA.want(t, want)
	atB.want(t, want)

	a.SetAddresses(addrs("10.64.0.64", "fd00::"))
	moved := fmt.Sprintf("host-a:%s host-a/a=[10.64.0.64 fd00::]", claim[0])
	atB.want(t, moved)
	if _, err := f.client.Delete(t.Context(), DefaultPrefix+"/hosts/host-a/a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, hintTime, func() error {
		resp, err := f.client.Get(t.Context(), DefaultPrefix+"/hosts/host-a/a")
		if err == nil && len(resp.Kvs) == 0 {
			err = fmt.Errorf("it is not there again")
		}
		return err
	})
	atB.want(t, moved)

	f.Kill()
	a.SetAddresses(addrs("10.64.0.0"))
	atB.want(t, moved) // the last that was known
	f.Restart()
	atB.want(t, want)
	atA.want(t, want)

	stopA()
	if _, err := b.ReleaseHost(t.Context(), "host-a", ""); err != nil {
		t.Fatal(err)
	}
	atB.want(t, "")
	b.SetAddresses(addrs("10.64.0.128"))
	atB.want(t, "host-b/b=[10.64.0.128]")
	b.SetAddresses(nil)
	atB.want(t, "")
}

// TestQuarrelAboutOneKey: two machines that take themselves for one host overwrite each other at leisure.
func TestQuarrelAboutOneKey(t *testing.T) {
	f := newFabric(t)
	one, other := f.host("a", small), f.host("a", small)
	one.SetAddresses(addrs("10.64.0.0"))
	other.SetAddresses(addrs("10.64.0.64"))
	first, _ := follow(t, one)
	follow(t, other)
	first.want(t, "host-a/a=[10.64.0.0]")
	first.want(t, "host-a/a=[10.64.0.64]")
	before := f.revision()
	began := time.Now()
	first.want(t, "host-a/a=[10.64.0.0]")
	first.want(t, "host-a/a=[10.64.0.64]")
	if writes, most := f.revision()-before, int64(2*(time.Since(began)/retellFirst+1)); writes > most {
		t.Errorf("%d writes in %s, want at most %d", writes, time.Since(began), most)
	}
}

func (f *fabric) revision() int64 {
	f.t.Helper()
	resp, err := f.client.Get(f.t.Context(), DefaultPrefix, clientv3.WithCountOnly())
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Header.GetRevision()
}

// TestRosterIgnoresThePast: events of before the reading say nothing.
func TestRosterIgnoresThePast(t *testing.T) {
	r := newRoster(keys{DefaultPrefix})
	kv := func(value string, revision int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(DefaultPrefix + "/hosts/a/1"), Value: []byte(value), ModRevision: revision}
	}
	r.reset(10, []*mvccpb.KeyValue{kv(`{"addresses":["10.64.0.64"]}`, 9)})
	r.apply([]*mvccpb.Event{{Kv: kv(`{"addresses":["10.64.0.0"]}`, 8)}, {Type: mvccpb.DELETE, Kv: kv("", 7)}})
	if _, hosts := r.all(); fmt.Sprint(hosts) != "[{a 1 [10.64.0.64] 9}]" {
		t.Errorf("hosts are %v", hosts)
	}
	r.apply([]*mvccpb.Event{{Type: mvccpb.DELETE, Kv: kv("", 11)}})
	if _, hosts := r.all(); len(hosts) > 0 {
		t.Errorf("hosts are %v, want none", hosts)
	}
}

// FuzzRoster: whatever is in etcd, what is told of it is hosts with names and addresses.
func FuzzRoster(f *testing.F) {
	f.Add(DefaultPrefix+"/hosts/r1h1/0123", `{"addresses":["10.64.0.0","fd00::"]}`)
	f.Add(DefaultPrefix+"/hosts/r1h1/", `{"addresses":["::ffff:10.64.0.0","fe80::1%eth0",""]}`)
	f.Add(DefaultPrefix+"/claims/default/ipv4/10.64.0.0-26", `{"id":"a","host":"h","claimed":"2026-01-01T00:00:00Z"}`)
	f.Add("", "")
	f.Fuzz(func(t *testing.T, key, value string) {
		r := newRoster(keys{DefaultPrefix})
		r.reset(1, []*mvccpb.KeyValue{{Key: []byte(key), Value: []byte(value), ModRevision: 1}})
		claims, hosts := r.all()
		if len(claims)+len(hosts) > 1 {
			t.Fatalf("one key is %v and %v", claims, hosts)
		}
		for _, h := range hosts {
			if h.Name == "" || h.ID == "" || len(h.Addresses) > maxAddresses || (keys{DefaultPrefix}).host(Identity{ID: h.ID, Host: h.Name}) != key {
				t.Errorf("%q is %+v", key, h)
			}
			for _, a := range h.Addresses {
				if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
					t.Errorf("%q has address %s", value, a)
				}
			}
		}
	})
}
