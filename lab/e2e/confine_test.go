package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

// confined is a host with two containers, of which one lies.
type confined struct {
	*host
	text   string // of its configuration, besides what every host has
	liar   *spoof.Link
	own    []netip.Addr
	victim []netip.Addr
	sink   *spoof.Sink
	box    netns.NS // of the one that lies
	number uint32
}

const confinedBlocks = "blocks: [10.64.0.0/28, \"fd00:64::/64\"]\n"

// newConfined starts a host whose metrics are at listen: an address, or the file metrics.sock if it is empty.
func newConfined(t *testing.T, listen string) *confined {
	c := &confined{}
	c.host = startHost(t, "safhost", func(h *host) {
		if listen == "" {
			listen = "unix://" + h.run("metrics.sock")
		}
		c.text = fmt.Sprintf("%smetrics: {listen: %q}\n", confinedBlocks, listen)
		h.write(c.text)
	})
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	c.own, c.victim = c.mustAttach("liar", box), c.mustAttach("victim", other)
	var err error
	if c.liar, err = spoof.OpenLink(box, "eth0"); err != nil {
		t.Fatal(err)
	}
	if c.sink, err = spoof.OnLink(other, "eth0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.liar.Close(), c.sink.Close()); err != nil {
			t.Error(err)
		}
	})
	c.box = box
	return c
}

