package netns_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/vishvananda/netlink"
)

func link(t *testing.T, ns netns.NS, name string) (attrs netlink.LinkAttrs) {
	t.Helper()
	err := ns.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			attrs = *l.Attrs()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return attrs
}

// TestCableCarrier checks that the loss of a cable's far end shows at once, also where the kernel would have given both
// ends the same index, and would then have waited for up to a second whenever another link had changed just before.
func TestCableCarrier(t *testing.T) {
	a, b := nstest.New(t, "a"), nstest.New(t, "b")
	if err := netns.Cable(netns.End{NS: a, Link: "up", Addresses: []string{"10.0.0.0/31"}}, netns.End{NS: b, Link: "down", MTU: 1400}); err != nil {
		t.Fatal(err)
	}
	if up, down := link(t, a, "up"), link(t, b, "down"); up.Index == down.Index || down.MTU != 1400 {
		t.Errorf("indexes %d and %d, want two; MTU %d, want 1400", up.Index, down.Index, down.MTU)
	}
	for _, up := range []bool{false, true, false} {
		err := b.Do(func() error {
			l, err := netlink.LinkByName("down")
			if err == nil && up {
				return netlink.LinkSetUp(l)
			} else if err == nil {
				return netlink.LinkSetDown(l)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for (link(t, a, "up").OperState == netlink.OperUp) != up {
			if time.Since(begin) > 300*time.Millisecond {
				t.Fatalf("up=%t has not shown at the other end within 300 ms", up)
			}
		}
	}
}

func TestCreate(t *testing.T) {
	ns := nstest.New(t, "x")
	if _, err := netns.Create(ns.Name); err == nil {
		t.Error("a name was given twice")
	}
	out, err := ns.Output(context.Background(), "ip", "-o", "link")
	if err != nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "lo: <LOOPBACK,UP") {
		t.Errorf("a new namespace has %q (%v), want loopback alone, and up", out, err)
	}
	cmd := exec.Command("ip", "netns", "identify")
	var b strings.Builder
	cmd.Stdout = &b
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || strings.TrimSpace(b.String()) != ns.Name {
		t.Errorf("a process started in %s is in %q (%v)", ns.Name, b.String(), err)
	}
	if _, err := ns.Output(context.Background(), "sh", "-c", "echo no such luck >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("err = %v, want what the command said", err)
	}
	for range 2 {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	}
	if ns.Exists() {
		t.Error("it exists after Delete")
	}
	if err := ns.Do(func() error { return nil }); err == nil {
		t.Error("a namespace that is gone was entered")
	}
}

// TestDoLeavesThreads checks that code after Do is where it was before.
func TestDoLeavesThreads(t *testing.T) {
	ns := nstest.New(t, "x")
	deadline := time.Now().Add(200 * time.Millisecond)
	for time.Now().Before(deadline) {
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		links, err := exec.Command("ip", "netns", "identify").Output()
		if err != nil || strings.Contains(string(links), ns.Name) {
			t.Fatalf("a process started outside is in %q (%v)", links, err)
		}
	}
}
