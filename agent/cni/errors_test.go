package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
)

func TestEnvironmentErrors(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	for name, c := range map[string]struct {
		env  []string
		word string
	}{
		"no command":           {nil, "CNI_COMMAND"},
		"unknown command":      {env("UPDATE", "c1"), "CNI_COMMAND"},
		"no container":         {env("ADD", ""), "CNI_CONTAINERID missing"},
		"bad container":        {env("ADD", "a b"), "CNI_CONTAINERID"},
		"no interface":         {env("DEL", "c1", "CNI_IFNAME="), "CNI_IFNAME missing"},
		"interface of 16":      {env("ADD", "c1", "CNI_IFNAME=abcdefghijklmnop"), "CNI_IFNAME"},
		"no netns":             {env("ADD", "c1", "CNI_NETNS="), "CNI_NETNS missing"},
		"relative netns":       {env("CHECK", "c1", "CNI_NETNS=c1"), "CNI_NETNS"},
		"args without value":   {env("ADD", "c1", "CNI_ARGS=what"), "CNI_ARGS"},
		"unknown args":         {env("ADD", "c1", "CNI_ARGS=A=1;B=2"), "unknown A, B"},
		"unknown, not to be":   {env("ADD", "c1", "CNI_ARGS=A=1;IgnoreUnknown=0"), "unknown A"},
		"bad IgnoreUnknown":    {env("ADD", "c1", "CNI_ARGS=IgnoreUnknown=maybe"), "IgnoreUnknown"},
		"IP is no address":     {env("ADD", "c1", "CNI_ARGS=IP=10.64.0"), "10.64.0"},
		"IP with a zone":       {env("ADD", "c1", "CNI_ARGS=IP=fe80::1%eth0"), "global unicast"},
		"IP of loopback":       {env("ADD", "c1", "CNI_ARGS=IP=127.0.0.1"), "global unicast"},
		"two of one family":    {env("ADD", "c1", "CNI_ARGS=IP=10.64.0.1,10.64.0.2"), "more than one"},
		"IgnoreUnknown and IP": {env("ADD", "c1", "CNI_ARGS=IgnoreUnknown=1;IP="+strings.Repeat("1", 50)), "CNI_ARGS"},
	} {
		t.Run(name, func(t *testing.T) { shim(t, c.env, h.conf(nil)).wantError(t, 4, c.word) })
	}
}

func TestConfigErrors(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	keys := func(k string, v any) string { return h.conf(map[string]any{k: v}) }
	raw := func(k, v string) string { return keys(k, json.RawMessage(v)) }
	for name, c := range map[string]struct {
		command string
		stdin   string
		code    int
		word    string
	}{
		"nothing":                {"ADD", "", 6, "not JSON"},
		"garbage":                {"ADD", "\x00\xff{", 6, "not JSON"},
		"cut off":                {"ADD", h.conf(nil)[:40], 6, "not JSON"},
		"broken deep inside":     {"ADD", strings.Replace(raw("args", `{"a":1}`), `{"a":1}`, `{"a":tru}`, 1), 6, "not JSON"},
		"null":                   {"ADD", "null", 6, "no object"},
		"too large":              {"ADD", keys("args", map[string]string{"x": strings.Repeat("y", 1<<20)}), 6, "1 MiB"},
		"no version":             {"ADD", keys("cniVersion", nil), 1, "0.1.0"},
		"old version":            {"ADD", keys("cniVersion", "0.2.0"), 1, "0.2.0"},
		"future version":         {"ADD", keys("cniVersion", "1.2.0"), 1, "1.2.0"},
		"version of the future":  {"DEL", keys("cniVersion", "9"), 1, "9"},
		"CHECK before 0.4.0":     {"CHECK", keys("cniVersion", "0.3.1"), 1, "CHECK came with 0.4.0"},
		"GC before 1.1.0":        {"GC", keys("cniVersion", "1.0.0"), 1, "GC came with 1.1.0"},
		"STATUS before 1.1.0":    {"STATUS", keys("cniVersion", "1.0.0"), 1, "STATUS came with 1.1.0"},
		"no name":                {"ADD", keys("name", nil), 7, "name"},
		"bad name":               {"ADD", keys("name", "a/b"), 7, "name"},
		"name is a number":       {"ADD", keys("name", 1), 7, "name"},
		"unknown key":            {"ADD", keys("bridge", "br0"), 7, "bridge: unknown key"},
		"unknown key, STATUS":    {"STATUS", keys("MTU", 1500), 7, "MTU: unknown key"},
		"unknown key, CHECK":     {"CHECK", keys("bridge", "br0"), 7, "bridge: unknown key"},
		"mtu too small":          {"ADD", keys("mtu", 100), 7, "mtu"},
		"mtu too large":          {"ADD", keys("mtu", 65536), 7, "mtu"},
		"mtu negative":           {"ADD", keys("mtu", -1), 7, "mtu"},
		"mtu a fraction":         {"ADD", keys("mtu", 1400.5), 7, "mtu"},
		"pool a number":          {"ADD", keys("pool", 1), 7, "pool"},
		"pool with a slash":      {"ADD", keys("pool", "a/b"), 7, "pool"},
		"family unknown":         {"ADD", keys("family", "ipv5"), 7, "ipv5"},
		"family a number":        {"STATUS", keys("family", 4), 7, "family"},
		"labels a list":          {"ADD", raw("labels", `["a=b"]`), 7, "labels"},
		"labels without a key":   {"STATUS", keys("labels", map[string]string{"": "x"}), 7, "labels: "},
		"mtu a string":           {"ADD", keys("mtu", "1400"), 7, "mtu"},
		"socket relative":        {"ADD", keys("socket", "cni.sock"), 7, "socket"},
		"timeout no duration":    {"ADD", keys("timeout", "soon"), 7, "timeout"},
		"another spool":          {"ADD", keys("spool", "/var/spool/other"), 7, "the agent drains " + h.spool},
		"the default spool":      {"STATUS", keys("spool", nil), 7, "the agent drains " + h.spool},
		"masquerading":           {"ADD", keys("ipMasq", true), 2, "ipMasq: true"},
		"an IPAM plugin":         {"ADD", raw("ipam", `{"type":"host-local"}`), 2, `ipam: {"type":"host-local"}`},
		"ipam a string":          {"ADD", keys("ipam", "host-local"), 7, "ipam"},
		"a capability not ours":  {"ADD", raw("runtimeConfig", `{"mac":"02:00:00:00:00:09"}`), 2, `runtimeConfig.mac: "02:00:00:00:00:09"`},
		"port mappings":          {"ADD", raw("runtimeConfig", `{"portMappings":[{"hostPort":1}]}`), 2, "portMappings"},
		"runtimeConfig a list":   {"ADD", raw("runtimeConfig", `[]`), 7, "runtimeConfig"},
		"capability ips":         {"ADD", raw("runtimeConfig", `{"ips":["10.64.0.1","10.64.0.2"]}`), 7, "runtimeConfig.ips"},
		"args ips":               {"ADD", raw("args", `{"cni":{"ips":["x"]}}`), 7, "args.cni.ips"},
		"aliases a string":       {"ADD", keys("runtimeConfig", map[string]any{"aliases": "db"}), 7, "aliases"},
		"alias of two words":     {"ADD", keys("runtimeConfig", map[string]any{"aliases": []string{"a b"}}), 7, "runtimeConfig.aliases"},
		"runtime's dns a list":   {"ADD", keys("runtimeConfig", map[string]any{"dns": []string{"10.0.0.1"}}), 7, "runtimeConfig"},
		"dns a string":           {"ADD", keys("dns", "10.0.0.1"), 7, "dns"},
		"prevResult a string":    {"ADD", keys("prevResult", "x"), 7, "prevResult"},
		"prevResult bad address": {"CHECK", raw("prevResult", `{"ips":[{"address":"x"}]}`), 7, "prevResult"},
		"prevResult bad index":   {"ADD", raw("prevResult", `{"ips":[{"address":"10.0.0.1/8","interface":3}]}`), 7, "ips[0].interface"},
		"prevResult with nulls":  {"ADD", raw("prevResult", `{"interfaces":[null]}`), 7, "null"},
	} {
		t.Run(name, func(t *testing.T) { shim(t, env(c.command, "c1"), c.stdin).wantError(t, c.code, c.word) })
	}
	if f.history() != "" {
		t.Errorf("the agent was asked: %s", f.history())
	}
}

