package resolver

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestContainersAreToldOfServersThatTheyReach(t *testing.T) {
	both := New(addrs("10.64.0.0", "fd00:64::"), "r1h1.fabric.internal", "fabric.internal")
	for name, c := range map[string]struct {
		of        Resolver
		container []netip.Addr
		servers   []netip.Addr
		domain    string
	}{
		"both families": {both, addrs("10.64.0.7", "fd00:64::7"), addrs("10.64.0.0", "fd00:64::"), "r1h1.fabric.internal"},
		"IPv4":          {both, addrs("10.64.0.7"), addrs("10.64.0.0"), "r1h1.fabric.internal"},
		"IPv6":          {both, addrs("fd00:64::7"), addrs("fd00:64::"), "r1h1.fabric.internal"},
		"no way":        {New(addrs("10.64.0.0"), "h.z", "z"), addrs("fd00:64::7"), nil, ""},
		"no server":     {New(nil, "h.z", "z"), addrs("10.64.0.7"), nil, ""},
	} {
		got := c.of.For(c.container)
		if !reflect.DeepEqual(got.Servers, c.servers) || got.Domain() != c.domain {
			t.Errorf("%s: %+v, want servers %v and domain %q", name, got, c.servers, c.domain)
		}
	}
}

// TestNoticeIsReadThroughAMount: what a container has bind-mounted is the file, whatever becomes of its name.
func TestNoticeIsReadThroughAMount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "resolv.conf")
	n := NewNotice(path, "", "")
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	two := addrs("10.64.0.0", "fd00:64::")
	set(n.SetServers(two))
	if n.File() != "" || len(n.Resolver().Servers) != 0 {
		t.Errorf("without a zone the file is %q, the resolver %v", n.File(), n.Resolver())
	}
	set(n.SetZone("r1h1.fabric.internal", "fabric.internal"))
	if n.File() != path || !reflect.DeepEqual(n.Resolver(), New(two, "r1h1.fabric.internal", "fabric.internal")) {
		t.Errorf("file %q, resolver %v", n.File(), n.Resolver())
	}
	mounted, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	const head = "# Written by hostfabric; it follows the host's addresses.\n"
	reads := func(want string) {
		t.Helper()
		text := make([]byte, 4096)
		k, err := mounted.ReadAt(text, 0)
		if got := strings.TrimRight(string(text[:k]), "\n") + "\n"; got != head+want {
			t.Errorf("a container reads %q (%v), want %q", got, err, head+want)
		}
	}
	reads("nameserver 10.64.0.0\nnameserver fd00:64::\nsearch r1h1.fabric.internal fabric.internal\n")
	set(n.SetServers(addrs("10.72.0.0")))
	reads("nameserver 10.72.0.0\nsearch r1h1.fabric.internal fabric.internal\n")
	set(n.SetServers(two))
	set(n.SetZone("r1h1.fabric.example", "fabric.example"))
	reads("nameserver 10.64.0.0\nnameserver fd00:64::\nsearch r1h1.fabric.example fabric.example\n")

	// The next agent finds the file of the one before, and leaves it to whoever has mounted it.
	n = NewNotice(path, "r1h1.fabric.example", "fabric.example")
	set(n.SetServers(two))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	} else if open, err := mounted.Stat(); err != nil || !os.SameFile(info, open) {
		t.Errorf("the file is another one: %v", err)
	}
	set(n.SetZone("", ""))
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("without a resolver there is a file: %v", err)
	}
}

func TestNoticeThatCannotBeWritten(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n := NewNotice(filepath.Join(blocked, "resolv.conf"), "h.z", "z")
	if err := n.SetServers(addrs("10.64.0.0")); err == nil {
		t.Error("no error")
	}
	if len(n.Resolver().Servers) != 1 || n.File() != "" {
		t.Errorf("resolver %v, file %q: want the one without the other", n.Resolver(), n.File())
	}
}
