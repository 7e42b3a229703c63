package blocks

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSteadiness feeds one look a second and writes down when the verdict changes. "+" is a good look, "-" a bad one.
func TestSteadiness(t *testing.T) {
	health := Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second}
	for _, tc := range []struct {
		name   string
		health Health
		looks  string
		want   string // second and verdict
	}{
		{"all is well", health, "++++", "0+"},
		{"a blip", health, "++--+", "0+"},
		{"a flap that never lasts", health, strings.Repeat("+---", 20), "0+"},
		{"a failure", health, "+----", "0+ 4-"},
		{"and its end", health, "+----" + strings.Repeat("+", 11), "0+ 4- 15+"},
		{"an end that does not last", health, "+----" + strings.Repeat("+", 9) + "-" + strings.Repeat("+", 11), "0+ 4- 25+"},
		{"bad from the start", health, "---+", "0- 3+"},
		{"a failure again doubles the wait", health, "+----" + strings.Repeat("+", 11) + "----" + strings.Repeat("+", 21), "0+ 4- 15+ 19- 40+"},
		{"and again", health, "+----" + strings.Repeat("+", 11) + "----" + strings.Repeat("+", 21) + "----" + strings.Repeat("+", 41), "0+ 4- 15+ 19- 40+ 44- 85+"},
		{"much later it does not", health, "+----" + strings.Repeat("+", 11+301) + "----" + strings.Repeat("+", 11), "0+ 4- 15+ 320- 331+"},
		{"without patience", Health{}, "+-+-", "0+ 1- 2+ 3-"},
		{"with patience one way", Health{RecoverAfter: 2 * time.Second}, "+-++++", "0+ 1- 4+"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := steadiness{Health: tc.health}
			began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			var got []string
			last := ""
			for i, look := range tc.looks {
				var found error
				if look == '-' {
					found = errors.New("off")
				}
				verdict := "+"
				if _, shut := s.look(began.Add(time.Duration(i)*time.Second), found); shut != nil {
					verdict = "-"
				}
				if verdict != last {
					got, last = append(got, fmt.Sprint(i, verdict)), verdict
				}
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// TestSteadinessIsBounded: however often it flaps, the wait for a steady recovery stays within bounds.
func TestSteadinessIsBounded(t *testing.T) {
	s := steadiness{Health: Health{FailAfter: time.Second, RecoverAfter: 10 * time.Second}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	changes := 0
	was := error(nil)
	const hours = 5
	for range hours * 3600 {
		found := errors.New("off")
		if s.shut != nil { // good as long as it takes, and bad at once when it is trusted
			found = nil
		}
		if _, shut := s.look(now, found); (shut == nil) != (was == nil) {
			was = shut
			changes++
		}
		now = now.Add(time.Second)
	}
	if s.wait != MaxRecover {
		t.Errorf("the wait grew to %s, want %s", s.wait, MaxRecover)
	}
	if most := 2 * (hours*12 + 6); changes > most { // two in 5 minutes, and those before it has grown
		t.Errorf("%d changes in %d hours, want at most %d", changes, hours, most)
	}
}

func TestHealthOfTheGate(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Health = Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second}
		r.static("10.64.0.0/28")
		r.start()
		r.did("announce [10.64.0.0/28]") // at once
		off := errors.New("net.ipv4.ip_forward is 0")
		r.shut(off)
		r.pass(2 * time.Second)
		r.did()
		r.problem("net.ipv4.ip_forward is 0: what depends on it is withdrawn if that lasts 3s")
		r.shut(nil)
		r.rest()
		r.did()
		r.problem("")

		r.shut(off)
		r.pass(5 * time.Second)
		r.did("announce []")
		if err := r.Status().Gate; !errors.Is(err, off) {
			r.t.Errorf("the gate says %v", err)
		}
		r.shut(nil)
		r.pass(9 * time.Second)
		r.did()
		if err := r.Status().Gate; !errors.Is(err, off) || !strings.Contains(err.Error(), "that is over since ") || !strings.Contains(err.Error(), "must stay so for 10s") {
			r.t.Errorf("the gate says %v", err)
		}
		r.pass(3 * time.Second)
		r.did("announce [10.64.0.0/28]")
	})
}

// TestHealthOfDiscardRoutes: a route that is gone for a moment is no reason, one that stays away is, for its block alone.
func TestHealthOfDiscardRoutes(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Health = Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second}
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		r.did("announce [10.64.0.0/28 10.80.0.0/28]")
		r.table.fail("10.64.0.0/28")
		r.pass(2 * time.Second)
		r.table.fail()
		r.rest()
		r.did()
		r.table.fail("10.64.0.0/28")
		r.pass(5 * time.Second)
		r.did("announce [10.80.0.0/28]")
		r.problem("10.64.0.0/28 is not announced: its discard route is not in the kernel: refused by the kernel")
		r.table.fail()
		r.pass(9 * time.Second)
		r.did()
		r.pass(3 * time.Second)
		r.did("announce [10.64.0.0/28 10.80.0.0/28]")
		r.problem("")
	})
}

// TestNewBlockWithoutDiscardRoute: what was never well is not waited for.
func TestNewBlockWithoutDiscardRoute(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Health = Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second}
		r.static("10.64.0.0/28")
		r.table.fail("10.64.0.0/28")
		r.start()
		r.did("announce []")
		r.table.fail()
		r.rest()
		r.did("announce [10.64.0.0/28]")
	})
}
