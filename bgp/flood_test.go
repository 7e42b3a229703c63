package bgp_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// sender is a router of no manners: it sends what it is told, whatever the other side thinks of it.
type sender struct {
	addr     netip.Addr
	sessions chan net.Conn // with the OPENs exchanged
	wg       sync.WaitGroup
}

// startSender waits for the host's connection at addr, as AS 65102.
func startSender(t *testing.T, ns netns.NS, addr netip.Addr) *sender {
	t.Helper()
	s := &sender{addr: addr, sessions: make(chan net.Conn, 16)}
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 179).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() { s.accept(t, l) })
	t.Cleanup(func() {
		l.Close()
		s.wg.Wait()
		for {
			select {
			case c := <-s.sessions:
				c.Close()
			default:
				return
			}
		}
	})
	return s
}

func (s *sender) accept(t *testing.T, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if err := s.open(c); err != nil {
			t.Logf("sender: %v", err)
			c.Close()
			continue
		}
		select {
		case s.sessions <- c:
		default:
			c.Close()
		}
	}
}

func (s *sender) open(c net.Conn) error {
	open := gobgp.NewBGPOpenMessage(65102, 90, "192.0.2.102", []gobgp.OptionParameterInterface{
		gobgp.NewOptionParameterCapability([]gobgp.ParameterCapabilityInterface{
			gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), gobgp.NewCapFourOctetASNumber(65102),
		}),
	})
	if err := errors.Join(send(c, open), send(c, gobgp.NewBGPKeepAliveMessage())); err != nil {
		return err
	}
	for range 2 { // its OPEN and KEEPALIVE
		if _, err := receive(c); err != nil {
			return err
		}
	}
	return nil
}

func send(c net.Conn, m *gobgp.BGPMessage) error {
	b, err := m.Serialize()
	if err == nil {
		_, err = c.Write(b)
	}
	return err
}

// receive reads one message and returns its type.
func receive(c net.Conn) (typ uint8, err error) {
	head := make([]byte, 19)
	if _, err := io.ReadFull(c, head); err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[16:]))-19)
	return head[18], err
}

// session returns the next session, whose messages are read and answered with KEEPALIVEs until the test ends.
func (s *sender) session(t *testing.T) net.Conn {
	t.Helper()
	var c net.Conn
	select {
	case c = <-s.sessions:
	case <-time.After(20 * time.Second):
		t.Fatal("no session with the sender")
	}
	t.Cleanup(func() { c.Close() })
	s.wg.Go(func() {
		for {
			typ, err := receive(c)
			if err != nil {
				return
			}
			if typ == gobgp.BGP_MSG_KEEPALIVE && send(c, gobgp.NewBGPKeepAliveMessage()) != nil {
				return
			}
		}
	})
	return c
}

// announce sends n prefixes of /28 from first on, or withdraws them. It stops at the first error, which is the end of the
// session.
func announce(c net.Conn, first netip.Addr, n int, withdraw bool) error {
	const each = 800 // 5 octets each, in a message of 4096 at most
	attrs := []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0),
		gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65102, 64999})}),
		gobgp.NewPathAttributeNextHop("10.0.2.0"),
	}
	b := first.As4()
	at := binary.BigEndian.Uint32(b[:])
	for n > 0 {
		var nlri []*gobgp.IPAddrPrefix
		for ; n > 0 && len(nlri) < each; n-- {
			binary.BigEndian.PutUint32(b[:], at)
			nlri = append(nlri, gobgp.NewIPAddrPrefix(28, netip.AddrFrom4(b).String()))
			at += 16
		}
		m := gobgp.NewBGPUpdateMessage(nil, attrs, nlri)
		if withdraw {
			m = gobgp.NewBGPUpdateMessage(nlri, nil, nil)
		}
		if err := send(c, m); err != nil {
			return err
		}
	}
	return nil
}

var memory = regexp.MustCompile(`Vm(HWM|RSS):\s+(\d+) kB`)

// peak returns the most memory a process has had, in MB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range memory.FindAllStringSubmatch(string(b), -1) {
		if n, err := strconv.Atoi(m[2]); err == nil && m[1] == "HWM" {
			return n / 1024
		}
	}
	t.Fatalf("no VmHWM in\n%s", b)
	return 0
}

// cpu returns the processor time a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// floodRack is a host with a good FRR router and a sender.
func floodRack(t *testing.T, max uint32) (*node, *sender) {
	t.Helper()
	h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "frr"), nstest.New(t, "raw")
	cable(t, h, r1, 1)
	cable(t, h, r2, 2)
	startFRR(t, r1)
	s := startSender(t, r2, addr("10.0.2.0"))
	host := newNode(t, h, "host")
	c := hostConfig(
		bgp.Peer{Address: addr("10.0.1.0"), ASN: 65101, Password: password},
		bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, MaxPrefixes: max, Families: []bgp.Family{bgp.IPv4}})
	host.configure(t, c, "10.64.1.0/26")
	host.fabric.want(t, 20*time.Second, fromFRR)
	return host, s
}

