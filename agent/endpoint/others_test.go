package endpoint_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

var blocks = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/26"), netip.MustParsePrefix("2001:db8:64::/112")}

// newCrowdedWirer returns a Wirer of a host with our discard routes, two links of other people's, x0 and br0 (the latter
// as Docker has it, without a container), and one container of ours with a host route.
func newCrowdedWirer(t testing.TB) (*endpoint.Wirer, netns.NS, endpoint.Spec) {
	t.Helper()
	w, host := newWirer(t)
	forward(t, host)
	for _, args := range []string{
		"link add name x0 type veth peer name x1", "link set x1 up", "link set x0 up",
		"link add name br0 type bridge", "link set br0 up",
		"route add blackhole 10.64.0.0/26 metric 4294967295 proto 176",
		"route add blackhole 2001:db8:64::/112 metric 4294967295 proto 176",
		"route add default dev x0", "route add 10.64.0.0/16 dev x0", // cover the blocks
		"-6 route add default dev x0", "-6 route add 2001:db8:64::/64 dev x0",
	} {
		ip(t, host, strings.Fields(args)...)
	}
	s := spec(nstest.New(t, "box"), "c1", "10.64.0.5", "2001:db8:64::5")
	wire(t, w, s)
	for _, a := range s.Addrs {
		ip(t, host, "route", "add", a.String(), "dev", s.HostLink, "proto", "176")
	}
	return w, host, s
}

func uses(t testing.TB, w *endpoint.Wirer, own ...netip.Addr) []string {
	t.Helper()
	list, err := w.Others(t.Context(), blocks, own)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, u := range list {
		all = append(all, fmt.Sprintf("%v: %s", u.Prefix, u.By))
	}
	return all
}

