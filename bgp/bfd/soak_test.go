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

// TestSoak keeps six sessions at 10 ms with real routers, and wants none to go down on any side. The routers run before
// ordinary processes, as on a switch that has nothing else to do: their own lateness is not what is tried.
func TestSoak(t *testing.T) {
	const interval = bfd.MinInterval
	r := newRig(t, interval, "chrt", "--rr", "20")
	r.set(t, all(interval)...)
	r.awaitUp(t, all(interval), interval)
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
		t.Logf("%s: downs here, at FRR, at BIRD: %v", time.Since(began).Round(time.Second), r.downs(t))
	}
	took := time.Since(began)
	if got := r.downs(t); got != downs {
		t.Errorf("downs here, at FRR, at BIRD: %v, before %v", got, downs)
	}
	// With jitter a packet is due every 7.5 to 10 ms.
	least := uint64(took/interval) * 95 / 100
	for i, st := range mustRefresh(t, r) {
		in, out := st.PacketsIn-before[i].PacketsIn, st.PacketsOut-before[i].PacketsOut
		t.Logf("%s on %q: %d packets in, %d out, %d discarded, %d downs", st.Peer, st.Interface, in, out, st.PacketsDiscarded, st.Downs)
		if in < least || out < least {
			t.Errorf("%s: %d packets in and %d out in %s, want %d", st.Peer, in, out, took, least)
		}
	}
	counters := r.frr.peers(t, "counters ")
	for peer, p := range counters {
		t.Logf("FRR to %s: %d packets in, %d out, %d downs", peer, p.In, p.Out, p.Downs)
	}
}
