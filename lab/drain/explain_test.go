package drain_test

import (
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestExplain asks a host of a real fabric about addresses, while all is well and with one link of the chain broken after the
// other.
func TestExplain(t *testing.T) {
	r := newRig(t, tor.FRR, 2)
	own, other := r.own[0].Addr.String(), r.other.Addr.String()
	block := r.host.Blocks[0].String()
	explains := func(subject string, broken string, words ...string) {
		t.Helper()
		out, err := r.command(t, "explain", subject)
		if (err == nil) != (broken == "") || !strings.Contains(out, broken) {
			t.Errorf("%s: %v, want it broken at %q", subject, err, broken)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q", subject, w)
			}
		}
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := r.host.NS.Output(t.Context(), "ip", args...); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	explains(own, "", "has it since", "a lookup finds "+own+"/32 dev hf", "r1t1 (", "r1t2 (", "it is told of "+block)
	explains(block, "", "is open", "r1t1 (", "r1t2 (")
	explains(r.host.Blocks[0].Addr().String(), "", "the host's own", "local")
	explains(other, "", "is accepted, next hop", "is in the kernel, via", "a lookup of "+other+" finds ")
	explains(r.host.Blocks[0].Addr().Next().Next().Next().Next().Next().String(), "lease: it is free")
	explains(r.host.Links[0].PeerAddr.String(), "", "another route of the host, which wins")
	explains("nonsense", "neither an address nor a prefix")

	ip("route", "add", "unreachable", other+"/32", "metric", "1")
	explains(other, "kernel: a lookup of "+other+" finds unreachable")
	ip("route", "del", "unreachable", other+"/32", "metric", "1")
	explains(other, "")

	if _, err := r.command(t, "drain", "--deadline", "0s", "--reason", "memory"); err != nil {
		t.Fatal(err)
	}
	explains(own, "health: the host is drained since ", "a lookup finds "+own+"/32 dev hf")
	explains(other, "session: the host is drained: memory")
	if _, err := r.command(t, "undrain"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the chain holds again", func() bool { _, err := r.command(t, "explain", own); return err == nil })

	// One of two ToRs is enough.
	link := r.host.Links[0].Name
	ip("link", "set", link, "down")
	eventually(t, "the session over "+link+" is lost", func() bool { return r.status(t).GetPeersEstablished() == 1 })
	explains(own, "", "broken  peer", "ok      peer")
	ip("link", "set", r.host.Links[1].Name, "down")
	eventually(t, "both sessions are lost", func() bool { return r.status(t).GetPeersEstablished() == 0 })
	explains(own, "peer: r1t1 (")
	explains(other, "session: r1t1 (")
}