const fromFRR = "0.0.0.0/0 via [10.0.1.0]; 10.64.2.0/26 via [10.0.1.0]; ::/0 via [fd00:1::]; fd64:0:2::/64 via [fd00:1::]"

// TestMillionPrefixes has a peer announce a million prefixes: its session is shut for good, with the reason, and neither the
// other router's routes nor the speaker's memory suffer.
func TestMillionPrefixes(t *testing.T) {
	host, s := floodRack(t, 20_000)
	before := peak(t, host.proc.cmd.Process.Pid)
	up := host.established(t, "10.0.1.0")
	err := announce(s.session(t), addr("16.0.0.0"), 1_000_000, false)
	t.Logf("the sender was cut off: %v", err)
	start := time.Now()
	eventually(t, 60*time.Second, func() error {
		list, err := host.Peers(t.Context()) // the speaker is busy for seconds with forgetting what came before the end
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.Address == addr("10.0.2.0") && p.State == bgp.StatePrefixLimit && strings.Contains(p.LastDown, "prefix limit reached") {
				return nil
			}
		}
		return fmt.Errorf("%+v", list)
	})
	t.Logf("shut and said so %s later", time.Since(start).Round(time.Millisecond))
	after := peak(t, host.proc.cmd.Process.Pid)
	t.Logf("memory of the speaker: %d MB before, %d MB at most", before, after)
	if after > before+1000 { // with the race detector; without it, a tenth of that is usual
		t.Errorf("the speaker's memory grew to %d MB", after)
	}
	if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateEstablished || p.Flaps != up.Flaps || !p.Since.Equal(up.Since) {
		t.Errorf("the other router's session: %+v", p)
	}
	if got := host.fabric.String(); got != fromFRR {
		t.Errorf("routes learned: %q, want %q", got, fromFRR)
	}
	host.fabric.never(t, "16.0.0.0/28")
	host.fabric.mu.Lock()
	defer host.fabric.mu.Unlock()
	if len(host.fabric.gone) > 0 {
		t.Errorf("withdrawn meanwhile: %v", host.fabric.gone)
	}
}

// TestManyRefusedPrefixes has a peer announce many prefixes that nobody asked for, and then ours.
func TestManyRefusedPrefixes(t *testing.T) {
	const n = 20_000
	host, s := floodRack(t, 1_000_000)
	pid := host.proc.cmd.Process.Pid
	c := s.session(t)
	start := time.Now()
	if err := announce(c, addr("16.0.0.0"), n, false); err != nil {
		t.Fatal(err)
	}
	counted := func(own, unlisted uint64) {
		t.Helper()
		eventually(t, 90*time.Second, func() error {
			if r := host.peer(t, "10.0.2.0").Families[0].Refused; r.OwnSpace != own || r.NotListed != unlisted {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	counted(0, n)
	t.Logf("counted %s after the first; memory of the speaker %d MB at most", time.Since(start).Round(time.Millisecond), peak(t, pid))

	start = time.Now()
	if err := announce(c, addr("10.64.1.16"), 1, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		if host.loggedErrors() != 2 { // the first is the good router's, see TestPolicyBreakingPeer
			return errors.New("no alarm")
		}
		return nil
	})
	took := time.Since(start)
	if took > 5*time.Second {
		t.Errorf("alarm only after %s", took)
	}
	t.Logf("alarm %s after ours was announced", took.Round(time.Millisecond))
	counted(1, n)
	if p := host.peer(t, "10.0.2.0"); len(p.Refused) != 17 || p.Refused[0].Reason != bgp.OwnSpace {
		t.Errorf("told of: %+v", p.Refused)
	}

	// As long as nothing changes, nothing is walked.
	glances := func() int {
		return strings.Count(host.log.String(), "looked for our own space") + strings.Count(host.log.String(), "counted refused")
	}
	before, busy := glances(), cpu(t, pid)
	quiet := time.NewTimer(5 * time.Second)
	<-quiet.C
	t.Logf("in 5 s without a change the speaker used %s", cpu(t, pid)-busy)
	if again := glances() - before; again > 0 {
		t.Errorf("looked %d times though nothing changed", again)
	}
	if got := host.fabric.String(); got != fromFRR {
		t.Errorf("routes learned: %q, want %q", got, fromFRR)
	}
	if err := announce(c, addr("16.0.0.0"), n, true); err != nil {
		t.Fatal(err)
	}
	counted(1, 0)
	for _, line := range strings.Split(host.log.String(), "\n") {
		if strings.Contains(line, "took=") && strings.Contains(line, "10.0.2.0") {
			t.Log(line)
		}
	}
}
