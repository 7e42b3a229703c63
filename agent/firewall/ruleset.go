package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

// TableName is that of the one table that is ours, of family inet.
const TableName = "hostfabric"

func ourTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// Names inside the table.
const (
	spoofed4 = "spoofed_ipv4" // counters
	spoofed6 = "spoofed_ipv6"
	closed   = "closed"

	closedTCP = "closed_tcp" // sets
	closedUDP = "closed_udp"
)

// Of IPv4's and IPv6's headers, in bytes.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// The link-local part of RFC 4291: addresses of the link, and groups that no router forwards.
var linkLocal, linkGroups = netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16")

// writer adds the table's parts to a batch.
type writer struct {
	conn   *nftables.Conn
	table  *nftables.Table
	chains []*nftables.Chain
	rules  map[*nftables.Chain]int
	sets   string // what there are, described
	setIDs uint32
	err    error
}

// replace has the table be as p and own say, and its counters go on from the values given, in one transaction. It returns the
// shape that the table has then.
func replace(conn *nftables.Conn, p Policy, own []netip.Prefix, counts map[string]counts) (shape string, err error) {
	conn.AddTable(ourTable()) // so that there is one to delete
	conn.DelTable(ourTable())
	w := &writer{conn: conn, table: conn.AddTable(ourTable()), rules: map[*nftables.Chain]int{}}
	for _, name := range []string{spoofed4, spoofed6, closed} {
		conn.AddObj(&nftables.CounterObj{Table: w.table, Name: name, Packets: counts[name].packets, Bytes: counts[name].bytes})
	}
	w.confine()
	w.close(p.Closed)
	if p.Masquerade {
		w.masquerade(own, p.Except)
	}
	if w.err != nil {
		return "", w.err
	}
	for _, c := range w.chains {
		shape += describeChain(c, w.rules[c])
	}
	return shape + w.sets, conn.Flush()
}

// chain begins a chain at a hook of the kernel. Where it ends, others' chains go on.
func (w *writer) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	c := w.conn.AddChain(&nftables.Chain{Name: name, Table: w.table, Type: kind, Hooknum: hook, Priority: priority, Policy: &accept})
	w.chains = append(w.chains, c)
	return c
}

