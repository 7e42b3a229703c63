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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// floodFor is how long each flood lasts.
const floodFor = 700 * time.Millisecond

// TestFlood has a container flood the DNS server in every way it can, while another one asks it now and then.
func TestFlood(t *testing.T) {
	h := startHost(t, "flood", func(h *host) {
		// A resolver that never answers: all that is to be forwarded waits.
		h.write("blocks: [10.64.0.0/28]\ndns: {upstreams: [192.0.2.53]}\n")
	})
	if out, err := h.ns.Output(t.Context(), "ip", "route", "add", "192.0.2.0/24", "dev", "lo"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hostile, victim := nstest.New(t, "hostile"), nstest.New(t, "victim")
	h.mustAttach("hostile", hostile)
	h.mustAttach("victim", victim)
	server := netip.AddrPortFrom(block4.Addr(), 53)
	valid := packed(t, "victim."+h.name+".fabric.internal.")
	for _, flood := range []struct {
		what string
		run  func(ctx context.Context, sent *atomic.Uint64)
	}{
		{"nothing", func(ctx context.Context, _ *atomic.Uint64) { <-ctx.Done() }},
		{"queries", func(ctx context.Context, sent *atomic.Uint64) {
			datagrams(ctx, t, hostile, server, sent, func([]byte) []byte { return valid })
		}},
		{"garbage", func(ctx context.Context, sent *atomic.Uint64) {
			datagrams(ctx, t, hostile, server, sent, func(b []byte) []byte {
				for i := 0; i+8 <= len(b); i += 8 {
					binary.NativeEndian.PutUint64(b[i:], rand.Uint64())
				}
				return b[:rand.IntN(len(b))]
			})
		}},
		{"names that nobody resolves", func(ctx context.Context, sent *atomic.Uint64) {
			datagrams(ctx, t, hostile, server, sent, func([]byte) []byte { return packed(t, fmt.Sprintf("n%d.example.com.", sent.Load())) })
		}},
		{"connections", func(ctx context.Context, sent *atomic.Uint64) { connections(ctx, hostile, server, sent, []byte{0}) }},
		{"queries by TCP", func(ctx context.Context, sent *atomic.Uint64) {
			connections(ctx, hostile, server, sent, append([]byte{0, byte(len(valid))}, valid...))
		}},
	} {
		t.Run(flood.what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), floodFor)
			defer cancel()
			var sent atomic.Uint64
			var done sync.WaitGroup
			done.Go(func() { flood.run(ctx, &sent) })
			var took []time.Duration
			late := 0
			for ctx.Err() == nil {
				for _, network := range []string{"udp", "tcp"} {
					d, err := timed(victim, network, server, valid)
					if err != nil {
						late++
						t.Logf("%s: %v", network, err)
					}
					took = append(took, d)
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			done.Wait()
			slices.Sort(took)
			t.Logf("%d sent; %d asked: median %s, p99 %s, max %s, %d too late; agent has %d MB", sent.Load(), len(took), took[len(took)/2],
				took[len(took)*99/100], took[len(took)-1], late, resident(t, h.agent.Process.Pid)>>20)
		})
	}
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

// datagrams sends from a thousand ports in turn, as fast as it can.
func datagrams(ctx context.Context, t testing.TB, from netns.NS, to netip.AddrPort, sent *atomic.Uint64, next func([]byte) []byte) {
	var conns []net.Conn
	for range 50 {
		c, err := dial(from, "udp", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		conns = append(conns, c)
	}
	buf := make([]byte, 600)
	for i := 0; ctx.Err() == nil; i++ {
		_, _ = conns[i%len(conns)].Write(next(buf))
		sent.Add(1)
	}
}

// connections opens as many as it can, sends the same on each and waits for nothing.
func connections(ctx context.Context, from netns.NS, to netip.AddrPort, sent *atomic.Uint64, send []byte) {
	var conns []net.Conn
	for ctx.Err() == nil {
		c, err := dial(from, "tcp", to)
		if err != nil {
			continue
		}
		defer c.Close()
		if conns = append(conns, c); len(conns) > 2000 {
			conns[0].Close()
			conns = conns[1:]
		}
		_, _ = c.Write(send)
		sent.Add(1)
	}
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
