package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// bad is a request that must fail, by the shim and by the client command alike.
type bad struct {
	name   string
	netns  string // empty: a good one
	iface  string // empty: eth0
	wanted string // address
	mtu    int
	pool   string
	family string
	label  string // KEY=VALUE
	called string // the endpoint's name
	code   uint   // of CNI
	names  string // the object, in both texts
}

// TestBadInput wants each mistake named, and nothing left of it.
func TestBadInput(t *testing.T) {
	tiny := netip.MustParsePrefix("10.64.0.0/30") // one address for the host, three for containers
	h := newHost(t, tiny, block6)
	box, occupied, other := nstest.New(t, "box"), nstest.New(t, "occupied"), nstest.New(t, "other")
	if err := netns.Cable(netns.End{NS: occupied, Link: "eth0"}, netns.End{NS: other, Link: "far"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := box.Path() + "-gone"
	leads := func(name, to string) string {
		link := filepath.Join(h.dir, name)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		return link
	}
	toHost, toFile := leads("to-host", fmt.Sprintf("/proc/%d/ns/net", h.agent.Process.Pid)), leads("to-file", file)
	toItself, toNothing := leads("to-itself", "to-itself"), leads("to-nothing", gone)
	taken := h.add("holder", "eth0", nstest.New(t, "holder"), nil)[0].String()

	for _, tc := range []bad{
		{name: "missing namespace", netns: gone, code: relay.CodeInvalidEnvironment, names: gone},
		{name: "regular file", netns: file, code: relay.CodeInvalidEnvironment, names: file},
		{name: "directory", netns: h.dir, code: relay.CodeInvalidEnvironment, names: h.dir},
		{name: "mount namespace", netns: "/proc/self/ns/mnt", code: relay.CodeInvalidEnvironment, names: "/proc/self/ns/mnt"},
		{name: "the host's own namespace", netns: h.ns.Path(), code: relay.CodeInvalidEnvironment, names: h.ns.Path()},
		{name: "relative path", netns: "netns/box", code: relay.CodeInvalidEnvironment, names: "netns/box"},
		{name: "link to the host's own namespace", netns: toHost, code: relay.CodeInvalidEnvironment, names: toHost},
		{name: "link to a file", netns: toFile, code: relay.CodeInvalidEnvironment, names: toFile},
		{name: "link to itself", netns: toItself, code: relay.CodeInvalidEnvironment, names: toItself},
		{name: "link to nothing", netns: toNothing, code: relay.CodeInvalidEnvironment, names: toNothing},
		{name: "path too long", netns: "/" + strings.Repeat("x", 4096), code: relay.CodeInvalidEnvironment, names: strings.Repeat("x", 30)},
		{name: "16 characters", iface: "eth0123456789012", code: relay.CodeInvalidEnvironment, names: "eth0123456789012"},
		{name: "loopback", iface: "lo", code: relay.CodeInvalidEnvironment, names: `"lo"`},
		{name: "interface exists", netns: occupied.Path(), code: relay.CodeLinkExists, names: "eth0"},
		{name: "address outside the blocks", wanted: "192.0.2.77", code: relay.CodeNotInBlock, names: "192.0.2.77"},
		{name: "the host's own address", wanted: "10.64.0.0", code: relay.CodeAddressInUse, names: "10.64.0.0"},
		{name: "address in use", wanted: taken, code: relay.CodeAddressInUse, names: taken},
		{name: "no address", wanted: "10.64.0", code: relay.CodeInvalidEnvironment, names: "10.64.0"},
		{name: "negative MTU", mtu: -1, code: relay.CodeInvalidConfig, names: "-1"},
		{name: "MTU too small for IPv6", mtu: 1000, code: relay.CodeInvalidConfig, names: "1000"},
		{name: "MTU too large", mtu: 65536, code: relay.CodeInvalidConfig, names: "65536"},
		{name: "unknown pool", pool: "nowhere", code: relay.CodeInvalidConfig, names: "nowhere"},
		{name: "no name of a pool", pool: "a/b", code: relay.CodeInvalidConfig, names: "a/b"},
		{name: "unknown family", family: "ipv5", code: relay.CodeInvalidConfig, names: "ipv5"},
		{name: "address of another family", family: "ipv4", wanted: "fd00:64::77", code: relay.CodeInvalidConfig, names: "fd00:64::77"},
		{name: "no DNS name", called: "a b", code: relay.CodeInvalidConfig, names: "a b"},
		{name: "name too long", called: strings.Repeat("a.", 80) + "a", code: relay.CodeInvalidConfig, names: "a.a.a"},
		{name: "label without a key", label: "=x", code: relay.CodeInvalidConfig, names: "label"},
		{name: "label too long", label: "app=" + strings.Repeat("x", 1025), code: relay.CodeInvalidConfig, names: "app"},
		{name: "label that no terminal should print", label: "app=\x1b[2J", code: relay.CodeInvalidConfig, names: "app"},
	} {
		t.Run(tc.name, func(t *testing.T) { h.in(t).mustRefuse(tc, box, occupied) })
	}
	for i := range 2 {
		id := fmt.Sprint("filler", i)
		h.add(id, "eth0", nstest.New(t, id), nil)
	}
	t.Run("full block", func(t *testing.T) {
		h.in(t).mustRefuse(bad{code: relay.CodeExhausted, names: tiny.String()}, box, occupied)
	})
}

func (h *host) mustRefuse(tc bad, box, occupied netns.NS) {
	h.t.Helper()
	if tc.netns == "" {
		tc.netns = box.Path()
	}
	if tc.iface == "" {
		tc.iface = "eth0"
	}
	before := h.census(box, occupied)

	r := request{verb: relay.Add, id: "bad", iface: tc.iface, netns: tc.netns, conf: h.single(nil)}
	if tc.wanted != "" {
		r.args = "IP=" + tc.wanted
	}
	if tc.mtu != 0 {
		r.conf["mtu"] = tc.mtu
	}
	for key, value := range map[string]string{"pool": tc.pool, "family": tc.family} {
		if value != "" {
			r.conf[key] = value
		}
	}
	annotations := map[string]string{}
	for key, value := range map[string]string{"name": tc.called, "labels": tc.label} {
		if value != "" {
			annotations["hostfabric.io/"+key] = value
		}
	}
	r.conf["runtimeConfig"] = map[string]any{"io.kubernetes.cri.pod-annotations": annotations}
	_, err := h.try(r)
	switch {
	case err == nil:
		h.t.Error("the shim succeeds")
	case err.Code != tc.code || !strings.Contains(err.Error(), tc.names):
		h.t.Errorf("the shim fails with code %d, %v; want code %d, naming %s", err.Code, err, tc.code, tc.names)
	}
	h.unchanged(before, box, occupied)

	text, ok := h.attach(tc)
	if ok || !strings.Contains(text, tc.names) {
		h.t.Errorf("hostfabric attach says (success: %t) %q, want a failure that names %s", ok, text, tc.names)
	}
	h.t.Logf("shim: %v\nattach: %s", err, text)
	h.unchanged(before, box, occupied)
}

// attach runs the client command.
func (h *host) attach(tc bad) (text string, ok bool) {
	h.t.Helper()
	args := []string{"attach", "bad", tc.netns, "--socket", h.run("hostfabric.sock"), "--interface", tc.iface}
	if tc.wanted != "" {
		args = append(args, "--address", tc.wanted)
	}
	if tc.mtu != 0 {
		args = append(args, fmt.Sprint("--mtu=", tc.mtu))
	}
	for flag, value := range map[string]string{"--pool": tc.pool, "--family": tc.family, "--name": tc.called, "--label": tc.label} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(bin, "hostfabric"), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.ns.Start(cmd); err != nil {
		h.t.Fatal(err)
	}
	err := cmd.Wait()
	return strings.TrimSpace(out.String()), err == nil
}