// TestOthers puts one thing after another into the host's namespace, looks at what is listed because of it and who has
// an address, and takes it away.
func TestOthers(t *testing.T) {
	w, host, _ := newCrowdedWirer(t)
	if got := uses(t, w); len(got) > 0 {
		t.Fatalf("from the start: %q", got)
	}
	const n4, n6 = "10.64.0.", "2001:db8:64::"
	for _, tc := range []struct {
		name  string
		do    []string // ip commands; of the first word "add" they are taken back with "del"
		uses  []string
		addrs map[string]string // what UsedBy says
	}{
		{
			"Docker's network",
			[]string{"addr add 10.64.0.17/28 dev br0 brd +", "addr add 2001:db8:64::11/124 dev br0 nodad"},
			[]string{
				"10.64.0.16/28: route to 10.64.0.16/28 by br0 (proto kernel, table main)", "10.64.0.17/32: address of br0",
				"2001:db8:64::10/124: route to 2001:db8:64::10/124 by br0 (proto kernel, table main)", "2001:db8:64::11/128: address of br0",
			},
			map[string]string{
				n4 + "15": "", n4 + "16": "route to 10.64.0.16/28 by br0 (proto kernel, table main)", n4 + "17": "address of br0",
				n4 + "18": "route to 10.64.0.16/28 by br0 (proto kernel, table main)", n4 + "31": "broadcast address of br0", n4 + "32": "",
				n6 + "f": "", n6 + "11": "address of br0", n6 + "12": "route to 2001:db8:64::10/124 by br0 (proto kernel, table main)", n6 + "20": "",
			},
		},
		{
			"the whole block",
			[]string{"route add 10.64.0.0/26 dev x0 proto static", "-6 route add 2001:db8:64::/112 dev x0 proto bird"},
			[]string{
				"10.64.0.0/26: route to 10.64.0.0/26 by x0 (proto static, table main)",
				"2001:db8:64::/112: route to 2001:db8:64::/112 by x0 (proto bird, table main)",
			},
			map[string]string{
				n4 + "9": "route to 10.64.0.0/26 by x0 (proto static, table main)",
				n6 + "9": "route to 2001:db8:64::/112 by x0 (proto bird, table main)",
				n4 + "5": "", n6 + "5": "", // our container's
			},
		},
		{
			"one address",
			[]string{"route add 10.64.0.9 dev x0", "route add 10.64.0.9 dev x0 metric 7", "-6 route add 2001:db8:64::9 dev x0 proto 77"},
			[]string{
				"10.64.0.9/32: route to 10.64.0.9/32 by x0 (proto boot, table main)",
				"2001:db8:64::9/128: route to 2001:db8:64::9/128 by x0 (proto 77, table main)",
			},
			map[string]string{
				n4 + "9": "route to 10.64.0.9/32 by x0 (proto boot, table main)", n4 + "8": "",
				n6 + "9": "route to 2001:db8:64::9/128 by x0 (proto 77, table main)", n6 + "8": "",
			},
		},
		{
			"another table that rules lead to",
			[]string{
				"rule add to 10.64.0.0/16 lookup 4242 pref 100", "-6 rule add to 2001:db8:64::/64 lookup 4242 pref 100",
				"route add 10.64.0.8/30 dev x0 table 4242", "-6 route add 2001:db8:64::8/126 dev x0 table 4242",
			},
			[]string{
				"10.64.0.8/30: route to 10.64.0.8/30 by x0 (proto boot, table 4242)",
				"2001:db8:64::8/126: route to 2001:db8:64::8/126 by x0 (proto boot, table 4242)",
			},
			map[string]string{
				n4 + "9": "route to 10.64.0.8/30 by x0 (proto boot, table 4242)", n4 + "12": "",
				n6 + "9": "route to 2001:db8:64::8/126 by x0 (proto boot, table 4242)", n6 + "c": "",
			},
		},
		{
			"local routes",
			[]string{"route add local 10.64.0.8/30 dev lo", "-6 route add local 2001:db8:64::8/126 dev lo"},
			[]string{
				"10.64.0.8/30: local route to 10.64.0.8/30 by lo (proto boot, table local)",
				"2001:db8:64::8/126: local route to 2001:db8:64::8/126 by lo (proto boot, table local)",
			},
			map[string]string{
				n4 + "9": "local route to 10.64.0.8/30 by lo (proto boot, table local)",
				n6 + "9": "local route to 2001:db8:64::8/126 by lo (proto boot, table local)",
			},
		},
		{
			"several next hops and a nexthop object",
			[]string{
				"addr add 192.0.2.1/24 dev x0", "addr add 2001:db8:1::1/64 dev x0 nodad",
				"route add 10.64.0.8/30 nexthop via 192.0.2.2 nexthop via 192.0.2.3",
				"nexthop add id 7 via 2001:db8:1::2 dev x0", "-6 route add 2001:db8:64::8/126 nhid 7",
			},
			[]string{
				"10.64.0.8/30: route to 10.64.0.8/30 by x0 (proto boot, table main)",
				"2001:db8:64::8/126: route to 2001:db8:64::8/126 by x0 (proto boot, table main)",
			},
			map[string]string{
				n4 + "9": "route to 10.64.0.8/30 by x0 (proto boot, table main)",
				n6 + "9": "route to 2001:db8:64::8/126 by x0 (proto boot, table main)",
			},
		},
		{
			"addresses without our mark",
			[]string{"addr add 10.64.0.1/32 dev lo", "addr add 2001:db8:64::1/128 dev lo", "addr add 10.64.0.2/32 dev x0", "addr add 2001:db8:64::2/128 dev x0 nodad"},
			[]string{
				"10.64.0.1/32: address of lo", "10.64.0.2/32: address of x0",
				"2001:db8:64::1/128: address of lo", "2001:db8:64::2/128: address of x0",
			},
			map[string]string{n4 + "1": "address of lo", n6 + "1": "address of lo", n4 + "2": "address of x0", n6 + "2": "address of x0", n4 + "3": "", n6 + "3": ""},
		},
		{
			"a local network on lo",
			[]string{"addr add 10.64.0.9/30 dev lo"},
			[]string{"10.64.0.8/30: local route to 10.64.0.8/30 by lo (proto kernel, table local)", "10.64.0.9/32: address of lo"},
			map[string]string{n4 + "10": "local route to 10.64.0.8/30 by lo (proto kernel, table local)"},
		},
		{
			"the far end of a tunnel",
			[]string{"addr add 192.0.2.1 peer 10.64.0.9 dev x0", "addr add 2001:db8:1::1 peer 2001:db8:64::9 dev x0 nodad"},
			[]string{
				"10.64.0.9/32: route to 10.64.0.9/32 by x0 (proto kernel, table main)",
				"2001:db8:64::9/128: route to 2001:db8:64::9/128 by x0 (proto kernel, table main)",
			},
			map[string]string{n4 + "9": "route to 10.64.0.9/32 by x0 (proto kernel, table main)", n6 + "9": "route to 2001:db8:64::9/128 by x0 (proto kernel, table main)"},
		},
		{
			"broadcast and anycast of a network around the block",
			[]string{"addr add 10.64.0.100/25 brd 10.64.0.63 dev x0", "addr add 2001:db8:64::1:1/64 dev br0 nodad"},
			[]string{"10.64.0.63/32: broadcast address of x0", "2001:db8:64::/128: anycast address of br0"},
			map[string]string{n4 + "63": "broadcast address of x0", n4 + "62": "", n6 + "0": "anycast address of br0", n6 + "1": ""},
		},
		{
			"where nothing lives",
			[]string{
				"route add blackhole 10.64.0.16/28", "route add unreachable 10.64.0.9", "route add prohibit 10.64.0.10", "route add throw 10.64.0.11",
				"-6 route add blackhole 2001:db8:64::10/124", "-6 route add unreachable 2001:db8:64::9", "-6 route add prohibit 2001:db8:64::a", "-6 route add throw 2001:db8:64::b",
			},
			nil,
			map[string]string{n4 + "17": "", n4 + "9": "", n4 + "10": "", n4 + "11": "", n6 + "11": "", n6 + "9": "", n6 + "a": "", n6 + "b": ""},
		},
		{
			"stale routes of ours",
			[]string{"route add 10.64.0.9 dev x0 proto 176", "-6 route add 2001:db8:64::9 dev x0 proto 176"},
			nil,
			map[string]string{n4 + "9": "", n6 + "9": ""},
		},
		{
			"outside",
			[]string{"addr add 10.64.0.65/28 dev br0", "addr add 2001:db8:64::1:1/124 dev br0 nodad", "route add 10.64.0.0/25 dev x0", "-6 route add 2001:db8:64::/111 dev x0"},
			nil,
			map[string]string{n4 + "9": "", n6 + "9": ""},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, args := range tc.do {
				ip(t, host, strings.Fields(args)...)
			}
			defer func() {
				for _, args := range slices.Backward(tc.do) {
					ip(t, host, undo(args)...)
				}
				if left := uses(t, w); len(left) > 0 {
					t.Fatalf("left: %q", left)
				}
			}()
			// The kernel makes an IPv6 address local, and the routes that come with it, a moment later.
			got := uses(t, w)
			for deadline := time.Now().Add(patience); !slices.Equal(got, tc.uses) && time.Now().Before(deadline); {
				got = uses(t, w)
			}
			if !slices.Equal(got, tc.uses) {
				t.Errorf("listed\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tc.uses, "\n\t"))
			}
			for a, want := range tc.addrs {
				addr := netip.MustParseAddr(a)
				use, err := w.UsedBy(t.Context(), addr, blockOf(addr))
				for deadline := time.Now().Add(patience); use.By != want && err == nil && time.Now().Before(deadline); {
					use, err = w.UsedBy(t.Context(), addr, blockOf(addr))
				}
				if use.By != want || err != nil {
					t.Errorf("%s is used by %q, %v, want %q", a, use.By, err, want)
				}
			}
		})
	}
}

