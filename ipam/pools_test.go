package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// poolBlock writes a block as "PREFIX [POOL] [draining]".
func poolBlock(text string) Block {
	fields := strings.Fields(text)
	b := Block{Prefix: netip.MustParsePrefix(fields[0])}
	for _, word := range fields[1:] {
		if word == "draining" {
			b.Draining = true
		} else {
			b.Pool = word
		}
	}
	return b
}

func (f *fixture) setPools(texts ...string) {
	f.t.Helper()
	var blocks []Block
	for _, text := range texts {
		blocks = append(blocks, poolBlock(text))
	}
	if err := f.SetBlocks(blocks); err != nil {
		f.t.Fatal(err)
	}
}

// refused wants an allocation to fail with err, and a text in it.
func (f *fixture) refused(err error, text, pool string, wanted ...string) {
	f.t.Helper()
	req := request(wanted...)
	req.Pool = pool
	if _, got := f.Allocate(testKey("refused"), req); !errors.Is(got, err) || !strings.Contains(got.Error(), text) {
		f.t.Errorf("allocate from %q, wanted %v: %v, want %v with %q", pool, wanted, got, err, text)
	}
}

func TestPools(t *testing.T) {
	f := newFixture(t)
	f.refused(ErrExhausted, "this host has no blocks", "")
	f.refused(ErrExhausted, "this host has no blocks", DefaultPool)
	f.refused(ErrUnknownPool, `"gold"`, "gold")
	f.setPools("10.1.0.0/29", "10.2.0.0/30 gold", "fd02::/126 gold", "fd03::/126 lead")
	from := func(id, pool string, wanted ...string) {
		t.Helper()
		req := request(wanted...)
		req.Pool = pool
		if _, err := f.Allocate(testKey(id), req); err != nil {
			t.Fatal(err)
		}
	}
	from("a", "")
	f.want("a", "10.1.0.0")
	from("b", DefaultPool)
	f.want("b", "10.1.0.1")
	from("c", "gold")
	f.want("c", "10.2.0.0", "fd02::")
	from("d", "", "fd02::3") // the other family from the same pool
	f.want("d", "10.2.0.1", "fd02::3")
	from("e", "lead")
	f.want("e", "fd03::")
	from("f", "gold", "10.2.0.3", "fd02::1")
	f.want("f", "10.2.0.3", "fd02::1")

	f.refused(ErrUnknownPool, `no block of pool "tin"; it has blocks of default, gold, lead`, "tin")
	f.refused(ErrUnknownPool, `"tin"`, "tin", "10.1.0.5")
	f.refused(ErrInvalidWish, "fd02::2", "", "10.1.0.5", "fd02::2")
	f.refused(ErrNotInBlock, `"gold"`, "gold", "10.1.0.5")
	f.refused(ErrNotInBlock, `"gold"`, "gold", "192.0.2.1")
	f.refused(ErrNotInBlock, `"lead"`, "lead", "10.2.0.2")
	f.refused(ErrNotInBlock, "192.0.2.1", "", "192.0.2.1")
	f.refused(ErrAddressInUse, "held by c/eth0", "", "10.2.0.0")

	// A key that holds addresses: of that pool, of another, of whichever.
	leases, err := f.Allocate(testKey("c"), Request{Pool: "gold"})
	if err != nil || len(leases) != 2 || leases[0].Pool != "gold" || leases[1].Pool != "gold" {
		t.Errorf("again: %+v, %v", leases, err)
	}
	if _, err := f.Allocate(testKey("c"), Request{}); err != nil {
		t.Errorf("again, without a pool: %v", err)
	}
	if _, err := f.Allocate(testKey("c"), Request{Pool: DefaultPool}); !errors.Is(err, ErrMismatch) {
		t.Errorf("again, from another pool: %v", err)
	}

	// The pool is that of the block now.
	f.setPools("10.2.0.0/30 tin")
	leases, _ = f.Lookup(testKey("c"))
	if leases[0].Pool != "tin" || leases[1].Pool != "" || leases[1].Block.IsValid() {
		t.Errorf("leases after the blocks changed: %+v", leases)
	}
	f.refused(ErrUnknownPool, "it has blocks of tin", "")
	f.setPools("10.1.0.0/29")
	if u := f.Usage()[0]; u.Block.Pool != DefaultPool {
		t.Errorf("pool of a block that names none: %q", u.Block.Pool)
	}
}

