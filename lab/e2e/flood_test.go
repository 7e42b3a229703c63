package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

const (
	floodFor    = 400 * time.Millisecond
	floodMemory = 64 << 20               // that the agent may take for it in bytes
	floodWait   = 100 * time.Millisecond // on a machine that runs other tests meanwhile; alone it is 1 ms
)

// TestFlood has a container flood the DNS server in every way it can, while another one asks it now and then. The resolver never answers, so that
// all that is to be forwarded waits.
func TestFlood(t *testing.T) {
	const config = "blocks: [10.64.0.0/28]\ndns: {upstreams: [192.0.2.53], rate: %d}\n"
	h := startHost(t, "flood", func(h *host) { h.write(fmt.Sprintf(config, 1000)) })
	output(t, h.ns, "ip", "route", "add", "192.0.2.0/24", "dev", "lo")
	hostile, victim := nstest.New(t, "hostile"), nstest.New(t, "victim")
	h.mustAttach("hostile", hostile)
	h.mustAttach("victim", victim)
	server := netip.AddrPortFrom(block4.Addr(), 53)
	valid := packed(t, "victim."+h.name+".fabric.internal.")
	h.eventually("DNS is answered", func() error {
		_, err := timed(victim, "tcp", server, valid)
		return err
	})
	before := resident(t, h.agent.Process.Pid)
	unknown := func(_ []byte, i int) []byte { return packed(t, fmt.Sprintf("n%d.example.com.", i)) }
	floods := []struct {
		what string
		run  func(ctx context.Context) (sent int)
	}{
		{"queries", func(ctx context.Context) int {
			return datagrams(ctx, t, hostile, server, func([]byte, int) []byte { return valid })
		}},
		{"garbage", func(ctx context.Context) int { return datagrams(ctx, t, hostile, server, noise) }},
		{"connections", func(ctx context.Context) int { return connections(ctx, hostile, server, []byte{0}) }},
		{"queries by TCP", func(ctx context.Context) int {
			return connections(ctx, hostile, server, append([]byte{0, byte(len(valid))}, valid...))
		}},
		// The rest without a rate, so that all of them wait for the resolver.
		{"names that nobody resolves", func(ctx context.Context) int { return datagrams(ctx, t, hostile, server, unknown) }},
	}
	for i, flood := range floods {
		if i == len(floods)-1 {
			h.write(fmt.Sprintf(config, 0))
			h.hostfabric("reload")
		}
		ctx, cancel := context.WithTimeout(t.Context(), floodFor)
		sent := make(chan int, 1)
		go func() { sent <- flood.run(ctx) }()
		took := askMeanwhile(ctx, t, victim, server, valid)
		cancel()
		more := resident(t, h.agent.Process.Pid) - before
		t.Logf("%s: %d sent; %d of the other container answered: median %s, p99 %s, last %s; agent has %d MB more", flood.what, <-sent, len(took),
			took[len(took)/2], took[len(took)*99/100], took[len(took)-1], more>>20)
		if took[len(took)/2] > floodWait || more > floodMemory {
			t.Errorf("%s: the other container's answers take %s, the agent has %d MB more", flood.what, took[len(took)/2], more>>20)
		}
	}
}

// askMeanwhile asks until ctx ends, and returns how long the answers took, the shortest first. Each has to come.
func askMeanwhile(ctx context.Context, t testing.TB, from netns.NS, server netip.AddrPort, query []byte) (took []time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil || len(took) == 0 {
		for _, network := range []string{"udp", "tcp"} {
			d, err := timed(from, network, server, query)
			if err != nil {
				t.Errorf("over %s: %v", network, err)
			}
			took = append(took, d)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	slices.Sort(took)
	return took
}

func noise(b []byte, _ int) []byte {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.NativeEndian.PutUint64(b[i:], rand.Uint64())
	}
	return b[:rand.IntN(len(b))]
}

func packed(t testing.TB, name string) []byte {
	raw, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Error(err)
	}
	return raw
}

func dial(from netns.NS, network string, to netip.AddrPort) (c net.Conn, err error) {
	err = from.Do(func() error {
		c, err = net.DialTimeout(network, to.String(), time.Second)
		return err
	})
	return c, err
}

// datagrams sends from many ports in turn, as fast as it can.
func datagrams(ctx context.Context, t testing.TB, from netns.NS, to netip.AddrPort, next func(buf []byte, i int) []byte) (sent int) {
	var conns []net.Conn
	for range 50 {
		c, err := dial(from, "udp", to)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer c.Close()
		conns = append(conns, c)
	}
	buf := make([]byte, 600)
	for ; ctx.Err() == nil; sent++ {
		_, _ = conns[sent%len(conns)].Write(next(buf, sent))
	}
	return sent
}

// connections opens as many as it can, sends the same on each and waits for nothing.
func connections(ctx context.Context, from netns.NS, to netip.AddrPort, send []byte) (sent int) {
	for ; ctx.Err() == nil; sent++ {
		c, err := dial(from, "tcp", to)
		if err != nil {
			continue
		}
		defer c.Close()
		_, _ = c.Write(send)
	}
	return sent
}

// timed is how long an answer takes.
func timed(from netns.NS, network string, to netip.AddrPort, query []byte) (time.Duration, error) {
	begun := time.Now()
	c, err := dial(from, network, to)
	if err != nil {
		return time.Since(begun), err
	}
	defer c.Close()
	_ = c.SetDeadline(begun.Add(time.Second))
	conn := &dns.Conn{Conn: c}
	if _, err := conn.Write(query); err != nil {
		return time.Since(begun), err
	}
	r, err := conn.ReadMsg()
	if err == nil && len(r.Answer) != 1 {
		err = fmt.Errorf("wrong answer: %v", r)
	}
	return time.Since(begun), err
}

// resident is the memory of a process in bytes.
func resident(t testing.TB, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
