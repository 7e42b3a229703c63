package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

const sysctlDir = "/proc/sys/net/"

// setupHost makes the host end deaf to router advertisements and takes it up.
func (w *Wirer) setupHost(e *Endpoint, index int) error {
	ipv6 := w.ipv6 && e.MTU >= minMTU6 // below it the kernel gives a link no IPv6 at all
	if ipv6 {
		err := rtnl.Within(int(w.home.Fd()), func() error {
			return setSysctl("ipv6/conf/"+e.HostLink+"/accept_ra", "0")
		})
		if err != nil {
			return err
		}
	}
	var b rtnl.Batch
	var what []string
	if ipv6 {
		b.Begin(unix.RTM_SETLINK, 0)
		b.Link(index, 0, 0)
		spec := b.Nest(unix.IFLA_AF_SPEC)
		inet6 := b.Nest(unix.AF_INET6)
		b.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone)
		b.EndNest(inet6)
		b.EndNest(spec)
		what = append(what, "set address generation")
	}
	// A request of its own: within one the kernel would raise the link before it reads the rest. Without ARP on the link,
	// what a container says there of addresses is not even looked at, and cannot fill the host's neighbour table, which is
	// small and all links'. (Neighbour discovery has no such switch; the firewall drops it.)
	b.Begin(unix.RTM_SETLINK, 0)
	b.Link(index, unix.IFF_UP|unix.IFF_NOARP, unix.IFF_UP|unix.IFF_NOARP)
	return failures(w.host.Do(&b, nil), append(what, "set up"))
}

// claimHost appends what tells the host end where the container's addresses are, and whose it is. The alias comes last of all that is
// written: whoever finds a link without one after a crash knows that nobody was told of it, and that it may be half of what
// it should be.
func claimHost(b *rtnl.Batch, e *Endpoint, index int) (what []string) {
	for _, a := range e.Addrs {
		neighbour(b, index, a, e.ContainerMAC)
		what = append(what, fmt.Sprintf("add neighbour %v", a))
	}
	if e.Alias != "" {
		b.Begin(unix.RTM_SETLINK, 0)
		b.Link(index, 0, 0)
		b.String(unix.IFLA_IFALIAS, e.Alias)
		what = append(what, "set alias")
	}
	return what
}

// finishHost claims the host end, and waits until it carries packets. The end of a veth that was taken up first gets its
// carrier from the second, and drops what it is to send until the kernel's link watch has seen that, which takes from
// microseconds to a second. Linux 6.8 and later catch up when they are asked about the link, so that the first look is
// the only one.
func (w *Wirer) finishHost(ctx context.Context, e *Endpoint, index int) error {
	var b rtnl.Batch
	what := claimHost(&b, e, index)
	requestLink(&b, e.HostLink)
	what = append(what, "read link")
	var l link
	if err := failures(w.host.Do(&b, func(_ int, m rtnl.Message) { l, _ = parseLink(m) }), what); err != nil {
		return err
	}
	return poll(ctx, "its carrier", func() (ok bool, err error) {
		if l.state != operUp {
			l, err = getLink(w.host, e.HostLink)
		}
		return l.state == operUp, err
	})
}

// setupContainer takes the container's end up and gives it its addresses and the way out.
func setupContainer(inside *rtnl.Conn, ns *os.File, e *Endpoint, index int) error {
	v4, v6 := families(e.Addrs)
	if v6 {
		if err := allowIPv6(ns, e.ContainerLink); err != nil {
			return err
		}
	}
	var b rtnl.Batch
	b.Begin(unix.RTM_SETLINK, 0)
	b.Link(index, unix.IFF_UP, unix.IFF_UP)
	what := []string{"set up"}
	for _, a := range e.Addrs {
		b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		b.Address(family(a), uint8(a.BitLen()), index)
		b.IP(unix.IFA_LOCAL, a)
		b.IP(unix.IFA_ADDRESS, a)
		b.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		what = append(what, fmt.Sprintf("add address %v", a))
	}
	first, ways := len(what), gateways(v4, v6)
	for _, gateway := range ways {
		neighbour(&b, index, gateway, e.HostMAC)
		wayOut(&b, index, gateway)
		what = append(what, fmt.Sprintf("add neighbour %v", gateway), fmt.Sprintf("add route to %v", gateway), fmt.Sprintf("add default route via %v", gateway))
	}
	errs := inside.Do(&b, nil)
	var taken []netip.Addr // gateways of the families whose default route another interface has
	for i, gateway := range ways {
		toGateway, byDefault := &errs[first+3*i+1], &errs[first+3*i+2]
		if errors.Is(*toGateway, unix.EEXIST) {
			*toGateway = nil
		}
		if errors.Is(*byDefault, unix.EEXIST) {
			*byDefault, taken = nil, append(taken, gateway)
		}
	}
	if err := failures(errs, what); err != nil || len(taken) == 0 {
		return err
	}
	return secondWayOut(inside, ns, e, index, taken)
}