func TestValidPool(t *testing.T) {
	for name, ok := range map[string]bool{
		"default": true, "a": true, "0": true, "a-b": true, "r2--x": true, strings.Repeat("x", 32): true,
		"": false, "-": false, "a-": false, "-a": false, "A": false, "a.b": false, "a b": false, "ä": false, "a\n": false,
		strings.Repeat("x", 33): false,
	} {
		if err := ValidPool(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDraining(t *testing.T) {
	f := newFixture(t)
	f.setPools("10.1.0.0/30", "10.2.0.0/29", "fd00::/64")
	f.allocate("a")
	f.allocate("b")
	f.release("b")
	f.setPools("10.1.0.0/30 draining", "10.2.0.0/29", "fd00::/64")
	f.want("a", "10.1.0.0", "fd00::")
	if l, _ := f.Lookup(testKey("a")); l[0].Block.String() != "10.1.0.0/30" || l[0].Pool != DefaultPool {
		t.Errorf("lease in a draining block: %+v", l[0])
	}
	if u := f.Usage()[0]; u.Leased != 1 || u.Quarantined != 1 || u.Free.Sign() != 0 || u.Withheld.Int64() != 2 {
		t.Errorf("usage: %+v", u)
	}
	f.allocate("c")
	f.want("c", "10.2.0.0", "fd00::2")
	f.refused(ErrNotInBlock, "10.1.0.2 is in 10.1.0.0/30, which is draining", "", "10.1.0.2")
	f.clock.add(time.Hour)
	f.refused(ErrNotInBlock, "draining", "", "10.1.0.1")
	f.release("a")
	if u := f.Usage()[0]; u.Leased != 0 || u.Quarantined != 1 || u.Withheld.Int64() != 3 {
		t.Errorf("usage once drained: %+v", u)
	}
	for range 7 {
		f.clock.add(time.Hour) // no rest makes a drained address one to have
		f.allocate(f.clock.now().Format("150405"))
	}
	f.refused(ErrExhausted, "in one of the 1 blocks that are draining", "")

	// A family of which all drains is not left out.
	f.setPools("10.1.0.0/30 draining", "fd00::/64")
	f.refused(ErrExhausted, "the only IPv4 block is draining", "")
	f.setPools("10.1.0.0/30 draining", "10.2.0.0/29 draining", "fd00::/64")
	f.refused(ErrExhausted, "all 2 IPv4 blocks are draining", "")

	f.setPools("10.1.0.0/30", "fd00::/64")
	f.allocate("d")
	f.want("d", "10.1.0.2", "fd00::a")
}

// Ranges may be larger than any list of addresses, and what is beyond them is found at once.
func TestReservedRanges(t *testing.T) {
	f := newFixture(t)
	blocks := []Block{
		{Prefix: netip.MustParsePrefix("10.1.0.0/28"), Reserved: testRanges("10.1.0.2-10.1.0.5", "10.1.0.4-10.1.0.9", "10.1.0.0", "10.1.0.14/31")},
		{Prefix: netip.MustParsePrefix("fd00::/48"), Reserved: testRanges("fd00::/64", "fd00:0:0:1::-fd00:0:0:1:ffff::", "fd00:0:0:80::/57")},
	}
	if err := f.SetBlocks(blocks); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"10.1.0.1", "fd00::1:ffff:0:0:1"}, {"10.1.0.10", "fd00::1:ffff:0:0:2"}, {"10.1.0.11", "fd00::1:ffff:0:0:3"}} {
		f.allocate(want[0])
		f.want(want[0], want...)
	}
	f.refused(ErrAddressInUse, "fd00::1 is reserved", "", "fd00::1")
	usage := f.Usage()
	if u := usage[0]; u.Reserved.Int64() != 11 || u.Free.Int64() != 2 {
		t.Errorf("usage: %+v", u)
	}
	if u := usage[1]; u.Reserved.String() != "2398076448107264999425" {
		t.Errorf("usage: %+v", u)
	}
	for _, u := range usage {
		wantSum(t, u)
	}
	blocks[0].Reserved = testRanges("10.1.0.0/28")
	if err := f.SetBlocks(blocks); err != nil {
		t.Fatal(err)
	}
	f.refused(ErrExhausted, "every IPv4 address of 10.1.0.0/28 is leased, reserved or in use", "")
}
