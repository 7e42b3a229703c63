package blocks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/ipam"
)

func prefixes(texts ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

// parse reads blocks such as "10.64.0.0/26 web etcd released unclaimed": what is not said is default, etcd, open.
func parse(texts ...string) []owned {
	bs := make([]owned, len(texts))
	for i, text := range texts {
		b := owned{Block: ipam.Block{Pool: "default", Source: "etcd"}, stage: open}
		for _, f := range strings.Fields(text) {
			st := slices.Index(stageName[:], f)
			switch {
			case f == "released":
				b.stage, b.released = draining, true
			case f == "missing":
				b.unclaimed, b.missing = true, true
			case strings.Contains(f, "/"):
				b.Prefix = netip.MustParsePrefix(f)
			case st >= 0:
				b.stage = stage(st)
			case f == "unclaimed":
				b.unclaimed = true
			case f == "static" || f == "etcd":
				b.Source = f
			default:
				b.Pool = f
			}
		}
		bs[i] = b
	}
	return bs
}

func (b owned) String() string {
	s := fmt.Sprintf("%s %s %s %s", b.Prefix, b.Pool, b.Source, b.state())
	switch {
	case b.missing:
		s += " missing"
	case b.unclaimed:
		s += " unclaimed"
	}
	return s
}

func texts(bs []owned) string {
	var lines []string
	for _, b := range bs {
		lines = append(lines, b.String())
	}
	return strings.Join(lines, "\n")
}

func blocksOf(bs []owned) []ipam.Block {
	var out []ipam.Block
	for _, b := range bs {
		out = append(out, b.Block)
	}
	return out
}

func recordOf(bs []owned) ipam.Record {
	var r ipam.Record
	for _, b := range bs {
		r.Blocks = append(r.Blocks, ipam.RecordedBlock{Prefix: b.Prefix, Pool: b.Pool, Source: b.Source, Opening: b.stage == opening, Released: b.released})
	}
	return r
}

func TestStart(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		record, have, configured []string
		source                   string
		deaf                     bool // the source could not be asked
		want                     []string
	}{
		{"first start", nil, []string{"10.64.0.0/26 static"}, nil, "static", false, []string{"10.64.0.0/26 static"}},
		{"restart", []string{"10.64.0.0/26 static"}, []string{"10.64.0.0/26 static"}, nil, "static", false, []string{"10.64.0.0/26 static"}},
		{"a block more", []string{"10.64.0.0/26 static"}, []string{"10.64.0.0/26 static", "10.64.0.64/26 static"}, nil, "static", false,
			[]string{"10.64.0.0/26 static", "10.64.0.64/26 static opening"}},
		{"a block less", []string{"10.64.0.0/26 static", "10.64.0.64/26 static"}, []string{"10.64.0.0/26 static"}, nil, "static", false,
			[]string{"10.64.0.0/26 static", "10.64.0.64/26 static released"}},
		{"a block becomes larger", []string{"10.64.0.0/26 static"}, []string{"10.64.0.0/25 static"}, nil, "static", false,
			[]string{"10.64.0.0/25 static opening", "10.64.0.0/26 static"}},
		{"a block becomes smaller", []string{"10.64.0.0/24 static"}, []string{"10.64.0.64/26 static"}, nil, "static", false,
			[]string{"10.64.0.64/26 static", "10.64.0.0/26 static released", "10.64.0.128/25 static released"}},
		{"two become one", []string{"10.64.0.0/26 static", "10.64.0.64/26 static"}, []string{"10.64.0.0/25 static"}, nil, "static", false,
			[]string{"10.64.0.0/25 static"}},
		{"it was never opened", []string{"10.64.0.0/26 static", "10.64.0.64/26 static opening"}, []string{"10.64.0.0/26 static", "10.64.0.64/26 static"}, nil, "static",
			false, []string{"10.64.0.0/26 static", "10.64.0.64/26 static opening"}},
		{"never opened, and removed", []string{"10.64.0.0/26 static", "10.64.0.64/26 static opening"}, []string{"10.64.0.0/26 static"}, nil, "static", false,
			[]string{"10.64.0.0/26 static"}},
		{"the larger one was not open yet", []string{"10.64.0.0/26 static", "10.64.0.0/25 static opening"}, []string{"10.64.0.0/25 static"}, nil, "static", false,
			[]string{"10.64.0.0/25 static opening", "10.64.0.0/26 static"}},
		{"the larger one was not open yet, and another part is wanted", []string{"10.64.0.0/26 static", "10.64.0.0/25 static opening"}, []string{"10.64.0.64/26 static"}, nil, "static", false,
			[]string{"10.64.0.64/26 static opening", "10.64.0.0/26 static released"}},
		{"etcd has no static block yet", []string{"10.64.0.0/26 static"}, nil, nil, "etcd", false, []string{"10.64.0.0/26 static missing"}},
		{"static, and etcd is away", []string{"10.64.0.0/26 static"}, nil, nil, "etcd", true, []string{"10.64.0.0/26 static unclaimed"}},
		{"etcd is away", []string{"10.64.0.0/26", "10.64.0.64/26 opening"}, nil, nil, "etcd", true, []string{"10.64.0.0/26", "10.64.0.64/26 opening"}},
		{"a claim is gone", []string{"10.64.0.0/26"}, nil, nil, "etcd", false, []string{"10.64.0.0/26 missing"}},
		{"a claim that was never used is gone", []string{"10.64.0.0/26 opening"}, nil, nil, "etcd", false, nil},
		{"given back before the crash", []string{"10.64.0.0/26 released"}, nil, nil, "etcd", false, nil},
		{"released, gone, but leased from", []string{"10.64.9.0/26 released"}, nil, nil, "etcd", false, []string{"10.64.9.0/26 released missing"}},
		{"configured for etcd", nil, nil, []string{"10.64.0.0/26 static"}, "etcd", false, []string{"10.64.0.0/26 static opening missing"}},
		{"configured and claimed", []string{"10.64.0.0/26"}, []string{"10.64.0.0/26"}, []string{"10.64.0.0/26 static"}, "etcd", false, []string{"10.64.0.0/26"}},
		{"released before", []string{"10.64.0.0/26 released", "10.64.0.64/26"}, []string{"10.64.0.0/26", "10.64.0.64/26"}, nil, "etcd", false,
			[]string{"10.64.0.0/26 released", "10.64.0.64/26"}},
		{"the record is lost", nil, []string{"10.64.0.0/26", "10.64.0.64/26"}, nil, "etcd", false, []string{"10.64.0.0/26", "10.64.0.64/26"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := start{
				record: recordOf(parse(tt.record...)), have: blocksOf(parse(tt.have...)), configured: blocksOf(parse(tt.configured...)),
				source: tt.source, grows: tt.source == "etcd", heard: !tt.deaf,
				leasedIn: func(p netip.Prefix) bool { return p.String() == "10.64.9.0/26" },
			}.blocks()
			if want := texts(parse(tt.want...)); texts(got) != want {
				t.Errorf("got\n%s\nwant\n%s", texts(got), want)
			}
		})
	}
}