// awaitIPv6 waits until the container takes packets for its IPv6 addresses: the kernel makes an address local in a work
// queue, without duplicate address detection too, and until then drops what is sent there.
func awaitIPv6(ctx context.Context, inside *rtnl.Conn, e *Endpoint) error {
	if _, v6 := families(e.Addrs); !v6 {
		return nil
	}
	return poll(ctx, "its IPv6 addresses", func() (bool, error) { return localIPv6(inside, e.Addrs) })
}

// localIPv6 reports whether the kernel delivers all the IPv6 addresses locally.
func localIPv6(inside *rtnl.Conn, addrs []netip.Addr) (bool, error) {
	var b rtnl.Batch
	for _, a := range addrs {
		if a.Is6() {
			b.Begin(unix.RTM_GETROUTE, 0)
			b.Route(rtnl.RouteHeader{Family: unix.AF_INET6, Bits: uint8(a.BitLen())})
			b.IP(unix.RTA_DST, a)
		}
	}
	local := 0
	errs := inside.Do(&b, func(_ int, m rtnl.Message) {
		const typeAt = 7 // in struct rtmsg
		if len(m.Payload) >= unix.SizeofRtMsg && m.Payload[typeAt] == unix.RTN_LOCAL {
			local++
		}
	})
	return local == b.Len(), errors.Join(errs...)
}

const (
	pollEvery    = 100 * time.Microsecond
	pollPatience = 5 * time.Second
)

// poll waits for something that the kernel does a moment later by itself.
func poll(ctx context.Context, what string, ready func() (bool, error)) error {
	ok, err := ready()
	if ok || err != nil {
		return err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(pollPatience); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
		if ok, err := ready(); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("the kernel did not ready %s within %v", what, pollPatience)
}

// gateways returns those of the families in use.
func gateways(v4, v6 bool) []netip.Addr {
	var all []netip.Addr
	if v4 {
		all = append(all, GatewayV4)
	}
	if v6 {
		all = append(all, GatewayV6)
	}
	return all
}

// neighbour appends a permanent entry.
func neighbour(b *rtnl.Batch, index int, a netip.Addr, mac net.HardwareAddr) {
	b.Begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	b.Neighbour(family(a), index, unix.NUD_PERMANENT)
	b.IP(unix.NDA_DST, a)
	b.Bytes(unix.NDA_LLADDR, mac)
}

// wayOut appends the route to the gateway and the default route via it.
func wayOut(b *rtnl.Batch, index int, gateway netip.Addr) {
	h := rtnl.RouteHeader{
		Family: family(gateway), Bits: uint8(gateway.BitLen()), Table: unix.RT_TABLE_MAIN,
		Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST,
	}
	b.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Route(h)
	b.IP(unix.RTA_DST, gateway)
	b.Uint32(unix.RTA_OIF, uint32(index))

	h.Bits, h.Scope, h.Flags = 0, unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK
	b.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Route(h)
	b.IP(unix.RTA_GATEWAY, gateway)
	b.Uint32(unix.RTA_OIF, uint32(index))
}

// allowIPv6 undoes what runtimes do to namespaces they think have no IPv6.
func allowIPv6(ns *os.File, link string) error {
	return rtnl.Within(int(ns.Fd()), func() error {
		path := "ipv6/conf/" + link + "/disable_ipv6"
		if off, err := os.ReadFile(sysctlDir + path); err != nil {
			return fmt.Errorf("IPv6 in the container: %w", err)
		} else if string(off) == "0\n" {
			return nil
		}
		return setSysctl(path, "0")
	})
}

// setSysctl writes a setting of the calling thread's network namespace.
func setSysctl(path, value string) error {
	f, err := os.OpenFile(sysctlDir+path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// failures names the requests that failed.
func failures(errs []error, what []string) error {
	var all []error
	for i, err := range errs {
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", what[i], err))
		}
	}
	return errors.Join(all...)
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
