package unnumbered_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent/unnumbered"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var eventually = nstest.Eventually

func forward(t *testing.T, ns netns.NS) {
	t.Helper()
	if err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
}

func watch(t *testing.T, ns netns.NS, links ...string) *unnumbered.Watch {
	t.Helper()
	w, _ := watchWith(t, ns, unnumbered.Options{}, links...)
	return w
}

func watchWith(t *testing.T, ns netns.NS, opts unnumbered.Options, links ...string) (_ *unnumbered.Watch, stop func()) {
	t.Helper()
	var w *unnumbered.Watch
	if err := ns.Do(func() (err error) {
		w, err = unnumbered.New(links, opts)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return w, stop
}

func wantRouter(t *testing.T, w *unnumbered.Watch, link, addr, problem string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		r := w.Router(link)
		got := ""
		if r.Addr.IsValid() {
			got = r.Addr.String()
		}
		if got != addr || problem == "" && r.Problem != "" || !strings.Contains(r.Problem, problem) {
			return fmt.Errorf("router %q, problem %q, want %q, %q", got, r.Problem, addr, problem)
		}
		return nil
	})
}

// TestWatch finds a kernel that forwards and sends no advertisements, as beside BIRD without radv, and a Watch on the other
// side, which advertises.
func TestWatch(t *testing.T) {
	host, tor := nstest.New(t, "host"), nstest.New(t, "tor")
	w := watch(t, host, "up1")
	wantRouter(t, w, "up1", "", "no such network interface")
	if err := netns.Cable(netns.End{NS: host, Link: "up1", Addresses: []string{"fe80::1:1/64"}}, netns.End{NS: tor, Link: "down1", Addresses: []string{"fe80::a/64"}}); err != nil {
		t.Fatal(err)
	}
	wantRouter(t, w, "up1", "", "no router heard on up1") // it is a host
	forward(t, tor)
	eventually(t, 10*time.Second, func() error {
		if r := w.Router("up1"); !r.Addr.IsValid() || r.Problem != "" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})

	// Interfaces come and go.
	w.Set(nil)
	wantRouter(t, w, "up1", "", "looking for a router")
	w.Set([]string{"up1"})
	eventually(t, 10*time.Second, func() error {
		if r := w.Router("up1"); !r.Addr.IsValid() {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// TestRouterIsRemembered: an agent that starts anew knows the router at once, and gives it up for another one.
func TestRouterIsRemembered(t *testing.T) {
	host, tor := nstest.New(t, "host"), nstest.New(t, "tor")
	if err := netns.Cable(netns.End{NS: host, Link: "up1", Addresses: []string{"fe80::1:1/64"}}, netns.End{NS: tor, Link: "down1"}); err != nil {
		t.Fatal(err)
	}
	forward(t, tor)
	file := filepath.Join(t.TempDir(), "routers.json")
	w, stop := watchWith(t, host, unnumbered.Options{File: file}, "up1")
	var first unnumbered.Router
	eventually(t, 10*time.Second, func() error {
		if first = w.Router("up1"); !first.Addr.IsValid() {
			return fmt.Errorf("%+v", first)
		}
		return nil
	})
	stop()
	w, stop = watchWith(t, host, unnumbered.Options{File: file}, "up1")
	if r := w.Router("up1"); r != first {
		t.Errorf("after a restart %+v, before %+v", r, first)
	}
	stop()
	if err := os.WriteFile(file, []byte(`{"up1": "fe80::dead", "up2": "fe80::beef"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w, stop = watchWith(t, host, unnumbered.Options{File: file}, "up1")
	wantRouter(t, w, "up1", first.Addr.String(), "")
	stop()
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, _ = watchWith(t, host, unnumbered.Options{File: file}, "up1")
	wantRouter(t, w, "up1", first.Addr.String(), "")
}

// TestReplacedRouter has one link on which routers come and go.
func TestReplacedRouter(t *testing.T) {
	host, a, b, hub := nstest.New(t, "host"), nstest.New(t, "a"), nstest.New(t, "b"), nstest.New(t, "hub")
	ends := map[string]netns.NS{"up": host, "a": a, "b": b}
	if err := hub.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}})
	}); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{"up": "fe80::1:1/64", "a": "fe80::a/64", "b": "fe80::b/64"}
	for name, ns := range ends {
		// No address but ours: the kernel's own would be another router.
		if err := ns.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0)
		}); err != nil {
			t.Fatal(err)
		}
		if err := netns.Cable(netns.End{NS: ns, Link: "eth0", Addresses: []string{addresses[name]}}, netns.End{NS: hub, Link: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := hub.Do(func() error {
		bridge, err := netlink.LinkByName("bridge")
		if err != nil {
			return err
		}
		for name := range ends {
			port, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(port, bridge); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	}); err != nil {
		t.Fatal(err)
	}
	cut := func(name string, up bool) {
		t.Helper()
		if err := hub.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(link)
			}
			return netlink.LinkSetDown(link)
		}); err != nil {
			t.Fatal(err)
		}
	}
	forward(t, a)
	forward(t, b)
	cut("b", false)
	w := watch(t, host, "eth0")
	wantRouter(t, w, "eth0", "fe80::a%eth0", "")
	cut("b", true)
	wantRouter(t, w, "eth0", "fe80::a%eth0", "several routers on eth0 (fe80::a, fe80::b)")
	cut("a", false)
	wantRouter(t, w, "eth0", "fe80::b%eth0", "")
}
