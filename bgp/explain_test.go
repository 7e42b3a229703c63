package bgp_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/bgp"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	received := func(prefix string) string {
		t.Helper()
		list, err := r.host.Received(t.Context(), pfx(prefix))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, x := range list {
			line := fmt.Sprintf("%s from %s via %s", x.Prefix, x.Peer, x.NextHop)
			if x.Refusal != "" {
				line += ": " + x.Refusal
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "\n")
	}
	for _, tc := range []struct{ prefix, want string }{
		{"10.64.2.7/32", `10.64.2.0/26 from 10.0.1.0 via 10.0.1.0
10.64.2.0/26 from 10.0.2.0 via 10.0.2.0
10.64.0.0/12 from 10.0.2.0 via 10.0.2.0: it covers this host's own block 10.64.1.0/26
0.0.0.0/0 from 10.0.1.0 via 10.0.1.0
0.0.0.0/0 from 10.0.2.0 via 10.0.2.0`},
		{"10.64.4.1/32", `10.64.4.0/28 from 10.0.2.0 via 10.0.2.0: it is a part of this host's own block 10.64.4.0/26
10.64.4.0/26 from 10.0.1.0 via 10.0.1.0: it is this host's own block
10.64.0.0/12 from 10.0.2.0 via 10.0.2.0: it covers this host's own block 10.64.1.0/26
0.0.0.0/0 from 10.0.1.0 via 10.0.1.0
0.0.0.0/0 from 10.0.2.0 via 10.0.2.0`},
		{"172.16.0.0/12", `172.16.0.0/12 from 10.0.1.0 via 10.0.1.0: it is not in the import list (import, import_default, fabric)
0.0.0.0/0 from 10.0.1.0 via 10.0.1.0
0.0.0.0/0 from 10.0.2.0 via 10.0.2.0`},
		{"fd64:0:2::9/128", `fd64:0:2::/64 from 10.0.1.0 via fd00:1::
fd64:0:2::/64 from 10.0.2.0 via fd00:2::
::/0 from 10.0.1.0 via fd00:1::
::/0 from 10.0.2.0 via fd00:2::`},
	} {
		if got := received(tc.prefix); got != tc.want {
			t.Errorf("%s\n%s\nwant\n%s", tc.prefix, got, tc.want)
		}
	}

	sent := func(prefix string) string {
		t.Helper()
		list, err := r.host.Sent(t.Context(), pfx(prefix))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	conf := r.conf
	conf.Leave = bgp.LeaveOthers
	if err := r.host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]string{
		"10.64.1.0/26":   "[{10.0.1.0 10.0.1.1 []} {10.0.2.0 10.0.2.1 [4294901760]}]",
		"fd64:0:1::/64":  "[{10.0.1.0 fd00:1::1 []} {10.0.2.0 fd00:2::1 [4294901760]}]",
		"10.64.1.0/27":   "[]",
		"10.64.2.0/26":   "[]", // what one router has told is not told to the other
		"192.0.2.128/25": "[]",
	} {
		if got := sent(prefix); got != want {
			t.Errorf("%s was sent to %s, want %s", prefix, got, want)
		}
	}
	// To a session that is down nothing was sent.
	conf.Shutdown = "x"
	if err := r.host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if got := sent("10.64.1.0/26"); got != "[]" {
		t.Errorf("sent to %s over no session", got)
	}
	r.host.stop()
	if _, err := r.host.Sent(t.Context(), pfx("10.64.1.0/26")); !errors.Is(err, bgp.ErrDisconnected) {
		t.Errorf("without a speaker: %v", err)
	}
	if _, err := r.host.Received(t.Context(), pfx("10.64.1.0/26")); !errors.Is(err, bgp.ErrDisconnected) {
		t.Errorf("without a speaker: %v", err)
	}
}
