package agent_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/notes"
	"github.com/hostfabric/hostfabric/ipam"
)

var shop = agent.Description{Name: "web-1", Aliases: []string{"web", "www.shop"}, Labels: map[string]string{"app": "shop", "io.example/tier": "front end"}}

func (r *rig) described(t *testing.T, id string) agent.Description {
	t.Helper()
	for _, ep := range r.Endpoints() {
		if ep.ContainerID == id {
			return ep.Description
		}
	}
	t.Fatalf("%s is not attached", id)
	return agent.Description{}
}

func TestDescriptionOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	store, err := notes.Open[agent.Description](filepath.Join(dir, "notes"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	file, wirer := filepath.Join(dir, "leases"), &fakeWirer{}
	first := newRigWith(t, file, wirer, store, "10.64.0.0/26")
	q := request("web")
	q.Description = shop
	ep, err := first.Attach(t.Context(), q)
	if err != nil || !reflect.DeepEqual(ep.Description, shop) {
		t.Fatalf("attached with %+v, %v", ep.Description, err)
	}
	first.attach(t, "plain")
	first.attach(t, "gone")
	if err := first.Describe(t.Context(), request("gone").Key, agent.Description{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	first.stop()
	wirer.vanish(hostLink(first, "gone"))

	second := newRigWith(t, file, wirer, store, "10.64.0.0/26")
	if got := second.described(t, "web"); !reflect.DeepEqual(got, shop) {
		t.Errorf("after a restart it is %+v, want %+v", got, shop)
	}
	if got := second.described(t, "plain"); got.Name != "" || len(got.Labels) > 0 {
		t.Errorf("a container that nothing was said of has %+v", got)
	}
	again, err := second.Attach(t.Context(), request("web"))
	if err != nil || !reflect.DeepEqual(again.Description, shop) {
		t.Errorf("repeated attach without a word: %+v, %v", again.Description, err)
	}
	q.Description = agent.Description{Name: "other"}
	if again, err = second.Attach(t.Context(), q); err != nil || !reflect.DeepEqual(again.Description, q.Description) {
		t.Errorf("repeated attach with other words: %+v, %v", again.Description, err)
	}
	if _, err := second.Detach(t.Context(), q.Key); err != nil {
		t.Fatal(err)
	}
	if left := store.All(); len(left) != 0 {
		t.Errorf("notes left: %v", left)
	}
	if err := second.Describe(t.Context(), q.Key, shop); !errors.Is(err, agent.ErrNotFound) {
		t.Errorf("describing what is not attached: %v", err)
	}
}

func hostLink(r *rig, id string) string {
	for _, ep := range r.Endpoints() {
		if ep.ContainerID == id {
			return ep.HostInterface
		}
	}
	return ""
}

func TestBadDescriptionChangesNothing(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	big := map[string]string{}
	for i := range 20 {
		big[fmt.Sprint(i)] = strings.Repeat("x", 1000)
	}
	for what, d := range map[string]agent.Description{
		"name with a space":        {Name: "a b"},
		"name with an empty label": {Name: "a..b"},
		"name with a long label":   {Name: strings.Repeat("x", 64)},
		"name of 129 bytes":        {Name: strings.Repeat("x.", 64) + "x"},
		"name that starts badly":   {Name: "-a"},
		"alias with a space":       {Name: "a", Aliases: []string{"b", "c d"}},
		"empty alias":              {Aliases: []string{""}},
		"33 aliases":               {Aliases: slices.Repeat([]string{"a"}, 33)},
		"key with =":               {Labels: map[string]string{"a=b": "c"}},
		"empty key":                {Labels: map[string]string{"": "c"}},
		"value with a line":        {Labels: map[string]string{"a": "b\nc"}},
		"value of other bytes":     {Labels: map[string]string{"a": "\xff"}},
		"long value":               {Labels: map[string]string{"a": strings.Repeat("x", 1025)}},
		"65 labels":                {Labels: many},
		"20 kB of labels":          {Labels: big},
	} {
		q := request("web")
		q.Description = d
		if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrInvalid) || len(err.Error()) > 600 {
			t.Errorf("%s: %v", what, err)
		}
	}
	q := request("web")
	q.Family = "ipx"
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrInvalid) {
		t.Errorf("a family that there is not: %v", err)
	}
	r.nothingLeft(t)
}

func TestFamily(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	q := request("web")
	q.Family = ipam.OnlyIPv6
	ep, err := r.Attach(t.Context(), q)
	if err != nil || len(ep.Addresses) != 1 || !ep.Addresses[0].Is6() || len(ep.Gateways) != 1 {
		t.Fatalf("only IPv6: %v, %v", ep.Addresses, err)
	}
	if _, err := r.Attach(t.Context(), request("web")); err != nil {
		t.Errorf("repeated without a family: %v", err)
	}
	q.Family = ipam.OnlyIPv4
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("repeated with the other family: %v", err)
	}
}
