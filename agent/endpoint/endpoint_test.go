package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 15 * time.Second

// newWirer returns a Wirer of a host of its own, without Run.
func newWirer(t testing.TB) (*endpoint.Wirer, netns.NS) {
	t.Helper()
	host := nstest.New(t, "host")
	var w *endpoint.Wirer
	err := host.Do(func() (err error) {
		w, err = endpoint.New(endpoint.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, host
}

// run runs the reaper until the returned function is called or the test ends.
func run(t testing.TB, w *endpoint.Wirer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func spec(ns netns.NS, id string, addrs ...string) endpoint.Spec {
	s := endpoint.Spec{
		HostLink: endpoint.HostLink(id, "eth0"), ContainerLink: "eth0", Netns: ns.Path(), MTU: 1500,
		Alias: alias(id, "eth0"),
	}
	for _, a := range addrs {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(a))
	}
	return s
}

func wire(t testing.TB, w *endpoint.Wirer, s endpoint.Spec) endpoint.Endpoint {
	t.Helper()
	e, err := w.Wire(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func ip(t testing.TB, ns netns.NS, args ...string) string {
	t.Helper()
	out, err := ns.Output(context.Background(), "ip", args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// links returns the names of a namespace's interfaces but lo.
func links(t testing.TB, ns netns.NS) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(ip(t, ns, "-br", "link")) {
		if name, _, _ := strings.Cut(strings.Fields(line)[0], "@"); name != "lo" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func await(t testing.TB, gone <-chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("link not gone")
	}
}

func TestWire(t *testing.T) {
	for name, addrs := range map[string][]string{
		"IPv4": {"10.64.0.5"}, "IPv6": {"2001:db8:64::5"}, "both": {"10.64.0.5", "2001:db8:64::5"},
		"several": {"10.64.0.5", "10.64.0.6", "2001:db8:64::5", "2001:db8:64::6"},
	} {
		t.Run(name, func(t *testing.T) {
			w, host := newWirer(t)
			box := nstest.New(t, "box")
			s := spec(box, "c1", addrs...)
			s.MTU = 1400
			e := wire(t, w, s)
			got, err := w.Inspect(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if got.HostMAC.String() != e.HostMAC.String() || got.ContainerMAC.String() != e.ContainerMAC.String() || got.MTU != 1400 {
				t.Errorf("inspected %+v, wired %+v", got, e)
			}
			if l := ip(t, host, "-d", "link", "show", s.HostLink); !strings.Contains(l, "alias hostfabric c1/eth0") || !strings.Contains(l, "addrgenmode none") {
				t.Errorf("host link:\n%s", l)
			}
			if out, err := host.Output(t.Context(), "nsenter", "--net="+host.Path(), "cat", "/proc/sys/net/ipv6/conf/"+s.HostLink+"/accept_ra"); err != nil || string(out) != "0\n" {
				t.Errorf("accept_ra %q, %v", out, err)
			}
			live, err := w.List(t.Context())
			if err != nil || len(live) != 1 || live[0].HostLink != s.HostLink || live[0].Alias != s.Alias || !slices.Equal(live[0].Addrs, s.Addrs) {
				t.Errorf("listed %v, %v", live, err)
			}
		})
	}
}

func TestWireDefaultsAndIPv6TurnedOff(t *testing.T) {
	w, _ := newWirer(t)
	box := nstest.New(t, "box")
	if err := box.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	s := spec(box, "c1", "2001:db8:64::5")
	s.MTU = 0
	if e := wire(t, w, s); e.MTU != 1500 {
		t.Errorf("MTU %d", e.MTU)
	}
	if _, err := w.Inspect(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestSmallMTU(t *testing.T) {
	w, _ := newWirer(t)
	s := spec(nstest.New(t, "box"), "c1", "10.64.0.5")
	s.MTU = 576
	wire(t, w, s)
	if _, err := w.Inspect(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestBadRequestsChangeNothing(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	ip(t, box, "link", "add", "name", "taken", "type", "veth", "peer", "name", "other")
	before := links(t, box)
	for name, c := range map[string]struct {
		edit func(*endpoint.Spec)
		want error
	}{
		"16 characters":     {func(s *endpoint.Spec) { s.ContainerLink = "abcdefghijklmnop" }, endpoint.ErrInvalid},
		"slash":             {func(s *endpoint.Spec) { s.ContainerLink = "a/b" }, endpoint.ErrInvalid},
		"colon":             {func(s *endpoint.Spec) { s.ContainerLink = "a:b" }, endpoint.ErrInvalid},
		"space":             {func(s *endpoint.Spec) { s.ContainerLink = "a b" }, endpoint.ErrInvalid},
		"dots":              {func(s *endpoint.Spec) { s.ContainerLink = ".." }, endpoint.ErrInvalid},
		"lo":                {func(s *endpoint.Spec) { s.ContainerLink = "lo" }, endpoint.ErrInvalid},
		"all":               {func(s *endpoint.Spec) { s.ContainerLink = "all" }, endpoint.ErrInvalid},
		"default":           {func(s *endpoint.Spec) { s.ContainerLink = "default" }, endpoint.ErrInvalid},
		"no name":           {func(s *endpoint.Spec) { s.ContainerLink = "" }, endpoint.ErrInvalid},
		"no host name":      {func(s *endpoint.Spec) { s.HostLink = "" }, endpoint.ErrInvalid},
		"no address":        {func(s *endpoint.Spec) { s.Addrs = nil }, endpoint.ErrInvalid},
		"address twice":     {func(s *endpoint.Spec) { s.Addrs = append(s.Addrs, s.Addrs[0]) }, endpoint.ErrInvalid},
		"multicast":         {func(s *endpoint.Spec) { s.Addrs = []netip.Addr{netip.MustParseAddr("224.0.0.1")} }, endpoint.ErrInvalid},
		"tiny MTU":          {func(s *endpoint.Spec) { s.MTU = 67 }, endpoint.ErrInvalid},
		"tiny MTU for IPv6": {func(s *endpoint.Spec) { s.MTU = 1279; s.Addrs = []netip.Addr{netip.MustParseAddr("2001:db8::1")} }, endpoint.ErrInvalid},
		"long alias":        {func(s *endpoint.Spec) { s.Alias = strings.Repeat("x", 256) }, endpoint.ErrInvalid},
		"no namespace":      {func(s *endpoint.Spec) { s.Netns = "" }, endpoint.ErrInvalid},
		"missing namespace": {func(s *endpoint.Spec) { s.Netns += "-nosuch" }, endpoint.ErrNotNetns},
		"file":              {func(s *endpoint.Spec) { s.Netns = file }, endpoint.ErrNotNetns},
		"fifo":              {func(s *endpoint.Spec) { s.Netns = fifo }, endpoint.ErrNotNetns},
		"directory":         {func(s *endpoint.Spec) { s.Netns = dir }, endpoint.ErrNotNetns},
		"other namespace":   {func(s *endpoint.Spec) { s.Netns = "/proc/self/ns/uts" }, endpoint.ErrNotNetns},
		"the host's":        {func(s *endpoint.Spec) { s.Netns = host.Path() }, endpoint.ErrHostNetns},
		"name taken":        {func(s *endpoint.Spec) { s.ContainerLink = "taken" }, endpoint.ErrLinkExists},
	} {
		s := spec(box, "c1", "10.64.0.5")
		c.edit(&s)
		if _, err := w.Wire(t.Context(), s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Wire(cancelled, spec(box, "c1", "10.64.0.5")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := links(t, host) + links(t, box); got != before {
		t.Errorf("links left: %s", got)
	}
}

func TestFailureHalfWayIsUndone(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	ip(t, box, "link", "add", "name", "x0", "type", "veth", "peer", "name", "x1")
	ip(t, box, "link", "set", "x0", "up")
	ip(t, box, "link", "set", "x1", "up")
	ip(t, box, "addr", "add", "192.0.2.1/24", "dev", "x0")
	ip(t, box, "route", "add", "default", "via", "192.0.2.2")
	for metric := 1024; metric < 1040; metric++ { // and in the way of the weaker one, whatever the interface's index
		ip(t, box, "route", "add", "default", "via", "192.0.2.2", "metric", fmt.Sprint(metric))
	}
	if _, err := w.Wire(t.Context(), spec(box, "c1", "10.64.0.5", "2001:db8::5")); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "default route via 169.254.1.1") {
		t.Errorf("default routes in the way: %v", err)
	}
	if got := links(t, host); got != "" {
		t.Errorf("left on the host: %s", got)
	}
	if got := links(t, box); strings.Contains(got, "eth0") {
		t.Errorf("left in the container: %s", got)
	}
}

func TestLeftoversAreReplaced(t *testing.T) {
	w, host := newWirer(t)
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	s := spec(box, "c1", "10.64.0.5")

	wire(t, w, s)
	wire(t, w, s) // the same again: a crash before the caller took note

	ip(t, host, "link", "set", s.HostLink, "alias", "")
	s.Netns = other.Path() // a crash before the alias, and the container came back elsewhere
	wire(t, w, s)
	if got := links(t, box); got != "" {
		t.Errorf("left in the first namespace: %s", got)
	}

	if _, err := w.Retire(t.Context(), s.HostLink, s.Addrs); err != nil { // and nobody reaps
		t.Fatal(err)
	}
	wire(t, w, s)
	if _, err := w.Inspect(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestLiveLinksAreNotReplaced(t *testing.T) {
	w, host := newWirer(t)
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	s := spec(box, "c1", "10.64.0.5")
	wire(t, w, s)
	clash := s
	clash.Alias, clash.Netns = alias("c2", "eth0"), other.Path()
	if _, err := w.Wire(t.Context(), clash); !errors.Is(err, endpoint.ErrLinkExists) || !strings.Contains(err.Error(), s.Alias) {
		t.Errorf("another container's host link: %v", err)
	}
	// Our own leftover stays when the container's name is taken by somebody else's interface.
	ip(t, other, "link", "add", "name", "eth0", "type", "veth", "peer", "name", "other")
	moved := s
	moved.Netns = other.Path()
	if _, err := w.Wire(t.Context(), moved); !errors.Is(err, endpoint.ErrLinkExists) {
		t.Errorf("container link taken: %v", err)
	}
	if _, err := w.Inspect(t.Context(), s); err != nil {
		t.Error(err)
	}
	if got := links(t, host); got != s.HostLink {
		t.Errorf("host links: %s", got)
	}
}

func TestInspectNamesWhatDiffers(t *testing.T) {
	w, host := newWirer(t)
	for change, want := range map[string]string{
		"host link set HOST mtu 1300":                  "MTU 1300",
		"host link set HOST down":                      "is down",
		"host link set HOST alias other":               "alias",
		"host neigh del 10.64.0.5 dev HOST":            "permanent neighbour 10.64.0.5",
		"box addr del 10.64.0.5/32 dev eth0":           "lacks address 10.64.0.5/32",
		"box route del default":                        "no default route via 169.254.1.1",
		"box -6 route del default":                     "no default route via fe80::1",
		"box neigh del fe80::1 dev eth0":               "permanent neighbour fe80::1",
		"box link set eth0 address 02:00:00:00:00:01":  "MAC address",
		"host link set HOST address 02:00:00:00:00:01": "MAC address",
		"host link set HOST group 6841857":             "about to be deleted",
		"box link del eth0":                            "not found",
	} {
		t.Run(strings.ReplaceAll(change, ":", ""), func(t *testing.T) {
			box := nstest.New(t, "box")
			s := spec(box, "c1", "10.64.0.5", "2001:db8:64::5")
			wire(t, w, s)
			where, cmd, _ := strings.Cut(strings.ReplaceAll(change, "HOST", s.HostLink), " ")
			ns := host
			if where == "box" {
				ns = box
			}
			ip(t, ns, strings.Fields(cmd)...)
			sentinel := endpoint.ErrMismatch
			if want == "not found" {
				sentinel = endpoint.ErrNotFound
			}
			if _, err := w.Inspect(t.Context(), s); !errors.Is(err, sentinel) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
			if errors.Is(sentinel, endpoint.ErrMismatch) {
				ip(t, host, "link", "del", s.HostLink)
			}
		})
	}
}

func TestRetire(t *testing.T) {
	w, host := newWirer(t)
	stop := run(t, w)
	var all []<-chan struct{}
	const n = 20
	for i := range n {
		s := spec(nstest.New(t, fmt.Sprint("box", i)), fmt.Sprint("c", i), fmt.Sprintf("10.64.0.%d", i))
		wire(t, w, s)
		gone, err := w.Retire(t.Context(), s.HostLink, s.Addrs)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, gone)
	}
	for _, gone := range all {
		await(t, gone)
	}
	if got := links(t, host); got != "" {
		t.Errorf("left: %s", got)
	}
	gone, err := w.Retire(t.Context(), "hfnosuch", nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	default:
		t.Error("a link that is not there is not gone at once")
	}
	stop()
}

func TestRunReapsAfterACrash(t *testing.T) {
	w, host := newWirer(t)
	s := spec(nstest.New(t, "box"), "c1", "10.64.0.5")
	wire(t, w, s)
	gone, err := w.Retire(t.Context(), s.HostLink, s.Addrs)
	if err != nil {
		t.Fatal(err)
	}
	if live, err := w.List(t.Context()); err != nil || len(live) != 0 {
		t.Errorf("listed %v, %v", live, err)
	}
	successor, err := newIn(host)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	stop := run(t, successor)
	for deadline := time.Now().Add(patience); links(t, host) != "" && time.Now().Before(deadline); {
	}
	stop()
	if got := links(t, host); got != "" {
		t.Fatalf("left: %s", got)
	}
	run(t, w)
	await(t, gone)
}

func newIn(host netns.NS) (w *endpoint.Wirer, err error) {
	err = host.Do(func() error {
		w, err = endpoint.New(endpoint.Options{})
		return err
	})
	return w, err
}

func TestNoFileDescriptorsLeak(t *testing.T) {
	w, host := newWirer(t)
	stop := run(t, w)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	cycle := func(i int) {
		box, err := netns.Create(fmt.Sprintf("%s-%d", host.Name, i))
		if err != nil {
			t.Fatal(err)
		}
		defer box.Delete()
		s := spec(box, fmt.Sprint("c", i), "10.64.0.5", "2001:db8:64::5")
		if i%4 == 0 {
			bad := s
			bad.ContainerLink = "lo"
			if _, err := w.Wire(t.Context(), bad); err == nil {
				t.Fatal("accepted")
			}
		}
		wire(t, w, s)
		if _, err := w.Inspect(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Retire(t.Context(), s.HostLink, s.Addrs); err != nil {
			t.Fatal(err)
		}
	}
	cycle(-1)
	before := count()
	for i := range 200 {
		cycle(i)
	}
	if after := count(); after > before {
		t.Errorf("%d file descriptors before 200 endpoints, %d after", before, after)
	}
	stop()
	if got := links(t, host); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 10_000 {
		name := endpoint.HostLink(fmt.Sprintf("%064x", i), "eth0")
		if len(name) != 15 || !strings.HasPrefix(name, endpoint.HostLinkPrefix) || seen[name] {
			t.Fatalf("name %q of %d", name, i)
		}
		seen[name] = true
	}
	for addr, want := range map[string]string{"10.64.0.5": "02:34:0a:40:00:05", "2001:db8::5": "02:36"} {
		if mac := endpoint.ContainerMAC(netip.MustParseAddr(addr)).String(); len(mac) != 17 || !strings.HasPrefix(mac, want) {
			t.Errorf("%s has %s", addr, mac)
		}
	}
}

// alias is a record such as the agent keeps on a host link.
func alias(id, iface string) string { return "hostfabric " + id + "/" + iface + " api" }