func TestMergeAndAdopt(t *testing.T) {
	for _, tt := range []struct {
		name             string
		have, says, want []string
	}{
		{"nothing new", []string{"10.64.0.0/26"}, []string{"10.64.0.0/26"}, []string{"10.64.0.0/26"}},
		{"one more", []string{"10.64.0.0/26"}, []string{"10.64.0.0/26", "10.64.0.64/26"}, []string{"10.64.0.0/26", "10.64.0.64/26 opening"}},
		{"one taken away", []string{"10.64.0.0/26"}, nil, []string{"10.64.0.0/26 missing"}},
		{"one that leaves is not missed", []string{"10.64.0.0/26 leaving"}, nil, []string{"10.64.0.0/26 leaving"}},
		{"a lost one comes back", []string{"10.64.0.0/26 lost"}, []string{"10.64.0.0/26"}, []string{"10.64.0.0/26 opening"}},
		{"a static one was claimed", []string{"10.64.0.0/26 static unclaimed"}, []string{"10.64.0.0/26"}, []string{"10.64.0.0/26"}},
		{"a static one of two base blocks", []string{"10.64.0.0/25 static unclaimed"}, []string{"10.64.0.0/26", "10.64.0.64/26"},
			[]string{"10.64.0.0/26", "10.64.0.64/26"}},
		{"a static one smaller than a base block", []string{"10.64.0.0/27 static unclaimed"}, []string{"10.64.0.0/26"},
			[]string{"10.64.0.0/27 static", "10.64.0.0/26 opening"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := merge(parse(tt.have...), blocksOf(parse(tt.says...)), "etcd")
			if want := texts(parse(tt.want...)); texts(got) != want {
				t.Errorf("got\n%s\nwant\n%s", texts(got), want)
			}
		})
	}
}

