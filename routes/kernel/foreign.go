package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// foreign follows the routes of others in our table. What comes is taken from its event; what may have gone is listed
// again, by protocol, which the kernel filters: one leg of several that goes has the same event as the last one, and of
// what goes with a link the kernel tells nothing. So a hundred thousand routes of ours cost nothing here, but for the
// first listing.
type foreign struct {
	mu     sync.Mutex // guards all below
	routes map[foreignKey]foreignRoute
	stale  map[uint8]bool // protocols to be listed again
	all    bool           // everything is to be listed: at first, and after lost events
	read   time.Time      // when all were listed last, at once or by protocol
	events bool           // somebody reads them
	hints  chan struct{}  // size 1
}

// foreignResync is how long the listings are believed: a route over several links can go without a word.
const foreignResync = 20 * time.Second

type foreignKey struct {
	prefix   netip.Prefix
	metric   uint32
	protocol uint8
	typ      uint8
}

type foreignRoute struct {
	route routes.Foreign
	index int // of its link
}

func newForeign() *foreign {
	return &foreign{routes: make(map[foreignKey]foreignRoute), stale: make(map[uint8]bool), all: true, hints: make(chan struct{}, 1)}
}

// Foreign implements routes.FIB.
func (f *FIB) Foreign(ctx context.Context) ([]routes.Foreign, error) {
	o := f.foreign
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := f.refresh(ctx); err != nil {
		return nil, fmt.Errorf("list routes of others: %w", err)
	}
	list := make([]routes.Foreign, 0, len(o.routes))
	for _, r := range o.routes {
		list = append(list, r.route)
	}
	return list, nil
}

// refresh lists what may have changed without an event that tells all. Caller holds foreign.mu.
func (f *FIB) refresh(ctx context.Context) error {
	o := f.foreign
	o.all = o.all || !o.events
	if time.Since(o.read) > foreignResync {
		for k := range o.routes {
			o.stale[k.protocol] = true
		}
		o.read = time.Now()
	}
	protocols := slices.Collect(maps.Keys(o.stale))
	if o.all {
		protocols = []uint8{unix.RTPROT_UNSPEC} // lists all
	}
	for _, protocol := range protocols {
		found := make(map[foreignKey]foreignRoute)
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f.dumpForeign(family, protocol, found); err != nil {
				return err
			}
		}
		maps.DeleteFunc(o.routes, func(k foreignKey, _ foreignRoute) bool { return o.all || k.protocol == protocol })
		maps.Copy(o.routes, found)
		delete(o.stale, protocol)
	}
	if o.all {
		o.all = false
		clear(o.stale)
	}
	return nil
}

func (f *FIB) dumpForeign(family, protocol uint8, into map[foreignKey]foreignRoute) error {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: family, Table: f.opts.Table, Protocol: protocol})
	if f.opts.Table > 255 {
		b.Uint32(unix.RTA_TABLE, uint32(f.opts.Table))
	}
	part := make(map[foreignKey]foreignRoute)
	err := f.conn.Dump(&b, func() { clear(part) }, func(m rtnl.Message) {
		if k, r, ok := f.parseForeign(m); ok {
			part[k] = r
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // no such table yet; no such family in this kernel
	}
	maps.Copy(into, part)
	return err
}

// parseForeign reads a route of somebody else in our table, of those that can be in the way of a learned one.
func (f *FIB) parseForeign(m rtnl.Message) (k foreignKey, r foreignRoute, ok bool) {
	if len(m.Payload) < unix.SizeofRtMsg || m.Payload[offRouteProtocol] == uint8(f.opts.Protocol) {
		return k, r, false // cheap: ours can be very many
	}
	raw, ok := parseRoute(m)
	if !ok || raw.table != f.opts.Table {
		return k, r, false
	}
	switch raw.shape.typ {
	case unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
	default:
		return k, r, false
	}
	p := raw.route.Prefix
	if p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
		return k, r, false // every link has such; nobody learns them
	}
	if p.Bits() == 0 && raw.shape.typ == unix.RTN_UNREACHABLE && raw.protocol == unix.RTPROT_KERNEL {
		return k, r, false // the IPv6 null route that old kernels show
	}
	connected := raw.protocol == unix.RTPROT_KERNEL && raw.shape.typ == unix.RTN_UNICAST && raw.index != 0 && !raw.gateway.IsValid()
	r = foreignRoute{index: raw.index, route: routes.Foreign{
		Prefix: p, Protocol: protocolName(raw.protocol), Gateway: raw.gateway, Metric: raw.route.Metric, Connected: connected,
	}}
	if raw.index != 0 {
		r.route.Link = f.links.name(raw.index)
	}
	return foreignKey{p, raw.route.Metric, raw.protocol, raw.shape.typ}, r, true
}

// foreignEvent takes in the event of a route that is not ours.
func (f *FIB) foreignEvent(m rtnl.Message) {
	k, r, ok := f.parseForeign(m)
	if !ok {
		return
	}
	o := f.foreign
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.Type == unix.RTM_DELROUTE {
		if _, known := o.routes[k]; !known {
			return
		}
		o.stale[k.protocol] = true
	} else {
		if o.routes[k] == r {
			return
		}
		o.routes[k] = r
	}
	o.hint()
}

// foreignLink takes in that a link ceased to be up: the kernel drops its IPv4 routes without an event.
func (f *FIB) foreignLink(index int) {
	o := f.foreign
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.stale)
	for k, r := range o.routes {
		if r.index == index {
			o.stale[k.protocol] = true
		}
	}
	if len(o.stale) > before {
		o.hint()
	}
}

// foreignLost takes in that events were lost, and whether more are read.
func (f *FIB) foreignLost(more bool) {
	f.foreign.mu.Lock()
	defer f.foreign.mu.Unlock()
	f.foreign.all, f.foreign.events = true, more
	f.foreign.hint()
}

func (o *foreign) hint() {
	select {
	case o.hints <- struct{}{}:
	default:
	}
}

// protocolNames are those of iproute2's rt_protos, which need not be installed.
var protocolNames = map[uint8]string{
	unix.RTPROT_REDIRECT: "redirect", unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static",
	unix.RTPROT_RA: "ra", unix.RTPROT_ZEBRA: "zebra", unix.RTPROT_BIRD: "bird", unix.RTPROT_DHCP: "dhcp",
	unix.RTPROT_KEEPALIVED: "keepalived", unix.RTPROT_BABEL: "babel", unix.RTPROT_BGP: "bgp", unix.RTPROT_ISIS: "isis",
	unix.RTPROT_OSPF: "ospf", unix.RTPROT_RIP: "rip", unix.RTPROT_EIGRP: "eigrp",
}

func protocolName(p uint8) string {
	if name, ok := protocolNames[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
}
