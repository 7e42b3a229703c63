package unnumbered

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// script drives a discovery: "1s ra a" at that time, "1s answer b", "1s up"; expect lines follow as "1s want ...".
// Addresses answer probes while they are in alive.
type script struct {
	d     *discovery
	start time.Time
	now   time.Time
	alive map[string]bool
	wake  time.Time // when step asked to be called
}

func address(name string) netip.Addr { return netip.MustParseAddr("fe80::" + name) }

func (s *script) step() {
	probe, next := s.d.step(s.now)
	s.wake = time.Time{}
	if next > 0 {
		s.wake = s.now.Add(next)
	}
	for _, a := range probe {
		if s.alive[strings.TrimPrefix(a.String(), "fe80::")] {
			s.d.heard(a, answer, s.now)
		}
	}
}

// until lets time pass, stepping whenever the discovery asked for it.
func (s *script) until(t time.Time) {
	for !s.wake.IsZero() && !s.wake.After(t) {
		s.now = s.wake
		s.step()
	}
	s.now = t
}

func TestDiscovery(t *testing.T) {
	for name, lines := range map[string]string{
		"an advertisement, after a moment for others": `
0s up
100ms ra a
101ms want none: no router heard on eth0
200ms want a`,
		"nobody": `
0s up
5s want none: no router heard on eth0`,
		"a router that only answers, when nobody advertises": `
0s up
10ms answer a
900ms want none: no router heard on eth0
1s want a`,
		"an advertisement goes before answers": `
0s up
10ms answer b
500ms ra a
2s want a`,
		"and after them too": `
0s up
10ms answer b
1100ms want b
3s ra a
3s want a`,
		"a router that comes late": `
0s up
60s ra a
61s want a`,
		"two at once are not guessed about": `
0s up
100ms ra a
150ms ra b
3s want none: several routers on eth0 (fe80::a, fe80::b): a session by interface needs a link with one`,
		"until one goes": `
0s up
100ms ra a
150ms ra b
3s die a
20s want b`,
		"the one that is there stays, and the other is told of": `
0s up
100ms ra a
1s want a
20s ra b
21s want a: several routers on eth0 (fe80::a, fe80::b): a session by interface needs a link with one
25s die b
40s want a`,
		"one that replaces another": `
0s up
100ms ra a
1s want a
20s die a
30s ra b
30010ms want a
31s want b
60s want b`,
		"a link that comes back with another router": `
0s up
100ms ra a
1s want a
2s die a
3s up
3100ms ra b
5s want b`,
		"a link that comes back with the same": `
0s up
100ms ra a
3s up
3s want a
3100ms ra a
5s want a`,
		"and back again": `
0s up
100ms ra a
1s want a
2s die a
3s ra b
5s want b
6s die b
7s ra a
9s want a`,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(1_000_000, 0)
			s := &script{d: newDiscovery("eth0"), start: start, now: start, alive: map[string]bool{}}
			for line := range strings.Lines(strings.TrimSpace(lines)) {
				at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
				after, err := time.ParseDuration(at)
				if err != nil {
					t.Fatal(err)
				}
				s.until(start.Add(after))
				verb, arg, _ := strings.Cut(what, " ")
				switch verb {
				case "up":
					s.d.begin(s.now)
				case "ra":
					s.alive[arg] = true
					s.d.heard(address(arg), advertisement, s.now)
				case "answer":
					s.alive[arg] = true
					s.d.heard(address(arg), answer, s.now)
				case "die":
					delete(s.alive, arg)
				case "want":
					a, problem := s.d.result(s.now)
					got := "none"
					if a.IsValid() {
						got = strings.TrimPrefix(a.String(), "fe80::")
					}
					if problem != "" {
						got = fmt.Sprintf("%s: %s", got, problem)
					}
					if got != arg {
						t.Errorf("at %s: %s, want %s", at, got, arg)
					}
					continue
				default:
					t.Fatalf("unknown step %q", line)
				}
				s.step()
			}
		})
	}
}

func TestDiscoveryIsBounded(t *testing.T) {
	d := newDiscovery("eth0")
	now := time.Unix(1_000_000, 0)
	d.begin(now)
	d.heard(address("a"), advertisement, now)
	for range 2 {
		now = now.Add(time.Second)
		d.step(now)
	}
	for i := range 1000 {
		d.heard(address(fmt.Sprintf("b:%x", i)), advertisement, now)
		d.heard(address("a"), answer, now)
	}
	if len(d.routers) > maxRouters {
		t.Errorf("%d routers remembered", len(d.routers))
	}
	// They answer no probe: the router that does stays.
	for range 100 {
		now = now.Add(probeInterval)
		probe, _ := d.step(now)
		for _, a := range probe {
			if a == address("a") {
				d.heard(a, answer, now)
			}
		}
	}
	if a, problem := d.result(now); a != address("a") || problem != "" {
		t.Errorf("%s, %q", a, problem)
	}
}