func (w *writer) rule(c *nftables.Chain, parts ...[]expr.Any) {
	w.rules[c]++
	w.conn.AddRule(&nftables.Rule{Table: w.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// confine lets a packet of a container pass only if the way back to its source is the link that it came by. A host route
// leads there for each of the container's addresses and for nothing else, so that the kernel's own table is the list of who
// may send what. It is before connection tracking: what is dropped leaves no record.
//
// The kernel's expression lets these pass besides, which are nobody's address: an IPv4 source 0.0.0.0 to
// 255.255.255.255 or a group of the link (DHCP, IGMP), and ICMPv6 from :: to a group of the link (DAD, MLD).
func (w *writer) confine() {
	c := w.chain("confine", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	w.othersPass(c)
	// Both ends of a link know one another beforehand. What a container says of neighbours and routers can only do harm: a
	// router solicitation makes the host remember its sender, and the neighbour table is small and all links'.
	w.rule(c, family(unix.NFPROTO_IPV6), neighbourDiscovery(), verdict(expr.VerdictDrop))
	// No address of the link is routed, but MLD and mDNS use them, and no host route leads to them.
	for _, to := range []netip.Prefix{linkLocal, linkGroups} {
		w.rule(c, family(unix.NFPROTO_IPV6), within(source6, linkLocal), within(destination6, to), verdict(expr.VerdictAccept))
	}
	w.rule(c, family(unix.NFPROTO_IPV4), noWayBack(), count(spoofed4), verdict(expr.VerdictDrop))
	w.rule(c, family(unix.NFPROTO_IPV6), noWayBack(), count(spoofed6), verdict(expr.VerdictDrop))
}

// close keeps containers from the ports of this host that are not for them.
func (w *writer) close(ports []Port) {
	c := w.chain("close", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	w.othersPass(c)
	for _, of := range []struct {
		protocol Protocol
		set      string
	}{{TCP, closedTCP}, {UDP, closedUDP}} {
		var elements []nftables.SetElement
		for _, p := range ports {
			if p.Protocol == of.protocol {
				elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p.Number)})
			}
		}
		set := &nftables.Set{Table: w.table, Name: of.set, KeyType: nftables.TypeInetService}
		w.set(set, elements)
		w.rule(c, l4(byte(of.protocol)), []expr.Any{
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID},
		}, count(closed), verdict(expr.VerdictDrop))
	}
}

// masquerade gives packets from this host's blocks the address of the link that they leave by, unless they are to these blocks
// or to what except has. The ports are chosen at random: containers that all ask one server at
// once would else be given the same one now and then, and lose a packet for it.
func (w *writer) masquerade(own, except []netip.Prefix) {
	c := w.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	w.rule(c, linkNamed(expr.MetaKeyOIFNAME, expr.CmpOpEq), verdict(expr.VerdictAccept))
	for _, f := range []struct {
		proto       byte
		key         nftables.SetDatatype
		suffix      string
		v4          bool
		source, dst uint32
	}{
		{unix.NFPROTO_IPV4, nftables.TypeIPAddr, "_ipv4", true, source4, destination4},
		{unix.NFPROTO_IPV6, nftables.TypeIP6Addr, "_ipv6", false, source6, destination6},
	} {
		blocks := &nftables.Set{Table: w.table, Name: "own" + f.suffix, KeyType: f.key, Interval: true}
		w.set(blocks, intervals(own, f.v4))
		inside := &nftables.Set{Table: w.table, Name: "except" + f.suffix, KeyType: f.key, Interval: true}
		w.set(inside, intervals(slices.Concat(own, except), f.v4))
		w.rule(c, family(f.proto), []expr.Any{
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: f.key.Bytes},
			&expr.Lookup{SourceRegister: reg, SetName: blocks.Name, SetID: blocks.ID},
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.key.Bytes},
			&expr.Lookup{SourceRegister: reg, SetName: inside.Name, SetID: inside.ID, Invert: true},
			&expr.Masq{FullyRandom: true},
		})
	}
}

func (w *writer) set(s *nftables.Set, elements []nftables.SetElement) {
	w.setIDs++
	s.ID = w.setIDs // by which rules of the batch name it; the library's own are of all connections, and unguarded
	if err := w.conn.AddSet(s, elements); err != nil {
		w.err = errors.Join(w.err, fmt.Errorf("set %s: %w", s.Name, err))
	}
	w.sets += describeSet(s.Name, elements)
}

// intervals are the prefixes of a family as the kernel wants them, disjoint: the first address of each, and the one after it.
func intervals(prefixes []netip.Prefix, v4 bool) []nftables.SetElement {
	var all []nftables.SetElement
	for _, p := range ipam.Cover(prefixes) {
		if p.Addr().Is4() != v4 {
			continue
		}
		all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := last(p).Next(); end.IsValid() { // else it goes on to the end of all addresses
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// last is the last address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i, m := range mask(p) {
		b[i] |= ^m
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// othersPass ends the chain for what comes by other links, in its first rule: traffic of the host and of the fabric pays
// for no more than this.
func (w *writer) othersPass(c *nftables.Chain) {
	w.rule(c, linkNamed(expr.MetaKeyIIFNAME, expr.CmpOpNeq), verdict(expr.VerdictAccept))
}

// reg is the register that every comparison is made in.
const reg = 1

// linkNamed matches links by how the names of host ends begin.
func linkNamed(which expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: which, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: []byte(endpoint.HostLinkPrefix)}}
}

func family(f byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal(f)}
}

func l4(protocol byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(protocol)}
}

func neighbourDiscovery() []expr.Any {
	const routerSolicitation, redirect = 133, 137 // and what is between them: RFC 4861 section 4
	return append(l4(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: []byte{routerSolicitation}, ToData: []byte{redirect}})
}

// within matches an IPv6 address at an offset of the header.
func within(offset uint32, p netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 16},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 16, Mask: mask(p), Xor: make([]byte, 16)},
		equal(p.Addr().AsSlice()...),
	}
}

// noWayBack matches packets whose source is not routed to the link that they came by.
func noWayBack() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true}, equal(0, 0, 0, 0)}
}

func equal(data ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }

func count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
