package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

const hintTime = 20 * time.Second

func awaitHint(t testing.TB, hints <-chan struct{}) {
	t.Helper()
	select {
	case _, open := <-hints:
		if !open {
			t.Fatal("the watch has ended")
		}
	case <-time.After(hintTime):
		t.Fatal("no hint")
	}
}

func mustWatch(t testing.TB, s *Source) <-chan struct{} {
	t.Helper()
	hints, err := s.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	awaitHint(t, hints) // it is established
	return hints
}

// hintUntil waits for hints until check, made on each of them, returns nil.
func hintUntil(t testing.TB, hints <-chan struct{}, check func() error) {
	t.Helper()
	for {
		awaitHint(t, hints)
		if check() == nil {
			return
		}
	}
}

func TestWatchSeesAnOperator(t *testing.T) {
	f := newFabric(t)
	h, operator := f.host("a", small), f.host("operator", small)
	have := mustGrow(t, h)
	have = append(have, mustGrow(t, h, have...)...)
	hints := mustWatch(t, h)
	if released, err := operator.ReleaseHost(t.Context(), "host-a", ""); err != nil || len(released) != len(have) {
		t.Fatal(released, err)
	}
	awaitHint(t, hints)
	if blocks := mustBlocks(t, h); len(blocks) != 0 {
		t.Errorf("has %v", blocks)
	}
	// The registry is of concern as well.
	mustGrow(t, f.host("c", ipam.Pool{Name: "default", Prefixes: prefixes("10.65.0.0/24"), BaseIPv4: 26}))
	awaitHint(t, hints)
}

func TestWhatConcernsAHost(t *testing.T) {
	s := &Source{keys: keys{DefaultPrefix}, id: Identity{ID: "a", Host: "h"}}
	kv := func(id string, created, modified int64) *mvccpb.KeyValue {
		value := ""
		if id != "" {
			value = holder{ID: id, Host: "h"}.encode()
		}
		return &mvccpb.KeyValue{Key: []byte(s.keys.claims() + "x"), Value: []byte(value), CreateRevision: created, ModRevision: modified}
	}
	for _, tc := range []struct {
		name string
		e    *mvccpb.Event
		want bool
	}{
		{"registry", &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(s.keys.registry())}}, true},
		{"claim of ours", &mvccpb.Event{Kv: kv("a", 5, 5)}, true},
		{"claim of another's", &mvccpb.Event{Kv: kv("b", 5, 5)}, false},
		{"ours is deleted", &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv("", 0, 6), PrevKv: kv("a", 5, 5)}, true},
		{"another's is deleted", &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv("", 0, 6), PrevKv: kv("b", 5, 5)}, false},
		{"ours becomes another's", &mvccpb.Event{Kv: kv("b", 5, 6), PrevKv: kv("a", 5, 5)}, true},
		{"deleted, and what it was is compacted", &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv("", 0, 6)}, true},
	} {
		if got := s.concerns(tc.e); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

// Claims are deleted and history is compacted while the watch is cut off, and etcd itself is killed.
func TestWatchMissesNothing(t *testing.T) {
	f := newFabric(t)
	p := newProxy(t, f.Endpoint())
	h := newSource(t, Config{Endpoints: []string{p.endpoint()}}, "a", small)
	have := mustGrow(t, h)
	hints := mustWatch(t, h)
	for round := range 2 {
		p.refuse(true)
		f.Kill()
		f.Restart()
		resp, err := f.client.Delete(t.Context(), DefaultPrefix+"/claims/", clientv3.WithPrefix())
		if err != nil || resp.Deleted != 1 {
			t.Fatal(resp, err)
		}
		if _, err := f.client.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		p.refuse(false)
		hintUntil(t, hints, func() error {
			if blocks, err := h.Blocks(t.Context()); err != nil || len(blocks) > 0 {
				return errors.New("not yet")
			}
			return nil
		})
		if again := mustGrow(t, h); fmt.Sprint(again) != fmt.Sprint(have) {
			t.Errorf("round %d: got %v, want %v", round, again, have)
		}
		awaitHint(t, hints) // the watch works: it has seen this claim
	}
}

func TestWatchEnds(t *testing.T) {
	f := newFabric(t)
	h := f.host("a", small)
	ctx, cancel := context.WithCancel(t.Context())
	hints, err := h.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	awaitHint(t, hints)
	cancel()
	if _, open := <-hints; open {
		t.Error("a hint of nothing")
	}
	// While etcd is away it ends as well, and with the source.
	f.Kill()
	other, err := h.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, open := <-other; open {
		t.Error("a hint of nothing")
	}
	if _, err := h.Watch(t.Context()); err == nil {
		t.Error("a closed source is watched")
	}
	if _, err := h.Blocks(t.Context()); err == nil {
		t.Error("a closed source answers")
	}
}
