package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
)

// patience is for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

// The hosts' blocks; the first address of each is the host's own, on its loopback.
var (
	block4 = netip.MustParsePrefix("10.64.0.0/28")
	block6 = netip.MustParsePrefix("fd00:64::/64")
)

// host is a network namespace with an agent.
type host struct {
	t      testing.TB
	name   string
	ns     netns.NS
	dir    string // configuration, state, sockets and log
	agent  *exec.Cmd
	client apiv1.HostfabricClient
}

// newHost starts an agent with these blocks in a namespace of its own.
func newHost(t testing.TB, blocks ...netip.Prefix) *host {
	t.Helper()
	return startHost(t, "e2e", func(h *host) { h.configure(blocks) })
}

// startHost starts an agent in a namespace of its own, as configure has written its configuration.
func startHost(t testing.TB, name string, configure func(h *host)) *host {
	t.Helper()
	h := &host{t: t, name: name, ns: nstest.New(t, name)}
	var err error
	if h.dir, err = os.MkdirTemp("", "hf-"); err != nil { // t.TempDir is too long a path for unix sockets
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			h.showLog()
		}
		if err := os.RemoveAll(h.dir); err != nil {
			t.Error(err)
		}
	})
	configure(h)
	conn, err := grpc.NewClient("unix://"+h.run("hostfabric.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.client = apiv1.NewHostfabricClient(conn)
	h.start()
	t.Cleanup(func() {
		h.stop()
		h.stopSpeaker()
	})
	return h
}

// in is the same host for a subtest, which fails by itself.
func (h host) in(t testing.TB) *host {
	h.t = t
	return &h
}

func (h *host) run(name string) string { return filepath.Join(h.dir, "run", name) }
func (h *host) config() string         { return filepath.Join(h.dir, "hostfabric.yaml") }
func (h *host) log() string            { return filepath.Join(h.dir, "log") }
func (h *host) spool() string          { return filepath.Join(h.dir, "state", "cni-spool") }

func (h *host) configure(blocks []netip.Prefix) {
	h.t.Helper()
	var b strings.Builder
	b.WriteString("blocks:\n")
	for _, p := range blocks {
		fmt.Fprintf(&b, "  - %q\n", p)
	}
	h.write(b.String())
}

// write writes the configuration: what every host has, and where this one's blocks come from.
func (h *host) write(blocks string) {
	h.t.Helper()
	text := fmt.Sprintf("asn: 4200000101\nrouter_id: 192.0.2.101\nhost: %s\npeers: []\nbgp: {inspect: \"off\"}\n"+
		"ipam: {quarantine: 0s, reconcile: 1s, settle: 0s}\nlog: {level: debug}\nstate_dir: %s/state\nrun_dir: %s/run\n%s", h.name, h.dir, h.dir, blocks)
	if err := os.WriteFile(h.config(), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// start starts the agent and waits until it serves, knows its speaker and has no problem.
func (h *host) start() {
	h.t.Helper()
	h.startUnready()
	h.eventually("the agent has its speaker and no problem", func() error {
		s, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !s.GetReady() {
			err = fmt.Errorf("not ready: %q", s.GetProblems())
		}
		return err
	})
}

// startUnready starts the agent and waits until it serves.
func (h *host) startUnready() {
	h.t.Helper()
	log, err := os.OpenFile(h.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.agent = exec.Command(filepath.Join(bin, "hostfabric"), "agent", "--config", h.config())
	h.agent.Stdout, h.agent.Stderr = log, log // a file: the speaker inherits it and outlives the agent
	if err := h.ns.Start(h.agent); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the agent serves", func() error {
		_, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		return err
	})
}

// stop ends the agent; its containers and its speaker stay.
func (h *host) stop() {
	h.t.Helper()
	if h.agent == nil {
		return
	}
	agent := h.agent
	h.agent = nil
	if err := agent.Process.Signal(unix.SIGTERM); err != nil {
		h.t.Errorf("end the agent: %v", err)
	}
	kill := time.AfterFunc(patience, func() { _ = agent.Process.Kill() }) // it may have ended just then
	err := agent.Wait()
	if !kill.Stop() {
		err = errors.Join(err, errors.New("it took too long and was killed"))
	}
	if err != nil {
		h.t.Errorf("the agent ended badly: %v", err)
	}
}

// kill ends the agent as a crash does.
func (h *host) kill() {
	h.t.Helper()
	if err := h.agent.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	if state, err := h.agent.Process.Wait(); err != nil || !state.Sys().(syscall.WaitStatus).Signaled() {
		h.t.Fatalf("the agent was not killed: %v, %v", state, err)
	}
	h.agent = nil
}

// stopSpeaker ends the speaker, which outlives the agent by design. It is nobody's child that we could wait for.
func (h *host) stopSpeaker() {
	h.t.Helper()
	pid, err := supervisor.ListenerPID(h.run("speaker/gobgp.sock"))
	if err != nil {
		h.t.Errorf("find the speaker to end it: %v", err)
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		h.t.Errorf("watch speaker process %d: %v", pid, err)
		return
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		h.t.Errorf("end speaker process %d: %v", pid, err)
		return
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			h.t.Errorf("speaker process %d does not end on SIGTERM: %v", pid, errors.Join(err, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)))
		}
		return
	}
}

