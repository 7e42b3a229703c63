package etcd

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hostfabric/hostfabric/ipam"
)

func (f *fabric) installation(id, host string) *Source {
	f.t.Helper()
	s, err := New(Config{Endpoints: []string{f.Endpoint()}}, Identity{ID: id, Host: host}, []ipam.Pool{small})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { s.Close() })
	return s
}

func wantConflicts(t *testing.T, s *Source, want ...string) {
	t.Helper()
	got, err := s.Conflicts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got conflicts %q, want %q", got, want)
	}
}

func TestConflictsOfOneName(t *testing.T) {
	f := newFabric(t)
	now := f.installation("now", "web1")
	for _, s := range []*Source{f.installation("older", "web1"), now, f.host("other", small)} {
		mustGrow(t, s)
	}
	old := f.installation("old", "web1")
	mustGrow(t, old, mustGrow(t, old)...)
	older := "1 blocks (the first is 10.64.0.0/26) are claimed by another installation of host web1 (ID older): " +
		"if it is gone, release them with `hostfabric blocks release --host web1 --id older`"
	wantConflicts(t, now, "2 blocks (the first is 10.64.3.0/26) are claimed by another installation of host web1 (ID old): "+
		"if it is gone, release them with `hostfabric blocks release --host web1 --id old`", older)
	if _, err := now.ReleaseHost(t.Context(), "web1", "old"); err != nil {
		t.Error(err)
	}
	wantConflicts(t, now, older)
	if _, err := now.ReleaseHost(t.Context(), "web1", ""); err != nil {
		t.Error(err)
	}
	wantConflicts(t, now)
	wantConflicts(t, f.installation("third", "nobody"))
}

// Two machines that were given one ID have the same blocks.
func TestConflictsOfOneID(t *testing.T) {
	f := newFabric(t)
	first, clone := f.installation("same", "web1"), f.installation("same", "web2")
	have := mustGrow(t, first)
	wantConflicts(t, first)
	wantPrefixes(t, mustBlocks(t, clone)) // it is not its own
	conflict := func(first, host string) string {
		return "1 blocks (the first is " + first + ") are claimed under this host's identity same by host " + host + ": " +
			"two machines have one identity, or this host was renamed. " +
			"Give one of them another etcd.host_id"
	}
	wantConflicts(t, clone, conflict("10.64.0.0/26", "web1"))
	mustGrow(t, clone, have...)
	wantConflicts(t, first, conflict("10.64.0.64/26", "web2"))
	mustGrow(t, f.installation("another", "web3"))
	wantConflicts(t, f.installation("same", "web3"),
		"1 blocks (the first is 10.64.2.0/26) are claimed by another installation of host web3 (ID another): "+
			"if it is gone, release them with `hostfabric blocks release --host web3 --id another`",
		conflict("10.64.0.0/26", "web1"), conflict("10.64.0.64/26", "web2"))
}

// TestOneIDOfTwoHosts: a host does not take for its own what a host of another name has claimed under its ID, unless it
// names the block, as one that was renamed does; and only once, or two would take it from each other for ever.
func TestOneIDOfTwoHosts(t *testing.T) {
	f := newFabric(t)
	a, b := f.installation("same", "a"), f.installation("same", "b")
	have := mustGrow(t, a)
	wantPrefixes(t, mustBlocks(t, b))
	if other := mustGrow(t, b); other[0] == have[0] {
		t.Errorf("b grew into %v, which a has", other)
	}
	if _, err := b.Claim(t.Context(), "", have); err != nil {
		t.Errorf("a host that was renamed: %v", err)
	}
	if _, err := a.Claim(t.Context(), "", have); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("a takes back what it had: %v, want %v", err, ipam.ErrTaken)
	}
	if blocks := mustBlocks(t, b); len(blocks) != 2 {
		t.Errorf("b has %v", blocks)
	}
	if err := a.Release(t.Context(), have); err != nil {
		t.Error(err)
	}
	if blocks := mustBlocks(t, b); len(blocks) != 2 {
		t.Errorf("a has released what is b's: it has %v", blocks)
	}
}
