package drain_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestForwardingIsSwitchedOff switches it off in a host's namespace as a careless sysctl would: for a moment, then for longer.
func TestForwardingIsSwitchedOff(t *testing.T) {
	r := newRig(t, tor.FRR, 1)
	forward := func(value string) {
		t.Helper()
		if err := r.host.NS.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0) }); err != nil {
			t.Fatal(err)
		}
	}
	problems := func() string { return strings.Join(r.status(t).GetProblems(), "\n") }
	// absent polls for so long and counts how often a ToR had the block not.
	absent := func(d time.Duration) (n int) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for end := time.After(d); ; {
			select {
			case <-end:
				return n
			case <-tick.C:
				if !r.present(t) {
					n++
				}
			}
		}
	}

	forward("0")
	if n := absent(1500 * time.Millisecond); n > 0 {
		t.Errorf("withdrawn in %d polls of the first 1.5 s", n)
	}
	if p := problems(); !strings.Contains(p, "net.ipv4.ip_forward is 0") || !strings.Contains(p, "withdrawn if that lasts 3s") {
		t.Errorf("problems %q", p)
	}
	forward("1")
	if n := absent(4 * time.Second); n > 0 {
		t.Errorf("withdrawn in %d polls after a blip", n)
	}
	if p := problems(); p != "" {
		t.Errorf("problems after a blip: %q", p)
	}

	forward("0")
	began := time.Now()
	eventually(t, "the block is withdrawn", func() bool { return !r.present(t) })
	if took := time.Since(began); took < 2*time.Second || took > 8*time.Second {
		t.Errorf("withdrawn after %s, want some 3 s", took)
	} else {
		t.Logf("withdrawn after %s", took.Round(100*time.Millisecond))
	}
	if p := problems(); !strings.Contains(p, "blocks are not announced: net.ipv4.ip_forward is 0") {
		t.Errorf("problems %q", p)
	}
	if s := r.status(t); s.GetPeersEstablished() != 2 {
		t.Errorf("%d sessions: they are no matter of the gate", s.GetPeersEstablished())
	}

	forward("1")
	began = time.Now()
	eventually(t, "the block is back", func() bool { return r.present(t) })
	if took := time.Since(began); took < 9*time.Second || took > 16*time.Second {
		t.Errorf("back after %s, want some 10 s", took)
	} else {
		t.Logf("back after %s", took.Round(100*time.Millisecond))
	}
	lossless(t, "after recovery", r.own[0], r.other, func() { pass(time.Second) })
}
