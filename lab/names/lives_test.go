package names_test

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/names"
	"github.com/hostfabric/hostfabric/lab/tor"
)

var lives = flag.Int("names.lives", 1500, "how many short-lived containers are looked up")

// TestShortLives has containers come and go, each within a second, and asks the host of another rack for each of them: right after its
// attach has returned its name leads to just its addresses and they to its name, and right after its detach has returned there are none
// of these. Names and addresses are used again and again.
func TestShortLives(t *testing.T) {
	t.Parallel()
	r := newRig(t, fabric.Shape{Name: "nms", Tor: tor.FRR, Racks: 2, Hosts: 1, IPv6: true, BlockIPv4: 22, Quarantine: time.Second})
	of, from := r.host(t, "r1h1"), r.host(t, "r2h1")
	c := asker(t, from.NS, from.Blocks[0].Addr())
	settles(t, c, fqdn("none", "r1h1"), "A", "NXDOMAIN")
	settles(t, c, fqdn("none", "r9h9"), "A", "NXDOMAIN")
	report, err := names.Live(t.Context(), names.Options{Lab: r.lab, Hosts: r.hosts, Of: of, From: from, Lives: *lives, Workers: 8})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(report.First)
	t.Logf("%d containers of less than a second each (and %d of more) in %s; %d queries, %d answers wrong; the first one after an attach took %s at the median, %s at the 99th percentile, %s at most",
		report.Lives, report.Long, report.Took.Round(time.Millisecond), report.Queries, report.WrongCount,
		report.First[len(report.First)/2], report.First[len(report.First)*99/100], report.First[len(report.First)-1])
	if report.Lives != *lives || report.WrongCount > 0 {
		t.Errorf("%d lives, want %d; %d wrong, stale or late answers, want 0:", report.Lives, *lives, report.WrongCount)
	}
	for _, wrong := range report.Wrong {
		t.Error(wrong)
	}
}