func TestBetween(t *testing.T) {
	for _, tt := range []struct{ from, to, lost, want []string }{
		{[]string{"10.64.0.0/26"}, []string{"10.64.0.0/25"}, nil, []string{"10.64.0.0/25", "10.64.0.0/26"}},
		{[]string{"10.64.0.0/25"}, []string{"10.64.0.64/26"}, nil, []string{"10.64.0.0/25", "10.64.0.64/26"}},
		{[]string{"10.64.0.0/25"}, []string{"10.64.0.64/26"}, []string{"10.64.0.0/26"}, []string{"10.64.0.64/26"}},
		{[]string{"10.64.0.0/26"}, []string{"10.80.0.0/26"}, nil, []string{"10.80.0.0/26"}},
		{[]string{"10.64.0.0/26", "10.80.0.0/26"}, []string{"10.64.0.0/26"}, nil, []string{"10.64.0.0/26"}},
		{[]string{"10.64.0.0/26"}, nil, nil, nil},
	} {
		if got := between(prefixes(tt.from...), prefixes(tt.to...), prefixes(tt.lost...)); !slices.Equal(got, prefixes(tt.want...)) {
			t.Errorf("between %v and %v: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestSubtract(t *testing.T) {
	for _, tt := range []struct {
		p         string
		set, want []string
	}{
		{"10.64.0.0/24", nil, []string{"10.64.0.0/24"}},
		{"10.64.0.0/24", []string{"10.64.0.0/23"}, nil},
		{"10.64.0.0/24", []string{"10.64.0.64/26", "10.64.0.255/32"},
			[]string{"10.64.0.0/26", "10.64.0.128/26", "10.64.0.192/27", "10.64.0.224/28", "10.64.0.240/29", "10.64.0.248/30", "10.64.0.252/31", "10.64.0.254/32"}},
		{"fd00::/64", []string{"fd00::/65"}, []string{"fd00::8000:0:0:0/65"}},
		{"10.64.0.0/24", []string{"10.64.0.0/25", "10.64.0.128/25"}, nil},
	} {
		if got := subtract(netip.MustParsePrefix(tt.p), prefixes(tt.set...)); !slices.Equal(got, prefixes(tt.want...)) {
			t.Errorf("%s less %v: %v, want %v", tt.p, tt.set, got, tt.want)
		}
	}
}

// FuzzSubtract: what is left and what was taken away together are the prefix, and share no address.
func FuzzSubtract(f *testing.F) {
	f.Add(uint32(0x0a400000), uint8(20), uint32(0x0a400040), uint8(26), uint32(0x0a400fff), uint8(32))
	f.Fuzz(func(t *testing.T, a uint32, abits uint8, b uint32, bbits uint8, c uint32, cbits uint8) {
		prefix := func(v uint32, bits uint8) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), int(bits%33)).Masked()
		}
		p, set := prefix(a, abits), []netip.Prefix{prefix(b, bbits), prefix(c, cbits)}
		rest := subtract(p, set)
		inside := slices.DeleteFunc(slices.Clone(set), func(q netip.Prefix) bool { return !p.Overlaps(q) || q.Bits() < p.Bits() })
		if len(rest) > 0 && !slices.Equal(ipam.Cover(append(slices.Clone(rest), inside...)), []netip.Prefix{p}) {
			t.Errorf("%v less %v leaves %v: not all of it", p, set, rest)
		}
		for i, r := range rest {
			if overlaps(set, r) || overlaps(rest[:i], r) {
				t.Errorf("%v less %v leaves %v: %v overlaps", p, set, rest, r)
			}
		}
	})
}

func TestHostAddressStaysWithItsBlock(t *testing.T) {
	var host []netip.Addr
	for _, tt := range []struct {
		blocks []string
		want   string
	}{
		{nil, "[]"},
		{[]string{"10.64.0.0/26 opening missing"}, "[]"},
		{[]string{"10.64.0.64/26 opening"}, "[10.64.0.64]"},
		{[]string{"10.64.0.0/26", "10.64.0.64/26", "fd00::/64"}, "[10.64.0.64 fd00::]"},
		{[]string{"10.64.0.0/26", "10.64.0.64/26 draining"}, "[10.64.0.64]"},
		{[]string{"10.64.0.0/26", "10.64.0.64/26 released"}, "[10.64.0.0]"},
		{[]string{"10.64.0.0/26 lost", "10.64.0.64/26 released"}, "[10.64.0.64]"},
		{[]string{"10.64.9.0/26", "10.64.0.64/26 released"}, "[10.64.0.64]"}, // a container has the other's
	} {
		leased := func(p netip.Prefix) bool { return p.String() == "10.64.9.0/32" }
		host = hostAddresses(parse(tt.blocks...), host, leased)
		if got := fmt.Sprint(host); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.blocks, got, tt.want)
		}
	}
}

func TestBudgetExceeded(t *testing.T) {
	b := Budget{IPv4: 2, IPv6: 1}
	for _, tt := range []struct {
		set  []string
		want string
	}{
		{[]string{"10.64.0.0/26", "10.80.0.0/26", "fd00::/64"}, ""},
		{[]string{"10.64.0.0/26", "10.80.0.0/26", "10.96.0.0/26"}, "budget.ipv4 3 2"},
		{[]string{"fd00::/64", "fd01::/64"}, "budget.ipv6 2 1"},
	} {
		got := ""
		if key, n, limit := b.exceeded(prefixes(tt.set...)); key != "" {
			got = fmt.Sprint(key, " ", n, " ", limit)
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.set, got, tt.want)
		}
	}
}