// undo turns an ip command that adds into the one that deletes the same.
func undo(args string) []string {
	args = strings.Replace(strings.TrimSuffix(args, " nodad"), " add ", " del ", 1)
	if strings.HasPrefix(args, "nexthop") {
		args, _, _ = strings.Cut(args, " via")
	}
	return strings.Fields(args)
}

func blockOf(a netip.Addr) netip.Prefix {
	return blocks[slices.IndexFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) })]
}

// TestNobodyButUs: the host's own addresses are no use by others, whether by our mark or because the caller says so.
func TestNobodyButUs(t *testing.T) {
	w, host, s := newCrowdedWirer(t)
	setHostAddresses(t, host, "10.64.0.1", "2001:db8:64::1")
	ip(t, host, "addr", "add", "10.64.0.2/32", "dev", "x0")
	ip(t, host, "addr", "add", "2001:db8:64::2/128", "dev", "x0", "nodad")
	own := []netip.Addr{netip.MustParseAddr("10.64.0.2"), netip.MustParseAddr("2001:db8:64::2")}
	if got := uses(t, w, own...); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	if got := uses(t, w); len(got) != len(own) {
		t.Errorf("listed %q without being told of %v", got, own)
	}
	for _, a := range s.Addrs {
		if by, err := w.UsedBy(t.Context(), a, blockOf(a)); by != (endpoint.Use{}) || err != nil {
			t.Errorf("our container's %v is used by %q, %v", a, by, err)
		}
	}
	for _, a := range []string{"10.64.0.1", "2001:db8:64::1"} {
		addr := netip.MustParseAddr(a)
		if by, err := w.UsedBy(t.Context(), addr, blockOf(addr)); by.By != "address of lo" || err != nil {
			t.Errorf("the host's %s is used by %q, %v", a, by, err)
		}
	}
	if _, err := w.UsedBy(t.Context(), netip.MustParseAddr("10.64.1.1"), blocks[0]); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("outside the block: %v", err)
	}
}

