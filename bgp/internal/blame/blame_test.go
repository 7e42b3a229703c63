package blame

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func peers(n int) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
	return out
}

func TestNamedPeerIsHeldEverLonger(t *testing.T) {
	var r Record
	all := peers(2)
	now := epoch
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600, 600, 600} {
		r.Named(now, all[0])
		held := r.Held(now, all)
		h, ok := held[all[0]]
		if len(held) != 1 || !ok || h.Until.Sub(now) != want*time.Second || h.Deaths != i+1 || h.Suspects != 0 {
			t.Fatalf("after %d deaths held %+v, want for %d s", i+1, held, want)
		}
		if held := r.Held(h.Until, all); len(held) != 0 {
			t.Fatalf("still held at the end: %+v", held)
		}
		now = h.Until.Add(time.Second)
	}
	if r.Crashes != 10 {
		t.Errorf("%d crashes", r.Crashes)
	}
	order := slices.Clone(all)
	if r.Sort(order); order[0] != all[1] {
		t.Error("the culprit comes first")
	}
	now = now.Add(Forgive + MaxHold)
	r.Named(now, all[0])
	if h := r.Held(now, all)[all[0]]; h.Until.Sub(now) != MinHold || h.Deaths != 1 {
		t.Errorf("after a long quiet time held %+v", h)
	}
}

func TestHostIsNotLeftAlone(t *testing.T) {
	var r Record
	all := peers(2)
	r.Named(epoch, all[0])
	r.Named(epoch, all[0])
	r.Named(epoch, all[1])
	if held := r.Held(epoch, all); len(held) != 2 || held[all[1]].Until.Sub(epoch) != LastHold || held[all[0]].Until.Sub(epoch) != 2*MinHold {
		t.Errorf("held %+v", held)
	}
	if held := r.Held(epoch.Add(LastHold), all); len(held) != 1 || held[all[0]].Deaths != 2 {
		t.Errorf("then held %+v", held)
	}
	one := all[:1]
	if held := r.Held(epoch, one); held[all[0]].Until.Sub(epoch) != LastHold {
		t.Errorf("the only peer is held %+v", held)
	}
	if held := r.Held(epoch, nil); len(held) != 0 {
		t.Errorf("held %+v of none", held)
	}
}

func TestOneUnnamedCrashHoldsNobody(t *testing.T) {
	var r Record
	all := peers(3)
	r.Unnamed(epoch, all)
	if held := r.Held(epoch, all); len(held) > 0 {
		t.Errorf("held %+v", held)
	}
	r.Unnamed(epoch.Add(2*window), all) // too late to belong to it
	if held := r.Held(epoch.Add(2*window), all); len(held) > 0 {
		t.Errorf("held %+v", held)
	}
	r.Unnamed(epoch, nil)
	if held := r.Held(epoch, all); len(held) > 0 {
		t.Errorf("held %+v", held)
	}
}

func TestCrashWithOnePeerIsItsOwn(t *testing.T) {
	var r Record
	all := peers(2)
	r.Unnamed(epoch, all[1:])
	if held := r.Held(epoch, all); len(held) != 1 || held[all[1]].Suspects != 0 || held[all[1]].Deaths != 1 {
		t.Errorf("held %+v", held)
	}
}

// TestElimination plays an attacker among n peers whose crashes name nobody: it kills the speaker every so often while it is
// not held down. It is found, nobody else is ever convicted, at most one is held at a time, and then each crash has it held
// for longer.
func TestElimination(t *testing.T) {
	for _, n := range []int{2, 3, 8, 16} {
		for _, every := range []time.Duration{time.Second, 15 * time.Second, 3 * time.Minute} {
			t.Run(fmt.Sprintf("%d peers, every %s", n, every), func(t *testing.T) {
				for _, bad := range peers(n) {
					eliminate(t, n, bad, every)
				}
			})
		}
	}
}

func eliminate(t *testing.T, n int, bad netip.Addr, every time.Duration) {
	var r Record
	all := peers(n)
	since := epoch // when the attacker was last let in, or struck
	found := uint64(0)
	for now := epoch; now.Before(epoch.Add(3 * time.Hour)); now = now.Add(time.Second) {
		held := r.Held(now, all)
		if len(held) > 1 {
			t.Fatalf("at %s held at a time: %v", now.Sub(epoch), slices.Collect(maps.Keys(held)))
		}
		if _, ok := held[bad]; ok {
			since = now
			continue
		}
		if now.Sub(since) < every {
			continue
		}
		present := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { _, ok := held[a]; return ok })
		r.Unnamed(now, present)
		since = now
		for a, p := range r.Peers {
			if a != bad && p.Level > 0 {
				t.Fatalf("after %d crashes %s is convicted, the attacker is %s", r.Crashes, a, bad)
			}
		}
		if p := r.Peers[bad]; found == 0 && p != nil && p.Level > 0 {
			found = r.Crashes
		}
	}
	if limit := uint64(2*n + 8); found == 0 || found > limit {
		t.Errorf("found after %d crashes, want 1 to %d", found, limit)
	}
	// From then on one crash a hold-down: 6 that get longer, and those of 10 minutes.
	if limit := found + 6 + 18; r.Crashes > limit {
		t.Errorf("%d crashes in 3 hours, more than %d", r.Crashes, limit)
	}
}

func TestClockSetBack(t *testing.T) {
	var r Record
	all := peers(2)
	r.Named(epoch, all[0])
	if held := r.Held(epoch.Add(-time.Hour), all); len(held) > 0 {
		t.Errorf("held %+v", held)
	}
}

func TestRelease(t *testing.T) {
	var r Record
	all := peers(3)
	r.Named(epoch, all[0])
	if !r.Release(epoch.Add(time.Second), all[0]) || r.Release(epoch.Add(time.Second), all[0]) || r.Release(epoch, all[1]) {
		t.Error("released twice, or not at all, or one that was not held")
	}
	if held := r.Held(epoch.Add(time.Second), all); len(held) > 0 {
		t.Errorf("held %+v", held)
	}
	r.Named(epoch.Add(2*time.Second), all[0])
	if h := r.Held(epoch.Add(2*time.Second), all)[all[0]]; h.Deaths != 2 || h.Until.Sub(epoch) != 2*time.Second+2*MinHold {
		t.Errorf("after another death held %+v", h)
	}

	var trial Record
	trial.Unnamed(epoch, all)
	trial.Unnamed(epoch, all)
	held := slices.Collect(maps.Keys(trial.Held(epoch, all)))
	if len(held) != 1 || !trial.Release(epoch, held[0]) || len(trial.Held(epoch, all)) > 0 {
		t.Errorf("on trial: %v", held)
	}
	trial.Unnamed(epoch, all)
	if next := slices.Collect(maps.Keys(trial.Held(epoch, all))); len(next) != 1 || next[0] == held[0] {
		t.Errorf("after the trial of %v that of %v", held, next)
	}
}
