package dns

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// web is the question for web.r1h1.fabric.internal. A in hexadecimal digits.
const web = "03776562" + "0472316831" + "06666162726963" + "08696e7465726e616c" + "00" + "0001" + "0001"

// TestMessages has a query in hexadecimal digits, and what becomes of it: nothing, or a reply in a line.
func TestMessages(t *testing.T) {
	s := newServer(t, nil)
	s.opts.Names.Publish(endpoint("web", "10.64.0.65"))
	const answer = "NOERROR aa | web.r1h1.fabric.internal. 0 A 10.64.0.65"
	for _, c := range []struct{ what, query, want string }{
		{"a query", "1234 0100 0001 0000 0000 0000" + web, answer},
		{"nothing", "", ""},
		{"half a header", "1234 0100 0001 00", ""},
		{"a response", "1234 8100 0001 0000 0000 0000" + web, ""},
		{"a header", "1234 0100 0000 0000 0000 0000", "FORMERR"},
		{"two questions", "1234 0100 0002 0000 0000 0000" + web + web, "FORMERR"},
		{"half a question", "1234 0100 0001 0000 0000 0000 0377", "FORMERR"},
		{"a name that points at itself", "1234 0100 0001 0000 0000 0000 c00c 0001 0001", "FORMERR"},
		{"a notification", "1234 2000 0001 0000 0000 0000" + web, "NOTIMP"},
		{"an update", "1234 2800 0001 0000 0000 0000" + web, "NOTIMP"},
		{"of class CHAOS", "1234 0100 0001 0000 0000 0000" + strings.TrimSuffix(web, "0001") + "0003", "REFUSED"},
		{"of any class", "1234 0100 0001 0000 0000 0000" + strings.TrimSuffix(web, "0001") + "00ff", "REFUSED"},
		{"a transfer", "1234 0100 0001 0000 0000 0000" + strings.TrimSuffix(web, "00010001") + "00fc0001", "REFUSED"},
		{"for mailboxes", "1234 0100 0001 0000 0000 0000" + strings.TrimSuffix(web, "00010001") + "00fd0001", "NOTIMP"},
		{"EDNS", "1234 0100 0001 0000 0000 0001" + web + "00 0029 1000 00000000 0000", answer + " | opt 1232"},
		{"EDNS of version 1", "1234 0100 0001 0000 0000 0001" + web + "00 0029 1000 00010000 0000", "BADVERS | opt 1232"},
		{"EDNS twice", "1234 0100 0001 0000 0000 0002" + web + "00 0029 1000 00000000 0000" + "00 0029 1000 00000000 0000", "FORMERR | opt 1232"},
		{"EDNS below a name", "1234 0100 0001 0000 0000 0001" + web + "0161 00 0029 1000 00000000 0000", "FORMERR"},
		{"an unknown option of EDNS", "1234 0100 0001 0000 0000 0001" + web + "00 0029 1000 00000000 0006 fde9 0002 abcd", answer + " | opt 1232"},
		{"half an option of EDNS", "1234 0100 0001 0000 0000 0001" + web + "00 0029 1000 00000000 0004 000a 0008", "FORMERR"},
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(c.query, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if reply := s.send(t, raw, aContainer); reply != nil {
			var r dns.Msg
			if err := r.Unpack(reply); err != nil || r.Id != 0x1234 || !r.Response {
				t.Errorf("%s: %v, %v", c.what, &r, err)
			}
			if r.Opcode != int(raw[2]>>3&0xf) {
				t.Errorf("%s: opcode %d", c.what, r.Opcode)
			}
			got = told(&r)
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.what, got, c.want)
		}
	}
	if st := s.Stats(); st.Ignored != 3 || st.Answers[Outcome{Rejected, "FORMERR"}] != 7 || st.Durations[Own].Count() != 3 {
		t.Errorf("%+v", st)
	}
}

// TestTruncation: an answer is as long as who asks can take, and no link has to fragment it.
func TestTruncation(t *testing.T) {
	s := newServer(t, nil)
	for i := range maxAnswers {
		s.opts.Names.Publish(endpoint("c"+strings.Repeat("i", i), "fd00:64:0:1::"+strings.Repeat("1", i%4+1)+":"+strings.Repeat("2", i/8+1)+strings.Repeat(":1", i/4%2), "web"))
	}
	for _, c := range []struct {
		size      uint16 // 0: without EDNS
		truncated bool
		most      int
	}{{0, true, 512}, {300, true, 512}, {600, true, 600}, {65535, false, 1232}} {
		m := question("web.r1h1.fabric.internal.", "AAAA")
		if c.size > 0 {
			m.SetEdns0(c.size, false)
		}
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply := s.send(t, raw, aContainer)
		var r dns.Msg
		if err := r.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if r.Truncated != c.truncated || len(reply) > c.most || (r.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("for %d bytes: %d, truncated %v, EDNS %v", c.size, len(reply), r.Truncated, r.IsEdns0())
		}
	}
}
