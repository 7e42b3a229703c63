package dns

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
)

func quickServer(t testing.TB) *Server {
	s := newServer(t, func(o *Options) {
		o.Forward = true
		o.Names.Publish(endpoint("c1", "10.64.0.70 fd00:64:0:1::7", "web-1", "www.Shop", "_x"))
		o.Names.Publish(endpoint("c2", "10.64.0.71", "four"))
		for i := range 20 { // more than fit without EDNS
			o.Names.Publish(endpoint(fmt.Sprint("c", 3+i), fmt.Sprintf("fd00:64:0:1::1:%x", i), "many"))
		}
	})
	return s
}

// queries are those that are answered quickly, and their neighbours that are not.
func queries(t testing.TB) map[string][]byte {
	all := map[string][]byte{}
	add := func(name string, m *dns.Msg, change func(raw []byte) []byte) {
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			raw = change(raw)
		}
		all[name] = raw
	}
	const web = "web-1.r1h1.fabric.internal."
	add("A", question(web, "A"), nil)
	add("AAAA", question(web, "AAAA"), nil)
	add("upper case", question("WEB-1.R1h1.Fabric.INTERNAL.", "A"), nil)
	add("alias of two labels", question("www.shop.r1h1.fabric.internal.", "A"), nil)
	add("underscore", question("_x.r1h1.fabric.internal.", "AAAA"), nil)
	add("EDNS", question(web, "A").SetEdns0(4096, false), nil)
	add("DO", question(web, "A").SetEdns0(100, true), nil)
	add("many", question("many.r1h1.fabric.internal.", "AAAA").SetEdns0(1232, false), nil)
	add("too many", question("many.r1h1.fabric.internal.", "AAAA"), nil)
	add("flags", question(web, "A"), func(raw []byte) []byte { raw[2], raw[3] = 0, 0x30; return raw })
	add("no such family", question("four.r1h1.fabric.internal.", "AAAA"), nil)
	add("no such name", question("x.r1h1.fabric.internal.", "A"), nil)
	add("host", question("r1h1.fabric.internal.", "A"), nil)
	add("zone", question("fabric.internal.", "A"), nil)
	add("other host", question("web-1.r1h2.fabric.internal.", "A"), nil)
	add("elsewhere", question("example.com.", "A"), nil)
	add("root", question(".", "A"), nil)
	add("another kind", question(web, "TXT"), nil)
	add("escaped", question(`web\0451.r1h1.fabric.internal.`, "A"), nil)
	add("space", question(`web\0321.r1h1.fabric.internal.`, "A"), nil)
	add("dot in a label", question(`www\.shop.r1h1.fabric.internal.`, "A"), nil)
	add("response", question(web, "A"), func(raw []byte) []byte { raw[2] |= 0x80; return raw })
	add("opcode", question(web, "A"), func(raw []byte) []byte { raw[2] |= 0x10; return raw })
	add("truncated", question(web, "A"), func(raw []byte) []byte { return raw[:len(raw)-1] })
	add("trailing", question(web, "A"), func(raw []byte) []byte { return append(raw, 0) })
	add("no question", question(web, "A"), func(raw []byte) []byte { raw[5] = 0; return raw })
	add("class", question(web, "A"), func(raw []byte) []byte { raw[len(raw)-1] = 3; return raw })
	add("EDNS 1", question(web, "A").SetEdns0(1232, false), func(raw []byte) []byte { raw[len(raw)-5] = 1; return raw })
	cookie := question(web, "A").SetEdns0(1232, false)
	cookie.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
	add("cookie", cookie, nil)
	return all
}

// sameReply holds a quick reply, if there is one, against that of the usual way.
func sameReply(t *testing.T, s *Server, raw []byte, from string) (quick bool) {
	t.Helper()
	c, _ := s.admit(addr(from), addr("10.64.0.64"))
	reply, ok := s.quick(raw, c, make([]byte, udpSize))
	if !ok {
		return false
	}
	q, done, ignore := s.accept(raw, c, false)
	if done || ignore || s.answer(q) != nil {
		t.Fatalf("% x is answered quickly, but not from memory", raw)
	}
	var got, want dns.Msg
	if err := got.Unpack(reply); err != nil {
		t.Fatalf("% x: reply % x: %v", raw, reply, err)
	}
	if err := want.Unpack(q.pack(nil)); err != nil {
		t.Fatal(err)
	}
	if want.Truncated {
		t.Fatalf("% x: the reply is %d bytes, of which not all fit", raw, len(reply))
	}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b dns.RR) bool { return a.String() < b.String() }), cmpopts.IgnoreFields(dns.RR_Header{}, "Rdlength")); diff != "" {
		t.Fatalf("% x: (-usual +quick)\n%s", raw, diff)
	}
	return true
}

func TestQuickSaysTheSame(t *testing.T) {
	s := quickServer(t)
	slow := map[string]bool{}
	for _, name := range []string{
		"too many", "no such family", "no such name", "host", "zone", "other host", "elsewhere", "root", "another kind", "space", "dot in a label", "response",
		"opcode", "truncated", "trailing", "no question", "class", "EDNS 1", "cookie",
	} {
		slow[name] = true
	}
	for name, raw := range queries(t) {
		for _, from := range []string{aContainer, aStranger, "10.64.0.64"} {
			if quick := sameReply(t, s, raw, from); quick == slow[name] {
				t.Errorf("%s from %s: answered quickly: %t", name, from, quick)
			}
		}
	}
	if n := s.Stats().Answers[Outcome{Own, "NOERROR"}]; n == 0 {
		t.Error("quick answers are not counted")
	}

	ready := make(chan struct{})
	unsynced := newServer(t, func(o *Options) { o.Ready = ready; o.Names.Publish(endpoint("c1", "10.64.0.70", "web-1")) })
	if sameReply(t, unsynced, queries(t)["A"], aContainer) {
		t.Error("answered before all names are known")
	}
}

// TestQuickAllocatesNothing: garbage of thousands of queries a second would be everybody's.
func TestQuickAllocatesNothing(t *testing.T) {
	s, out := quickServer(t), make([]byte, udpSize)
	c, _ := s.admit(addr(aContainer), addr("10.64.0.64"))
	for _, name := range []string{"A", "EDNS", "many"} {
		raw := queries(t)[name]
		if n := testing.AllocsPerRun(100, func() { s.quick(raw, c, out) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzQuick(f *testing.F) {
	for _, raw := range queries(f) {
		f.Add(raw)
	}
	s := quickServer(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) <= maxQuery {
			sameReply(t, s, raw, aContainer)
		}
	})
}