func (h *host) showLog() {
	log, err := os.ReadFile(h.log())
	h.t.Logf("log of the agent (%v):\n%s", err, log)
}

// eventually polls until check is content.
func (h *host) eventually(what string, check func() error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			h.t.Fatalf("still not so: %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// census is all that an attach could leave behind.
type census struct {
	Links, Leases, Routes []string
}

// census counts on the host and, for the links and routes, in these containers too.
func (h *host) census(boxes ...netns.NS) census {
	h.t.Helper()
	var c census
	for _, ns := range append([]netns.NS{h.ns}, boxes...) {
		for _, name := range linkNames(h.t, ns) {
			c.Links = append(c.Links, ns.Name+" "+name)
		}
		for _, family := range []string{"-4", "-6"} {
			for line := range strings.Lines(output(h.t, ns, "ip", family, "-o", "route", "show", "table", "all")) {
				if !kernelsOwn(line) {
					c.Routes = append(c.Routes, ns.Name+" "+strings.TrimSpace(line))
				}
			}
		}
	}
	c.Leases = h.leases()
	slices.Sort(c.Links)
	slices.Sort(c.Routes)
	return c
}

// kernelsOwn are the routes of link-local addresses, which the kernel adds when it has found that nobody else has them,
// some seconds after their link came up.
func kernelsOwn(route string) bool {
	return strings.Contains(route, "fe80::") && strings.Contains(route, "proto kernel")
}

// leases lists what is held, as "ADDRESS CONTAINER/INTERFACE".
func (h *host) leases() []string {
	h.t.Helper()
	resp, err := h.client.ListLeases(h.t.Context(), &apiv1.ListLeasesRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, l := range resp.GetLeases() {
		if l.GetState() != "quarantined" {
			all = append(all, l.GetAddress()+" "+l.GetContainerId()+"/"+l.GetInterface())
		}
	}
	return all
}

// unchanged waits until nothing is there that was not before, and nothing is missing.
func (h *host) unchanged(before census, boxes ...netns.NS) {
	h.t.Helper()
	h.eventually("links, leases and routes are as before", func() error {
		if diff := cmp.Diff(before, h.census(boxes...)); diff != "" {
			return fmt.Errorf("(-before +after):\n%s", diff)
		}
		return nil
	})
}

func linkNames(t testing.TB, ns netns.NS) []string {
	t.Helper()
	var names []string
	err := ns.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func output(t testing.TB, ns netns.NS, name string, args ...string) string {
	t.Helper()
	out, err := ns.Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// reach sends echo requests from the host's own address and from the container's, and wants every reply.
func (h *host) reach(box netns.NS, addrs ...netip.Addr) {
	h.t.Helper()
	for _, a := range addrs {
		own := block4.Addr()
		if a.Is6() {
			own = block6.Addr()
		}
		h.reachFrom(own, box, a)
	}
}

func (h *host) reachFrom(own netip.Addr, box netns.NS, addr netip.Addr) {
	h.t.Helper()
	outside, inside := probe.Endpoint{Name: "host", NS: h.ns, Addr: own}, probe.Endpoint{Name: box.Name, NS: box, Addr: addr}
	pairs := []probe.Pair{{From: outside, To: inside}, {From: inside, To: outside}}
	report, err := probe.Ping(h.t.Context(), pairs, probe.PingOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range report.Failed {
		h.t.Errorf("no reply from %s (%s) to %s (%s)", p.To.Name, p.To.Addr, p.From.Name, p.From.Addr)
	}
	if report.Sent != len(pairs) {
		h.t.Errorf("%d echo requests sent, want %d", report.Sent, len(pairs))
	}
}
