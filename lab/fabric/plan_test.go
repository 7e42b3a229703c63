package fabric

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hostfabric/hostfabric/lab/tor"
)

var comparePrefixes = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// describe prints a plan as a network engineer would draw it up.
func describe(p Plan) string {
	var b strings.Builder
	links := func(all []Link) {
		for _, l := range all {
			fmt.Fprintf(&b, "  %-6s %s", l.Name, l.Addr)
			if l.Addr6.IsValid() {
				fmt.Fprintf(&b, " %s", l.Addr6)
			}
			opens := ""
			if l.Up {
				opens = ", opens"
			}
			fmt.Fprintf(&b, " -> %s/%s AS%d %s%s\n", l.Peer, l.PeerLink, l.PeerASN, l.PeerAddr, opens)
		}
	}
	fmt.Fprintf(&b, "space %v\n", p.Space)
	for _, r := range p.Routers() {
		fmt.Fprintf(&b, "%s (%s) AS%d id %s originates %v\n", r.Name, r.NS.Name, r.ASN, r.RouterID, r.Networks)
		links(r.Links)
	}
	for _, h := range p.AllHosts() {
		fmt.Fprintf(&b, "%s (%s) AS%d id %s blocks %v containers %d: %s\n", h.Name, h.NS.Name, h.ASN, h.RouterID, h.Blocks, len(h.Containers), h.Containers[0].NS.Name)
		links(h.Links)
	}
	return b.String()
}

