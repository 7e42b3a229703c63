package bfd_test

import (
	"flag"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// soakFor is how long TestSoak lasts. An hour is 360,000 packets each way and session:
//
//	go test -count=1 -timeout 2h -run '^TestSoak$' ./bgp/bfd -v -bfd.soak 1h
var soakFor = flag.Duration("bfd.soak", 20*time.Second, "duration of the soak")

// TestSoak keeps six sessions at 10 ms with real routers, and wants none to go down on any side but when the machine stood still.
// The routers run before ordinary processes, as on a switch that has nothing else to do: their own lateness is not what is tried.
func TestSoak(t *testing.T) {
	const interval = bfd.MinInterval
	r := newRig(t, interval, "chrt", "--rr", "20")
	r.set(t, all(interval)...)
	r.awaitUp(t, all(interval), interval)
	w := startWitness(t)
	before, downs, began := mustRefresh(t, r), r.downs(t), time.Now()
	report := time.NewTicker(min(*soakFor/4, 5*time.Minute))
	defer report.Stop()
	end := time.NewTimer(*soakFor)
	defer end.Stop()
	for done := false; !done; {
		select {
		case <-end.C:
			done = true
		case <-report.C:
		}
		t.Logf("%s: downs here, at FRR, at BIRD: %v; %s", time.Since(began).Round(time.Second), r.downs(t), w)
	}
	took := time.Since(began)
	excused := r.judge(t, w, began)
	if got := r.downs(t); got != downs && excused == 0 {
		t.Errorf("downs here, at FRR, at BIRD: %v, before %v", got, downs)
	}
	// With jitter a packet is due every 7.5 to 10 ms; a session that went down has sent one a second meanwhile.
	least := uint64(took/interval) * 95 / 100
	for i, st := range mustRefresh(t, r) {
		in, out := st.PacketsIn-before[i].PacketsIn, st.PacketsOut-before[i].PacketsOut
		t.Logf("%s on %q: %d packets in, %d out, %d discarded, %d downs", st.Peer, st.Interface, in, out, st.PacketsDiscarded, st.Downs)
		if excused == 0 && (in < least || out < least) {
			t.Errorf("%s: %d packets in and %d out in %s, want %d", st.Peer, in, out, took, least)
		}
	}
	for peer, p := range r.frr.peers(t, "counters ") {
		t.Logf("FRR to %s: %d packets in, %d out, %d downs", peer, p.In, p.Out, p.Downs)
	}
}

// judge looks at every loss since began, and counts those that the machine is to blame for.
func (r *rig) judge(t *testing.T, w *witness, began time.Time) (excused int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range r.events {
		switch {
		case st.State != bfd.Down || st.Downs == 0 || st.Since.Before(began):
		case w.excuses(st.Since):
			excused++
		default:
			t.Errorf("%s on %q: %s, and no processor stood still", st.Peer, st.Interface, st.LastDown)
		}
	}
	t.Logf("%d losses while a processor stood still", excused)
	return excused
}
