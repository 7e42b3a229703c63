package tor

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var compareNets = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// sample is a router with a neighbour of each sort.
func sample(dir string, ns netns.NS) Node {
	return Node{
		Name: "r1t1", NS: ns, Dir: dir, ASN: 64513, RouterID: netip.MustParseAddr("10.255.1.1"), IPv6: true,
		Networks: prefixes("0.0.0.0/0", "::/0"),
		Neighbors: []Neighbor{
			{Name: "spine", Link: "spine", Address: netip.MustParseAddr("172.31.0.0"), Local: netip.MustParseAddr("172.31.0.1"), Local6: netip.MustParseAddr("fd00:31::1"), ASN: 64512},
			{Name: "r1h1", Link: "h1", Address: netip.MustParseAddr("172.31.0.5"), Local: netip.MustParseAddr("172.31.0.4"), Local6: netip.MustParseAddr("fd00:31::4"), ASN: 4200001001, Passive: true},
		},
	}
}

// TestConfigurations compares what is written for FRR and BIRD with files that people can read, and has the real
// programs check them.
func TestConfigurations(t *testing.T) {
	checks := map[string][]string{
		"bird.conf":  {"/usr/sbin/bird", "-p", "-c"},
		"bgpd.conf":  {filepath.Join(frrDir, "bgpd"), "-C", "-f"},
		"zebra.conf": {filepath.Join(frrDir, "zebra"), "-C", "-f"},
	}
	for name, tmpl := range map[string]*template.Template{"bird.conf": birdConf, "bgpd.conf": bgpdConf, "zebra.conf": zebraConf} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := tmpl.Execute(&got, sample("", netns.NS{})); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			abs, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			argv := append(checks[name], abs)
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v refuses it: %v\n%s", argv, err, out)
			}
		})
	}
}

func TestParseBirdProtocols(t *testing.T) {
	raw, err := os.ReadFile("testdata/bird-protocols.txt")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseBirdProtocols(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	want := []birdProtocol{{"r1h1", true, 3}, {"r1h2", false, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := parseBirdProtocols("x BGP --- up\n  Import updates: many 0\n"); !errors.Is(err, errBirdCounter) {
		t.Errorf("err = %v, want %v", err, errBirdCounter)
	}
}

func TestNew(t *testing.T) {
	if _, err := New("ios", Options{}); err == nil || !strings.Contains(err.Error(), `"ios" is not known`) {
		t.Errorf("err = %v", err)
	}
	embedded, err := New(Embedded, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := embedded.Check(); err == nil {
		t.Error("an embedded router without a binary passes the check")
	}
}

// TestMissingPrograms checks that a machine without FRR or BIRD is told what to do.
func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := (frrDriver{}).Check(); err == nil || !strings.Contains(err.Error(), "apt-get install frr") {
		t.Errorf("FRR without vtysh: %v", err)
	}
}

// TestKernelPrefixes checks what counts as a route, by the rules that Tor documents.
func TestKernelPrefixes(t *testing.T) {
	ns, far := nstest.New(t, "a"), nstest.New(t, "b")
	for _, cable := range []struct{ link, a, b string }{{"x", "10.0.0.0/31", "10.0.0.1/31"}, {"y", "10.0.0.2/31", "10.0.0.3/31"}} {
		if err := netns.Cable(netns.End{NS: ns, Link: cable.link, Addresses: []string{cable.a}}, netns.End{NS: far, Link: cable.link, Addresses: []string{cable.b}}); err != nil {
			t.Fatal(err)
		}
	}
	hop := func(s string) *netlink.NexthopInfo { return &netlink.NexthopInfo{Gw: netip.MustParseAddr(s).AsSlice()} }
	add := func(r netlink.Route, dst string) netlink.Route {
		if dst != "" {
			var err error
			if _, r.Dst, err = net.ParseCIDR(dst); err != nil {
				t.Fatal(err)
			}
		}
		r.Protocol = 200
		return r
	}
	all := []netlink.Route{
		add(netlink.Route{Gw: netip.MustParseAddr("10.0.0.1").AsSlice()}, "0.0.0.0/0"),
		add(netlink.Route{Gw: netip.MustParseAddr("10.0.0.1").AsSlice()}, "10.64.0.0/26"),
		add(netlink.Route{MultiPath: []*netlink.NexthopInfo{hop("10.0.0.1"), hop("10.0.0.3")}}, "10.64.0.64/26"),
		add(netlink.Route{Gw: netip.MustParseAddr("10.0.0.3").AsSlice()}, "10.64.0.128/26"),
		add(netlink.Route{Type: unix.RTN_BLACKHOLE}, "10.64.0.192/26"),
		add(netlink.Route{Gw: netip.MustParseAddr("10.0.0.1").AsSlice()}, "10.99.0.0/16"),
	}
	err := ns.Do(func() error {
		for _, r := range all {
			if err := netlink.RouteAdd(&r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p := processes{node: Node{Name: "x", NS: ns}}
	check := func(want []netip.Prefix, within ...netip.Prefix) {
		t.Helper()
		got, err := p.KernelPrefixes(context.Background(), within...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareNets); diff != "" {
			t.Errorf("within %v (-want +got):\n%s", within, diff)
		}
	}
	space := netip.MustParsePrefix("10.64.0.0/12")
	check(prefixes("10.64.0.0/26", "10.64.0.64/26", "10.64.0.128/26"), space)
	check(prefixes("0.0.0.0/0", "10.64.0.0/26", "10.64.0.64/26", "10.64.0.128/26", "10.99.0.0/16"), netip.MustParsePrefix("0.0.0.0/0"))
	check(nil, netip.MustParsePrefix("::/0"))
	check(nil)
	if err := far.Do(func() error { // the other end of y goes dark: what leaves only by y cannot be used
		link, err := netlink.LinkByName("y")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(5 * time.Second) // the kernel takes up to a second over a carrier's loss
	for {
		got, err := p.KernelPrefixes(context.Background(), space)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(got, prefixes("10.64.0.0/26", "10.64.0.64/26")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the other end of a link down: %v", got)
		}
		<-tick.C
	}
}

func TestInside(t *testing.T) {
	spaces := prefixes("10.64.0.0/12", "fd00:64::/48")
	for text, want := range map[string]bool{
		"10.64.0.0/12": true, "10.64.0.0/26": true, "10.79.255.255/32": true, "10.0.0.0/8": false, "10.80.0.0/26": false,
		"0.0.0.0/0": false, "fd00:64:0:1::/64": true, "::/0": false,
	} {
		if got := inside(netip.MustParsePrefix(text), spaces); got != want {
			t.Errorf("inside(%s) = %t", text, got)
		}
	}
	if inside(netip.Prefix{}, spaces) {
		t.Error("the zero prefix is inside")
	}
}