func TestSurplus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		blocks []string
		uses   map[string]use
		host   string
		want   []string
	}{
		{"the last one stays", []string{"10.64.0.0/26"}, nil, "", nil},
		{"the last one of another pool goes", []string{"10.64.0.0/26 web"}, nil, "", []string{"10.64.0.0/26"}},
		{"the youngest goes", []string{"10.64.0.0/26", "10.64.0.64/26"}, nil, "", []string{"10.64.0.64/26"}},
		{"not the host's own address", []string{"10.64.0.0/26", "10.64.0.64/26"}, nil, "10.64.0.64", []string{"10.64.0.0/26"}},
		{"not while it is needed", []string{"10.64.0.0/26", "10.64.0.64/26"}, map[string]use{"10.64.0.0/26": {usable: 64, leased: 33}}, "", nil},
		{"the emptier one goes", []string{"10.64.0.0/26", "10.64.0.64/26"},
			map[string]use{"10.64.0.0/26": {usable: 64, leased: 1}, "10.64.0.64/26": {usable: 64, leased: 2}}, "", []string{"10.64.0.0/26"}},
		{"the cover counts first", []string{"10.64.0.0/26", "10.64.0.64/26", "10.80.0.0/26"},
			map[string]use{"10.80.0.0/26": {usable: 64, leased: 9}}, "10.64.0.0", []string{"10.80.0.0/26", "10.64.0.64/26"}},
		{"all that is too much", []string{"10.64.0.0/26", "10.64.0.64/26", "10.64.0.128/26", "10.64.0.192/26"},
			map[string]use{"10.64.0.0/26": {usable: 64, leased: 40}}, "10.64.0.0", []string{"10.64.0.192/26", "10.64.0.128/26"}},
		{"static blocks stay", []string{"10.64.0.0/26", "10.64.0.64/26 static"}, nil, "10.64.0.0", nil},
		{"at rest is not idle", []string{"10.64.0.0/26", "10.64.0.64/26"}, map[string]use{"10.64.0.0/26": {usable: 64, leased: 20, resting: 20}}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bs := parse(tt.blocks...)
			uses := map[netip.Prefix]use{}
			for _, b := range bs {
				uses[b.Prefix] = use{usable: 64}
			}
			for p, u := range tt.uses {
				uses[netip.MustParsePrefix(p)] = u
			}
			var host []netip.Addr
			if tt.host != "" {
				host = append(host, netip.MustParseAddr(tt.host))
			}
			s := bs[0].section()
			got := surplus(bs, s, sections(bs, uses, nil)[s], uses, host, "etcd")
			if !slices.Equal(got, prefixes(tt.want...)) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestWanted(t *testing.T) {
	pools := []ipam.Pool{{Name: "default", BaseIPv4: 26, BaseIPv6: 64}, {Name: "web", BaseIPv4: 26}, {Name: "db", BaseIPv4: 26, BaseIPv6: 64}}
	for _, tt := range []struct {
		name    string
		blocks  []string
		leased  uint64 // of each block
		waiting map[string]int
		want    string
	}{
		{"a first start", nil, 0, nil, "[{default false} {default true}]"},
		{"enough", []string{"10.64.0.0/26", "fd00::/64"}, 48, nil, "[]"},
		{"running short", []string{"10.64.0.0/26", "fd00::/64"}, 49, nil, "[{default false}]"},
		{"one is coming", []string{"10.64.0.0/26", "10.64.0.64/26 opening", "fd00::/64"}, 49, nil, "[]"},
		{"one drains", []string{"10.64.0.0/26", "10.64.0.64/26 draining", "fd00::/64"}, 40, nil, "[{default false}]"},
		{"a released one does not count", []string{"10.64.0.0/26 released", "fd00::/64"}, 0, nil, "[{default false}]"},
		{"somebody wants another pool", []string{"10.64.0.0/26", "fd00::/64"}, 49, map[string]int{"web": 1}, "[{web false} {default false}]"},
		{"a pool lacks a family", []string{"10.64.0.0/26", "fd00::/64", "10.80.0.0/26 db"}, 0, nil, "[{db true}]"},
		{"many wait", []string{"10.64.0.0/26", "fd00::/64"}, 0, map[string]int{"default": 49}, "[{default false}]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bs := parse(tt.blocks...)
			uses := map[netip.Prefix]use{}
			for _, b := range bs {
				if b.stage != opening {
					uses[b.Prefix] = use{usable: count(size(b.Prefix)), leased: tt.leased}
				}
			}
			if got := fmt.Sprint(wanted(sections(bs, uses, tt.waiting), pools, tt.waiting)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