func TestPlanGolden(t *testing.T) {
	p, err := NewPlan(Shape{IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.txt", describe(p))
	conf, err := p.AgentConfig(p.Racks[1].Hosts[0])
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "agent.yaml", string(conf))
}

// TestPlanEtcd lays out a fabric whose hosts claim their blocks: it numbers everything but those.
func TestPlanEtcd(t *testing.T) {
	static, err := NewPlan(Shape{IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(Shape{IPv6: true, Source: Etcd, BlockIPv4: 25, ShrinkAfter: 90 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if blocks := p.Blocks(); len(blocks) > 0 {
		t.Errorf("the plan has blocks: %v", blocks)
	}
	for i, h := range p.AllHosts() {
		like := static.AllHosts()[i]
		like.Blocks = nil
		if diff := cmp.Diff(like, h, comparePrefixes); diff != "" {
			t.Errorf("host (-static +etcd):\n%s", diff)
		}
	}
	conf, err := p.AgentConfig(p.Racks[1].Hosts[0])
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "agent-etcd.yaml", string(conf))
}

// TestPlanPools gives hosts a block of each pool, none of which continues another.
func TestPlanPools(t *testing.T) {
	p, err := NewPlan(Shape{IPv6: true, Racks: 1, Pools: []string{"web", "gold"}, Reconcile: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Prefix]bool{}
	for _, h := range p.AllHosts() {
		for _, block := range h.Blocks {
			double := netip.PrefixFrom(block.Addr(), block.Bits()-1).Masked()
			if seen[block] || slices.ContainsFunc(h.Blocks, func(o netip.Prefix) bool { return o != block && double.Overlaps(o) }) {
				t.Errorf("%s has %v: %s is another's, or half of what would be announced as one", h.Name, h.Blocks, block)
			}
			seen[block] = true
		}
		if len(h.Blocks) != 6 || len(h.Pools) != 4 {
			t.Errorf("%s has blocks %v, of pools %v; want one of each of three pools a family", h.Name, h.Blocks, h.Pools)
		}
	}
	conf, err := p.AgentConfig(p.Racks[0].Hosts[1])
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "agent-pools.yaml", string(conf))
}

// golden compares with a file in testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestPlanErrors(t *testing.T) {
	tests := []struct {
		name  string
		shape Shape
		want  string
	}{
		{"name with a dash", Shape{Name: "my-lab"}, `lab name "my-lab"`},
		{"name too long", Shape{Name: "abcdefghijk"}, "up to 10"},
		{"racks", Shape{Racks: 256}, "256 racks: must be 1 to 255"},
		{"negative hosts", Shape{Hosts: -1}, "-1 hosts in a rack"},
		{"containers", Shape{Containers: 10001}, "10001 containers on a host"},
		{"router", Shape{Tor: "ios"}, `router "ios" is not known`},
		{"source", Shape{Source: "dhcp"}, `source "dhcp" is not known (one of [static etcd])`},
		{"blocks of too many addresses", Shape{Source: Etcd, BlockIPv4: 19}, "blocks of length /19: must be /20 to /30"},
		{"blocks of one address", Shape{BlockIPv4: 32}, "blocks of length /32"},
		{"embedded routers that do not tell all", Shape{DefaultOnly: true}, "routers tell hosts all that they know"},
		{"pools that nobody planned", Shape{Source: Etcd, Pools: []string{"web"}}, "pools [web]"},
		{"all at once", Shape{Racks: -1, Containers: -1, Name: "A"}, "\n"},
		{"no room for the cables", Shape{Racks: 255, Hosts: 200}, "172.31.0.0/16 has only 32768 prefixes of length /31"},
		{"no room for the blocks", Shape{Racks: 100, Hosts: 100, Containers: 100}, "10.64.0.0/12 has only 8192 prefixes of length /25"},
		{"sockets would be too deep", Shape{Dir: "/run/" + strings.Repeat("d", 80)}, "a unix socket below it would have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewPlan(tt.shape); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestPlanInvariants checks what every plan must hold, whatever its size.
func TestPlanInvariants(t *testing.T) {
	for _, s := range []Shape{{Racks: 1, Hosts: 1, Containers: 1}, {Racks: 1, Hosts: 40, Containers: 200}, {Racks: 20, Hosts: 40, IPv6: true}, {Racks: 255, Hosts: 60}} {
		t.Run(fmt.Sprintf("%dx%d", s.Racks, s.Hosts), func(t *testing.T) {
			p, err := NewPlan(s)
			if err != nil {
				t.Fatal(err)
			}
			unique := map[any]string{}
			claim := func(what string, key any) {
				t.Helper()
				if other, taken := unique[key]; taken {
					t.Errorf("%s and %s share %v", what, other, key)
				}
				unique[key] = what
			}
			links := func(node string, all []Link) {
				for _, l := range all {
					what := node + "/" + l.Name
					claim(what, what)
					claim(what, l.Addr.Addr())
					if s.IPv6 {
						claim(what, l.Addr6.Addr())
					}
					if len(l.Name) > 15 {
						t.Errorf("interface name %s is too long", what)
					}
					if l.Addr.Masked() != l.otherEnd().Addr.Masked() || l.otherEnd().Addr.Addr() != l.PeerAddr {
						t.Errorf("%s: %s and peer %s are not the ends of one cable", what, l.Addr, l.PeerAddr)
					}
				}
			}
			for _, r := range p.Routers() {
				claim(r.Name, r.ASN)
				claim(r.Name, r.RouterID)
				claim(r.Name, r.NS)
				links(r.Name, r.Links)
			}
			for _, h := range p.AllHosts() {
				claim(h.Name, h.ASN)
				claim(h.Name, h.RouterID)
				claim(h.Name, h.NS)
				links(h.Name, h.Links)
				for i, b := range h.Blocks {
					claim(h.Name, b)
					if b != b.Masked() || b.Bits() < p.Space[i].Bits() || !p.Space[i].Contains(b.Addr()) {
						t.Errorf("%s: block %s does not fit %s", h.Name, b, p.Space[i])
					}
				}
				if size := 1 << (32 - h.Blocks[0].Bits()); size < p.Containers+2 {
					t.Errorf("%s: %s is too small for %d containers", h.Name, h.Blocks[0], p.Containers)
				}
			}
		})
	}
}

func TestPlanSurvivesJSON(t *testing.T) {
	p, err := NewPlan(Shape{Racks: 3, IPv6: true, Tor: tor.BIRD})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Plan
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, back, comparePrefixes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBlockBits(t *testing.T) {
	for containers, want := range map[int]int{1: 6, 20: 6, 48: 6, 50: 6, 51: 7, 200: 8, 203: 8, 204: 9, 1000: 11, 10000: 14} {
		if got := blockBits(containers); got != want {
			t.Errorf("%d containers: %d bits, want %d", containers, got, want)
		}
	}
}