// sendTo sends a packet from any source.
func (c *confined) sendTo(to netip.Addr, port uint16, kind spoof.Kind, from netip.Addr) spoof.Packet {
	c.t.Helper()
	c.number++
	p := spoof.Packet{Kind: kind, From: from, To: to, Port: port, Number: c.number}
	if err := c.liar.SendPacket(endpoint.HostMAC(), p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// arrive sends the victim a packet of each kind from each source, and tells how many of them arrive.
func (c *confined) arrive(sources ...netip.Addr) (n int) {
	c.t.Helper()
	send := func(kind spoof.Kind, from netip.Addr) spoof.Packet {
		to := c.victim[0]
		if from.Is6() {
			to = c.victim[1]
		}
		return c.sendTo(to, 9999, kind, from)
	}
	var all []spoof.Packet
	for _, from := range sources {
		for _, kind := range spoof.Kinds {
			all = append(all, send(kind, from))
		}
	}
	for _, from := range c.own {
		honest := send(spoof.UDP, from)
		c.eventually(honest.String()+" arrives", func() error {
			if !c.sink.Saw(honest) {
				return errors.New("it has not")
			}
			return nil
		})
	}
	for _, p := range all {
		if c.sink.Saw(p) {
			n++
		}
	}
	return n
}

// lies are sources that the host's kernel alone would let pass.
var lies = []netip.Addr{
	netip.MustParseAddr("10.64.0.9"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("172.31.0.0"),
	netip.MustParseAddr("fd00:64::9"), netip.MustParseAddr("fd00:64::"), netip.MustParseAddr("2001:db8::1"),
}

// table is ours in the host's kernel, without the counters' values.
func (c *confined) table() string {
	out, err := c.ns.Output(c.t.Context(), "nft", "--stateless", "list", "table", "inet", "hostfabric")
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// TestContainersAreConfined has a container lie about who it is while the agent serves, while its table is swept away, and
// while the agent is gone.
func TestContainersAreConfined(t *testing.T) {
	c := newConfined(t, "")
	table := c.table()
	if n := c.arrive(lies...); n != 0 {
		t.Errorf("%d packets with a wrong source arrived", n)
	}
	each := uint64(len(lies) / 2 * len(spoof.Kinds))
	c.wantMetrics(fmt.Sprintf(`hostfabric_spoofed_packets_total{family="ipv4"} %d`, each), fmt.Sprintf(`hostfabric_spoofed_packets_total{family="ipv6"} %d`, each))

	for i := range 8 {
		c.mustAttach(fmt.Sprint("more", i), nstest.New(t, fmt.Sprint("more", i)))
	}
	if got := c.table(); got != table {
		t.Errorf("ten containers make the table\n%s\nand two\n%s", got, table)
	}

	output(t, c.ns, "nft", "flush", "ruleset")
	c.eventually("the table is there again", func() error {
		if got := c.table(); got != table {
			return errors.New(got)
		}
		return nil
	})
	if n := c.arrive(lies...); n != 0 {
		t.Errorf("%d packets with a wrong source arrived after somebody had flushed the ruleset", n)
	}
	c.stop()
	if n := c.arrive(lies...); n != 0 {
		t.Errorf("%d packets with a wrong source arrived while there is no agent", n)
	}
	c.start()

	// Turned off, it is gone; this shows what it is for.
	c.reload(c.text + "firewall: {enabled: false}\n")
	if n := c.arrive(lies...); n != len(lies)*len(spoof.Kinds) {
		t.Errorf("without the firewall, %d packets with a wrong source arrived, want all: this test shows nothing", n)
	}
	c.mustAttach("late", nstest.New(t, "late"))
	c.reload(c.text + "masquerade: {enabled: true, except: [10.0.0.0/8]}\n")
	if n := c.arrive(lies...); n != 0 {
		t.Errorf("%d packets with a wrong source arrived after the firewall was turned on again", n)
	}
	c.reload(strings.Replace(c.text, "blocks: [", "blocks: [172.20.0.0/28, ", 1) + "masquerade: {enabled: true, except: [10.0.0.0/8]}\n")
	c.eventually("the blocks of the table follow", func() error {
		set := output(t, c.ns, "nft", "list", "set", "inet", "hostfabric", "own_ipv4")
		if !strings.Contains(set, "10.64.0.0/28") || !strings.Contains(set, "172.20.0.0/28") {
			return errors.New(set)
		}
		return nil
	})
}

// TestContainersReachNothingOfOurs tries every way from a container's network to the agent and its processes.
func TestContainersReachNothingOfOurs(t *testing.T) {
	t.Setenv("HOSTFABRIC_BGP_LISTEN", "true")
	c := newConfined(t, ":9179")
	theirs, err := listenIn(c.ns, ":8080") // somebody else's service on the host
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for _, addr := range []netip.Addr{block4.Addr(), block6.Addr()} {
		for port, open := range map[uint16]bool{179: false, 9179: false, 8080: true} {
			at := netip.AddrPortFrom(addr, port).String()
			if err := reachTCP(c.ns, at, patience); err != nil {
				t.Errorf("nobody listens at %s: %v", at, err)
			}
			timeout := 200 * time.Millisecond
			if open {
				timeout = patience
			}
			if err := reachTCP(c.box, at, timeout); (err == nil) != open {
				t.Errorf("a container connects to %s: %v, want open %t", at, err, open)
			}
		}
	}
	c.reload(c.text + "firewall: {open: [9179]}\n")
	if err := reachTCP(c.box, netip.AddrPortFrom(block4.Addr(), 9179).String(), patience); err != nil {
		t.Errorf("the metrics are open to containers now, but: %v", err)
	}

	// Sockets in the file system are a matter of mounts and modes, not of the network; an abstract one would be of the network.
	sockets := unixSockets(t, c.ns)
	for _, name := range []string{"hostfabric.sock", "cni.sock", "gobgp.sock"} {
		if !strings.Contains(sockets, "/"+name) {
			t.Errorf("%s is not among\n%s", name, sockets)
		}
	}
	if strings.Contains(sockets, " @") {
		t.Errorf("there is an abstract socket among\n%s", sockets)
	}
	if got := unixSockets(t, c.box); strings.Contains(got, c.dir) {
		t.Errorf("a container's network namespace has\n%s", got)
	}
	for name, most := range map[string]fs.FileMode{"hostfabric.sock": 0o660, "cni.sock": 0o600, "speaker": 0o700} {
		info, err := os.Stat(c.run(name))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&^most != 0 {
			t.Errorf("%s has mode %o, want at most %o", name, mode, most)
		}
	}
}

// TestContainersAskTheirHost: DNS is what a container may ask of us, at the host's addresses and as itself. What else has that port is not ours.
func TestContainersAskTheirHost(t *testing.T) {
	c := newConfined(t, "")
	output(t, c.ns, "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	theirs, err := listenIn(c.ns, "192.0.2.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c.awaitDNS(2)
	delivered, err := spoof.Delivered(c.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer delivered.Close()
	for i, server := range []netip.Addr{block4.Addr(), block6.Addr()} {
		for _, network := range []string{"udp", "tcp"} {
			got, err := resolve(c.box, network, server, "victim.safhost.fabric.internal.", dns.TypeA, patience)
			if err != nil || got != "NOERROR "+c.victim[0].String() {
				t.Errorf("a container asks %s by %s: %s, %v", server, network, got, err)
			}
		}
		var lied []spoof.Packet
		for _, kind := range []spoof.Kind{spoof.UDP, spoof.SYN} {
			for _, from := range append(lies, c.victim...) {
				if from.Is4() == server.Is4() {
					lied = append(lied, c.sendTo(server, 53, kind, from))
				}
			}
		}
		honest := c.sendTo(server, 53, spoof.UDP, c.own[i])
		c.eventually(honest.String()+" arrives", func() error {
			if !delivered.Saw(honest) {
				return errors.New("it has not")
			}
			return nil
		})
		for _, p := range lied {
			if delivered.Saw(p) {
				t.Errorf("%s: it arrived", p)
			}
		}
	}
	if err := reachTCP(c.box, "192.0.2.1:53", patience); err != nil {
		t.Errorf("somebody else's server is out of reach: %v", err)
	}
}

// unixSockets are those of a network namespace.
func unixSockets(t *testing.T, ns netns.NS) string {
	t.Helper()
	return output(t, ns, "cat", "/proc/net/unix")
}

func listenIn(ns netns.NS, at string) (l net.Listener, err error) {
	err = ns.Do(func() error {
		l, err = net.Listen("tcp", at)
		return err
	})
	return l, err
}

func reachTCP(ns netns.NS, at string, timeout time.Duration) error {
	return ns.Do(func() error {
		conn, err := net.DialTimeout("tcp", at, timeout)
		if err == nil {
			conn.Close()
		}
		return err
	})
}
