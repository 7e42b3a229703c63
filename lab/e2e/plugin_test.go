package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// plugin is the part of a network config that is ours, for this host's agent.
func (h *host) plugin(more map[string]any) map[string]any {
	p := map[string]any{"type": "hostfabric-cni", "socket": h.run("cni.sock"), "spool": h.spool()}
	for k, v := range more {
		p[k] = v
	}
	return p
}

// network is a network config list below the host's directory, for cnitool.
type network struct {
	h    *host
	name string
	path string // CNI_PATH
}

// newNetwork writes the list. Its name is the test's alone: cnitool keeps its results by it in a place that all share.
func (h *host) newNetwork(version string, plugins ...map[string]any) network {
	h.t.Helper()
	n := network{h: h, name: fmt.Sprintf("%s-%d", h.t.Name(), os.Getpid()), path: bin}
	for _, p := range plugins[1:] {
		n.path = bin + ":" + toolsDir(h.t, p["type"].(string))
	}
	list, err := json.Marshal(map[string]any{"cniVersion": version, "name": n.name, "plugins": plugins})
	if err != nil {
		h.t.Fatal(err)
	}
	dir := filepath.Join(h.dir, "net.d")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "net.conflist"), list, 0o600)); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(n.forget)
	return n
}

// forget removes what cnitool keeps of a network whose test ended before its DEL.
func (n network) forget() {
	left, err := filepath.Glob("/var/lib/cni/results/" + n.name + "-*")
	if err != nil {
		n.h.t.Error(err)
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			n.h.t.Error(err)
		}
	}
}

// try runs cnitool on the host. capArgs is JSON, or empty.
func (n network) try(verb string, box netns.NS, capArgs string) ([]byte, error) {
	cmd := exec.CommandContext(n.h.t.Context(), filepath.Join(toolsDir(n.h.t, "cnitool"), "cnitool"), verb, n.name, box.Path())
	cmd.Env = append(os.Environ(), "CNI_PATH="+n.path, "NETCONFPATH="+filepath.Join(n.h.dir, "net.d"), "CNI_IFNAME=eth0", "CAP_ARGS="+capArgs)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.h.ns.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("cnitool %s: %w: %s", verb, err, out.Bytes())
	}
	return out.Bytes(), nil
}

func (n network) do(verb string, box netns.NS, capArgs string) []byte {
	n.h.t.Helper()
	out, err := n.try(verb, box, capArgs)
	if err != nil {
		n.h.t.Fatal(err)
	}
	return out
}

// request is one run of the shim as a runtime runs it.
type request struct {
	verb, id, iface, netns, args string
	conf                         map[string]any
	stdin                        []byte // in place of conf
}

// shim runs the shim on the host. failure is CNI's own error, err whatever else went wrong.
func (h *host) shim(r request) (stdout []byte, failure *types.Error, err error) {
	if r.conf == nil {
		r.conf = h.single(nil)
	}
	conf := r.stdin
	if conf == nil {
		if conf, err = json.Marshal(r.conf); err != nil {
			return nil, nil, err
		}
	}
	if r.iface == "" {
		r.iface = "eth0"
	}
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(bin, "hostfabric-cni"))
	cmd.Env = []string{
		"CNI_COMMAND=" + r.verb, "CNI_CONTAINERID=" + r.id, "CNI_NETNS=" + r.netns, "CNI_IFNAME=" + r.iface, "CNI_ARGS=" + r.args, "CNI_PATH=" + bin,
	}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &out, os.Stderr
	if err := h.ns.Start(cmd); err != nil {
		return nil, nil, err
	}
	if err = cmd.Wait(); err == nil {
		return out.Bytes(), nil, nil
	}
	failure = &types.Error{}
	if jsonErr := json.Unmarshal(out.Bytes(), failure); jsonErr != nil || failure.Code == 0 {
		return nil, nil, fmt.Errorf("shim %s: %w, and no CNI error on stdout: %q", r.verb, err, out.Bytes())
	}
	return nil, failure, nil
}

// try is shim where only CNI's own errors are expected.
func (h *host) try(r request) ([]byte, *types.Error) {
	h.t.Helper()
	out, failure, err := h.shim(r)
	if err != nil {
		h.t.Fatal(err)
	}
	return out, failure
}

func (h *host) do(r request) []byte {
	h.t.Helper()
	out, err := h.try(r)
	if err != nil {
		h.t.Fatalf("shim %s of %s: code %d: %v", r.verb, r.id, err.Code, err)
	}
	return out
}

// add attaches and returns the container's addresses.
func (h *host) add(id, iface string, box netns.NS, conf map[string]any) []netip.Addr {
	h.t.Helper()
	return addresses(h.t, result(h.t, h.do(request{verb: relay.Add, id: id, iface: iface, netns: box.Path(), conf: conf})))
}

// single is a network config of our plugin alone, as the shim gets it.
func (h *host) single(more map[string]any) map[string]any {
	conf := h.plugin(map[string]any{"cniVersion": "1.1.0", "name": "e2e"})
	for k, v := range more {
		conf[k] = v
	}
	return conf
}

func result(t testing.TB, stdout []byte) *types100.Result {
	t.Helper()
	var version struct {
		CNIVersion string `json:"cniVersion"`
	}
	err := json.Unmarshal(stdout, &version)
	if err != nil {
		t.Fatalf("result: %v: %s", err, stdout)
	}
	written, err := create.Create(version.CNIVersion, stdout)
	if err != nil {
		t.Fatalf("result: %v: %s", err, stdout)
	}
	got, err := types100.GetResult(written)
	if err != nil {
		t.Fatalf("result: %v: %s", err, stdout)
	}
	got.CNIVersion = version.CNIVersion // as written, before the conversion
	return got
}

func addresses(t testing.TB, r *types100.Result) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, ip := range r.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			t.Fatalf("result has address %v", ip.Address)
		}
		all = append(all, a.Unmap())
	}
	return all
}

// check runs CHECK; without a result of the ADD it repeats the ADD for it.
func (h *host) check(id, iface string, box netns.NS, prev *types100.Result) {
	h.t.Helper()
	if prev == nil {
		prev = result(h.t, h.do(request{verb: relay.Add, id: id, iface: iface, netns: box.Path()}))
	}
	h.do(request{verb: relay.Check, id: id, iface: iface, netns: box.Path(), conf: h.single(map[string]any{"prevResult": prev})})
}
