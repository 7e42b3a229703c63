package growth_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

// TestVerdict shows the watch what must not be, so that a clean verdict means something.
func TestVerdict(t *testing.T) {
	const budget = 2
	table := func(lines ...string) map[netip.Prefix]string {
		hosts := map[netip.Prefix]string{}
		for _, line := range lines {
			prefix, host, _ := strings.Cut(line, " ")
			hosts[netip.MustParsePrefix(prefix)] = host
		}
		return hosts
	}
	clean := []string{"10.64.0.0/26 r1h1", "10.72.0.0/26 r1h2"}
	for _, tt := range []struct {
		name  string
		table string
		holds []string
		err   error
		want  string // in the one thing wrong; nothing if empty
	}{
		{name: "clean", table: "kernel of r1t1", holds: clean},
		{name: "grown, both prefixes for a while", table: "kernel of r1t1", holds: append(clean, "10.64.0.0/25 r1h1")},
		{name: "by way of the spine", table: "kernel of r1t2", holds: []string{"10.64.0.0/26 ", "10.72.0.0/26 r1h2"}},
		{name: "over budget", table: "kernel of r1t1", holds: append(clean, "10.64.0.64/26 r1h1", "10.64.0.128/26 r1h1"), want: "more than the budget of 2"},
		{name: "a container's route", table: "kernel of r1t2", holds: append(clean, "10.64.0.5/32 r1h1"), want: "holds 10.64.0.5/32"},
		{name: "from nobody", table: "table of r1t1", holds: append(clean, "10.65.0.0/24 "), want: "10.65.0.0/24, which comes from no host"},
		{name: "not readable", table: "table of r1t1", err: errors.New("vtysh has ended"), want: "vtysh has ended"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := cleanWatch(t, table(clean...))
			w.saw(t.Context(), tt.table, time.Second, table(tt.holds...), tt.err)
			checkVerdict(t, w.wrong(budget), tt.want)
		})
	}
	t.Run("a live container without a route", func(t *testing.T) {
		w := cleanWatch(t, table(clean...))
		w.born(netip.MustParseAddr("10.64.0.70"))
		w.born(netip.MustParseAddr("10.64.0.7"))
		before := w.alive()
		w.born(netip.MustParseAddr("10.64.0.71")) // too late to be missed in this look
		w.checkCovered("r1t1", time.Second, before, table(clean...))
		checkVerdict(t, w.wrong(budget), "1 times a live container had no route, at first:\n1.000 s: 10.64.0.70 has no route in the kernel of r1t1")
	})
	t.Run("one that is detached", func(t *testing.T) {
		w := cleanWatch(t, table(clean...))
		w.born(netip.MustParseAddr("10.64.0.70"))
		before := w.alive()
		w.dies(netip.MustParseAddr("10.64.0.70"))
		w.checkCovered("r1t1", time.Second, before, table(clean...))
		checkVerdict(t, w.wrong(budget), "")
	})
	t.Run("a table that nobody looked at", func(t *testing.T) {
		w := cleanWatch(t, table(clean...))
		delete(w.tables, "table of r1t2")
		checkVerdict(t, w.wrong(budget), "the table of r1t2 was never seen")
	})
}

// cleanWatch is one that has seen every table once, all as they should be.
func cleanWatch(t *testing.T, hosts map[netip.Prefix]string) *watch {
	t.Helper()
	plan, err := fabric.NewPlan(fabric.Shape{Racks: 1, Hosts: 2, Source: fabric.Etcd})
	if err != nil {
		t.Fatal(err)
	}
	w := newWatch(&fabric.Lab{Plan: plan})
	for _, table := range []string{"kernel of r1t1", "table of r1t1", "kernel of r1t2", "table of r1t2"} {
		w.saw(context.Background(), table, 0, hosts, nil)
	}
	return w
}

func checkVerdict(t *testing.T, wrong []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(wrong) > 0:
		t.Errorf("wrong is %q, want nothing", wrong)
	case want != "" && (len(wrong) != 1 || !strings.Contains(wrong[0], want)):
		t.Errorf("wrong is %q, want just one with %q", wrong, want)
	}
}