// TestNoRouteAtAll: before our discard routes are there, and without a default route, nothing is in use either.
func TestNoRouteAtAll(t *testing.T) {
	w, _ := newWirer(t)
	for _, b := range blocks {
		if by, err := w.UsedBy(t.Context(), b.Addr().Next(), b); by != (endpoint.Use{}) || err != nil {
			t.Errorf("%v: %q, %v", b, by, err)
		}
	}
}

func BenchmarkUsedBy(b *testing.B) {
	w, host, _ := newCrowdedWirer(b)
	ip(b, host, "route", "add", "10.64.0.9", "dev", "x0")
	for _, a := range []string{"10.64.0.7", "2001:db8:64::7", "10.64.0.9"} {
		b.Run(a, func(b *testing.B) {
			addr := netip.MustParseAddr(a)
			block := blockOf(addr)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.UsedBy(b.Context(), addr, block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOthers is of a host with many routes of ours, as for its containers.
func BenchmarkOthers(b *testing.B) {
	w, host, s := newCrowdedWirer(b)
	const n = 5000
	var commands strings.Builder
	for i := range n {
		fmt.Fprintf(&commands, "route add 10.65.%d.%d dev %s proto 176\nroute add 2001:db8:65::%x dev %s proto 176\n", i>>8, i&0xff, s.HostLink, i, s.HostLink)
	}
	batch := filepath.Join(b.TempDir(), "routes")
	if err := os.WriteFile(batch, []byte(commands.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	ip(b, host, "-batch", batch)
	ip(b, host, "route", "add", "10.64.0.9", "dev", "x0")
	b.ReportAllocs()
	for b.Loop() {
		if list, err := w.Others(b.Context(), blocks, nil); err != nil || len(list) != 1 {
			b.Fatal(list, err)
		}
	}
}
