package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// bare connects containers with the fewest requests to the kernel that give the same network, and does nothing else: no
// lease, no check of what is there, no record, no undoing. Links get indexes that nobody else has, so that none has to be
// asked for, and a container is wired in two system calls and a visit to its namespace.
type bare struct {
	host *rtnl.Conn
	last atomic.Uint32 // containers so far
}

// What bare gives away: addresses and link indexes that neither the host's agent nor the baseline's IPAM uses.
var bareSpace = netip.MustParseAddr("10.98.0.0")

const (
	bareFirstIndex = 2_000_000
	bareLink       = "bare"
	vethInfoPeer   = 1 // not in x/sys/unix, from linux/veth.h
)

var (
	bareGateway = netip.MustParseAddr("169.254.1.1")
	bareMAC     = net.HardwareAddr{0x02, 'b', 'a', 'r', 'e', 0}
	boxMAC      = net.HardwareAddr{0x02, 'b', 'a', 'r', 'e', 1}
)

func newBare(host netns.NS) (*bare, error) {
	b := &bare{}
	err := host.Do(func() (err error) {
		b.host, err = rtnl.Open()
		return err
	})
	return b, err
}

func (b *bare) close() error { return b.host.Close() }

// link is the host's end for a container.
func (b *bare) link(n uint32) string { return fmt.Sprint(bareLink, n) }

// attach wires a container and returns the number of its host end.
func (b *bare) attach(c fabric.Container) (n uint32, took time.Duration, err error) {
	n = b.last.Add(1)
	began := time.Now()
	ns, err := os.Open(c.NS.Path())
	if err != nil {
		return n, 0, err
	}
	defer ns.Close()
	var inside *rtnl.Conn
	if err := rtnl.Within(int(ns.Fd()), func() (err error) { inside, err = rtnl.Open(); return err }); err != nil {
		return n, 0, err
	}
	defer inside.Close()
	err = errors.Join(b.host.Do(b.hostEnd(n, int(ns.Fd())), nil)...)
	if err == nil {
		err = errors.Join(inside.Do(b.containerEnd(n), nil)...)
	}
	if err != nil {
		return n, 0, fmt.Errorf("bare kernel work for %s: %w", c.Name, err)
	}
	return n, time.Since(began), nil
}

func bareAddress(n uint32) netip.Addr {
	a := bareSpace.As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+n)
	return netip.AddrFrom4(a)
}

// hostEnd makes the pair and all that the host needs.
func (b *bare) hostEnd(n uint32, ns int) *rtnl.Batch {
	index, addr := int(bareFirstIndex+n), bareAddress(n)
	var r rtnl.Batch
	r.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.Link(index, 0, 0)
	pairEnd(&r, b.link(n), bareMAC)
	info := r.Nest(unix.IFLA_LINKINFO)
	r.Bytes(unix.IFLA_INFO_KIND, []byte("veth"))
	data := r.Nest(unix.IFLA_INFO_DATA)
	peer := r.Nest(vethInfoPeer)
	r.Link(index, 0, 0)
	pairEnd(&r, containerLink, boxMAC)
	r.Uint32(unix.IFLA_NET_NS_FD, uint32(ns))
	r.EndNest(peer)
	r.EndNest(data)
	r.EndNest(info)
	linkUp(&r, index)
	permanentNeighbour(&r, index, addr, boxMAC)
	linkRoute(&r, index, addr)
	return &r
}

// containerEnd is the address and the way out.
func (b *bare) containerEnd(n uint32) *rtnl.Batch {
	index, addr := int(bareFirstIndex+n), bareAddress(n)
	var r rtnl.Batch
	linkUp(&r, index)
	r.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.Address(unix.AF_INET, uint8(addr.BitLen()), index)
	r.IP(unix.IFA_LOCAL, addr)
	permanentNeighbour(&r, index, bareGateway, bareMAC)
	linkRoute(&r, index, bareGateway)
	r.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.Route(rtnl.RouteHeader{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK})
	r.IP(unix.RTA_GATEWAY, bareGateway)
	r.Uint32(unix.RTA_OIF, uint32(index))
	return &r
}

func pairEnd(r *rtnl.Batch, name string, mac net.HardwareAddr) {
	r.String(unix.IFLA_IFNAME, name)
	r.Bytes(unix.IFLA_ADDRESS, mac)
	r.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	r.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func linkUp(r *rtnl.Batch, index int) {
	r.Begin(unix.RTM_NEWLINK, 0)
	r.Link(index, unix.IFF_UP, unix.IFF_UP)
}

func permanentNeighbour(r *rtnl.Batch, index int, addr netip.Addr, mac net.HardwareAddr) {
	r.Begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.Neighbour(unix.AF_INET, index, unix.NUD_PERMANENT)
	r.IP(unix.NDA_DST, addr)
	r.Bytes(unix.NDA_LLADDR, mac)
}

func linkRoute(r *rtnl.Batch, index int, to netip.Addr) {
	r.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.Route(rtnl.RouteHeader{
		Family: unix.AF_INET, Bits: uint8(to.BitLen()), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST,
	})
	r.IP(unix.RTA_DST, to)
	r.Uint32(unix.RTA_OIF, uint32(index))
}

// detach deletes one link: its addresses and routes go with it, at both ends.
func (b *bare) detach(n uint32) (time.Duration, error) {
	var r rtnl.Batch
	r.Begin(unix.RTM_DELLINK, 0)
	r.Link(int(bareFirstIndex+n), 0, 0)
	began := time.Now()
	err := b.host.One(&r, nil)
	return time.Since(began), err
}

// side is bare kernel work as one who takes turns. before, if given, is done and timed with each attach and each detach.
func (b *bare) side(name string, before func(context.Context) (time.Duration, error)) *side {
	numbers := make(map[string]uint32)
	with := func(ctx context.Context, took time.Duration, err error) (time.Duration, error) {
		if before == nil || err != nil {
			return took, err
		}
		more, err := before(ctx)
		return took + more, err
	}
	return &side{
		name: name,
		attach: func(ctx context.Context, c fabric.Container) (time.Duration, error) {
			n, took, err := b.attach(c)
			numbers[c.Name] = n
			return with(ctx, took, err)
		},
		detach: func(ctx context.Context, c fabric.Container) (time.Duration, error) {
			took, err := b.detach(numbers[c.Name])
			return with(ctx, took, err)
		},
	}
}

// emptyProgram builds the least that a plugin written in Go can be.
func emptyProgram(ctx context.Context, dir string) (string, error) {
	source, program := filepath.Join(dir, "empty.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, source)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build an empty program to compare with: %w: %s", err, out)
	}
	return program, nil
}