func TestErrorsCarryTheRuntimesVersion(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if r := shim(t, env("ADD", "c1"), h.conf(map[string]any{"cniVersion": v, "mtu": -1})); r.err.CNIVersion != v {
			t.Errorf("agent's error in %s: %s", v, r.stdout)
		}
		if r := shim(t, env("ADD", "c1"), h.conf(map[string]any{"cniVersion": v, "timeout": ""})); r.err.CNIVersion != v {
			t.Errorf("shim's error in %s: %s", v, r.stdout)
		}
	}
}

func TestLargestConfig(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	frame := len(h.conf(map[string]any{"args": ""}))
	shim(t, env("ADD", "c1"), h.conf(map[string]any{"args": map[string]string{"x": strings.Repeat("y", 1<<20-frame-6)}})).wantOK(t)
}

func TestUnreadableStdin(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	shimFrom(t, env("ADD", "c1"), dir).wantError(t, 5, "stdin")
}

func TestAgentErrors(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	for _, c := range []struct {
		err  error
		code int
	}{
		{agent.ErrInvalid, 7},
		{agent.ErrNetns, 4},
		{agent.ErrLinkExists, 104},
		{agent.ErrExhausted, 100},
		{agent.ErrSourceAway, 11},
		{agent.ErrAddressInUse, 101},
		{agent.ErrNotInBlock, 102},
		{agent.ErrMismatch, 103},
		{agent.ErrStorage, 5},
		{agent.ErrNotFound, 3},
		{context.DeadlineExceeded, 11},
		{context.Canceled, 11},
		{errors.New("netlink: no buffer space"), 999},
	} {
		failure := func(context.Context) error { return fmt.Errorf("attach c1/eth0: %w", c.err) }
		f.set(func() { f.onAttach, f.onDetach = failure, failure })
		f.set(func() { f.onCheck = func() (agent.Endpoint, error) { return agent.Endpoint{}, failure(nil) } })
		shim(t, env("ADD", "c1"), h.conf(nil)).wantError(t, c.code, c.err.Error())
		if c.code == 999 {
			shim(t, env("CHECK", "c1"), h.conf(map[string]any{"prevResult": map[string]any{"interfaces": []any{map[string]any{"name": "eth0"}}}})).wantError(t, 105, c.err.Error())
		}
		if !errors.Is(c.err, context.DeadlineExceeded) {
			shim(t, env("DEL", "c1"), h.conf(nil)).wantError(t, c.code, c.err.Error())
		}
	}
	if f.count() > 0 {
		t.Error("something is attached")
	}
}
