package cni_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni"
	"github.com/hostfabric/hostfabric/agent/resolver"
)

func TestVersion(t *testing.T) {
	h := newHost(t) // with no agent: none is needed
	for stdin, version := range map[string]string{
		h.conf(map[string]any{"cniVersion": "0.4.0"}): "0.4.0",
		`{"cniVersion":"2.0.0","socket":1}`:           "2.0.0",
		"":                                            "1.1.0",
		"garbage":                                     "1.1.0",
	} {
		r := shim(t, []string{"CNI_COMMAND=VERSION"}, stdin)
		r.wantOK(t)
		want := fmt.Sprintf("{\"cniVersion\":%q,\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n", version)
		if r.stdout != want {
			t.Errorf("%q: got %s, want %s", stdin, r.stdout, want)
		}
	}
}

func TestAddResultOfEachVersion(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	const link = `{"name":"hf0123456789ab","mac":"02:00:00:00:00:01"%s},{"name":"eth0","mac":"02:00:00:00:00:02"%s,"sandbox":"/run/netns/c1"}`
	const routes = `[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]`
	ips := func(v4, v6 string) string {
		return `[{` + v4 + `"interface":1,"address":"10.64.0.7/32","gateway":"169.254.1.1"},{` + v6 + `"interface":1,"address":"fd00:64::7/128","gateway":"fe80::1"}]`
	}
	old, recent := ips(`"version":"4",`, `"version":"6",`), ips("", "")
	plain, mtu := fmt.Sprintf(link, "", ""), fmt.Sprintf(link, `,"mtu":1500`, `,"mtu":1500`)
	for version, want := range map[string]string{
		"0.3.1": `{"cniVersion":"0.3.1","interfaces":[` + plain + `],"ips":` + old + `,"routes":` + routes + `,"dns":{}}`,
		"0.4.0": `{"cniVersion":"0.4.0","interfaces":[` + plain + `],"ips":` + old + `,"routes":` + routes + `,"dns":{}}`,
		"1.0.0": `{"cniVersion":"1.0.0","interfaces":[` + plain + `],"ips":` + recent + `,"routes":` + routes + `}`,
		"1.1.0": `{"cniVersion":"1.1.0","interfaces":[` + mtu + `],"ips":` + recent + `,"routes":` + routes + `}`,
	} {
		r := shim(t, env("ADD", "c1"), h.conf(map[string]any{"cniVersion": version}))
		r.wantOK(t)
		if diff := cmp.Diff(decode(t, want), decode(t, r.stdout)); diff != "" {
			t.Errorf("%s: -want +got\n%s", version, diff)
		}
		shim(t, env("DEL", "c1"), h.conf(map[string]any{"cniVersion": version})).wantOK(t)
	}
}

func TestAddResultOfOneFamily(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	for family, want := range map[string]string{
		"ipv4": `[{%s"interface":1,"address":"10.64.0.7/32","gateway":"169.254.1.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}`,
		"ipv6": `[{%s"interface":1,"address":"fd00:64::7/128","gateway":"fe80::1"}],"routes":[{"dst":"::/0","gw":"fe80::1"}]}`,
	} {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			conf := map[string]any{"cniVersion": version, "family": family}
			r := shim(t, env("ADD", "c1"), h.conf(conf))
			r.wantOK(t)
			mark := ""
			if version < "1" {
				mark = fmt.Sprintf(`"version":%q,`, family[3:])
			}
			got, expected := decode(t, r.stdout), decode(t, `{"ips":`+fmt.Sprintf(want, mark))
			if diff := cmp.Diff(expected, map[string]any{"ips": got["ips"], "routes": got["routes"]}); diff != "" {
				t.Errorf("%s %s: -want +got\n%s", version, family, diff)
			}
			conf["prevResult"] = json.RawMessage(r.stdout)
			if version != "0.3.1" {
				shim(t, env("CHECK", "c1"), h.conf(conf)).wantOK(t)
				conf["prevResult"] = json.RawMessage(strings.NewReplacer("10.64.0.7/32", "10.64.0.8/32", "fd00:64::7/128", "fd00:64::8/128").Replace(r.stdout))
				shim(t, env("CHECK", "c1"), h.conf(conf)).wantError(t, 105, "prevResult has")
			}
			delete(conf, "prevResult")
			shim(t, env("DEL", "c1"), h.conf(conf)).wantOK(t)
		}
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if dns, ok := m["dns"].(map[string]any); ok && len(dns) == 0 {
		delete(m, "dns")
	}
	return m
}

// TestResolversOfTheResult: who says anything of them says it all.
func TestResolversOfTheResult(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	var own atomic.Pointer[resolver.Resolver]
	h.serveWith(t, cni.Options{Endpoints: f, Resolver: func() resolver.Resolver { return *own.Load() }})
	conf := map[string]any{"nameservers": []string{"10.0.0.1"}}
	runtime := map[string]any{"dns": map[string]any{"servers": []string{"10.0.0.2"}, "searches": []string{"pod"}, "options": []string{"ndots:5"}}}
	zones := []any{"r1h1.fabric.internal", "fabric.internal"}
	ours := resolver.New(addrs("10.64.0.0", "fd00:64::"), "r1h1.fabric.internal", "fabric.internal")
	for name, c := range map[string]struct {
		own     resolver.Resolver
		changes map[string]any
		want    any
	}{
		"nobody":         {want: nil},
		"network config": {changes: map[string]any{"dns": conf}, want: map[string]any{"nameservers": []any{"10.0.0.1"}}},
		"agent": {own: ours, want: map[string]any{
			"nameservers": []any{"10.64.0.0", "fd00:64::"}, "domain": "r1h1.fabric.internal", "search": zones}},
		"agent, for IPv6 only": {own: ours, changes: map[string]any{"family": "ipv6"}, want: map[string]any{
			"nameservers": []any{"fd00:64::"}, "domain": "r1h1.fabric.internal", "search": zones}},
		"agent out of reach":       {own: resolver.New(addrs("fd00:64::"), "h.z", "z"), changes: map[string]any{"family": "ipv4"}, want: nil},
		"network config and agent": {own: ours, changes: map[string]any{"dns": conf}, want: map[string]any{"nameservers": []any{"10.0.0.1"}}},
		"config of a domain only":  {own: ours, changes: map[string]any{"dns": map[string]any{"domain": "x"}}, want: map[string]any{"domain": "x"}},
		"runtime, config and agent": {own: ours, changes: map[string]any{"dns": conf, "runtimeConfig": runtime}, want: map[string]any{
			"nameservers": []any{"10.0.0.2"}, "search": []any{"pod"}, "options": []any{"ndots:5"}}},
		"a runtime without a word": {own: ours, changes: map[string]any{"dns": conf, "runtimeConfig": map[string]any{"dns": map[string]any{"servers": []string{}}}},
			want: map[string]any{"nameservers": []any{"10.0.0.1"}}},
	} {
		own.Store(&c.own)
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			conf := map[string]any{"cniVersion": version}
			maps.Copy(conf, c.changes)
			r := shim(t, env("ADD", "c1"), h.conf(conf))
			r.wantOK(t)
			if diff := cmp.Diff(c.want, decode(t, r.stdout)["dns"]); diff != "" {
				t.Errorf("%s, version %s: %s", name, version, diff)
			}
			if version != "0.3.1" { // CHECK came with 0.4.0; the resolver may be another one by then
				own.Store(&resolver.Resolver{})
				conf["prevResult"] = json.RawMessage(r.stdout)
				shim(t, env("CHECK", "c1"), h.conf(conf)).wantOK(t)
				own.Store(&c.own)
			}
			shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
		}
	}
}

// A plugin that follows others in a chain must hand on what they did.
func TestAddAfterAnotherPlugin(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	prev := `{"interfaces":[{"name":"br0"},{"name":"net0","sandbox":"/run/netns/c1"}],"ips":[{"interface":1,"address":"192.0.2.9/24"}],"routes":[{"dst":"192.0.2.0/24"}],"dns":{"domain":"x"}}`
	for _, version := range []string{"1.0.0", "1.1.0"} {
		r := shim(t, env("ADD", "c1"), h.conf(map[string]any{"cniVersion": version, "prevResult": json.RawMessage(prev), "dns": map[string]any{"domain": "ours"}}))
		r.wantOK(t)
		var got struct {
			Interfaces []struct{ Name string }
			IPs        []struct {
				Address   string
				Interface int
			}
			Routes []struct{ Dst string }
			DNS    struct{ Domain string }
		}
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
			t.Fatal(err)
		}
		if s, want := fmt.Sprint(got), "{[{br0} {net0} {hf0123456789ab} {eth0}] [{192.0.2.9/24 1} {10.64.0.7/32 3} {fd00:64::7/128 3}] [{192.0.2.0/24} {0.0.0.0/0} {::/0}] {x}}"; s != want {
			t.Errorf("%s: got %s, want %s", version, s, want)
		}
	}
}

func TestDelAlwaysSucceeds(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(nil)).wantOK(t)
	for name, c := range map[string]struct {
		env  []string
		conf map[string]any
	}{
		"first":                 {env("DEL", "c1"), nil},
		"second, empty netns":   {env("DEL", "c1", "CNI_NETNS="), nil},
		"unknown container":     {env("DEL", "c9"), nil},
		"unknown args":          {env("DEL", "c1", "CNI_ARGS=what"), nil},
		"spoilt config":         {env("DEL", "c1"), map[string]any{"mtu": "x", "unknown": 1, "name": nil, "prevResult": "x"}},
		"oldest version":        {env("DEL", "c1"), map[string]any{"cniVersion": "0.3.1"}},
		"netns that is no path": {env("DEL", "c1", "CNI_NETNS=/gone"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := shim(t, c.env, h.conf(c.conf))
			r.wantOK(t)
			if r.stdout != "" {
				t.Errorf("printed %q", r.stdout)
			}
		})
	}
	if f.count() > 0 {
		t.Error("still attached")
	}
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		result := shim(t, env("ADD", "c1"), h.conf(map[string]any{"cniVersion": version})).stdout
		check := func(old, changed string) reply {
			if !strings.Contains(result, old) {
				t.Fatalf("%q is not in %s", old, result)
			}
			return shim(t, env("CHECK", "c1"), h.conf(map[string]any{
				"cniVersion": version, "prevResult": json.RawMessage(strings.ReplaceAll(result, old, changed))}))
		}
		check("", "").wantOK(t)
		check("02:00:00:00:00:02", "02:00:00:00:00:0A").wantError(t, 105, "MAC")
		check("10.64.0.7", "10.64.0.8").wantError(t, 105, "10.64.0.8")
		check(`"eth0"`, `"eth1"`).wantError(t, 105, "eth0")
		check("hf0123456789ab", "other").wantError(t, 105, "hf0123456789ab")
		check("/run/netns/c1", "/run/netns/c2").wantError(t, 105, "/run/netns/c2")
		shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
		check("", "").wantError(t, 3, "not attached")
	}
	shim(t, env("CHECK", "c1"), h.conf(nil)).wantError(t, 7, "prevResult")
	result := shim(t, env("ADD", "c1"), h.conf(nil)).stdout
	differs := func() (agent.Endpoint, error) {
		return agent.Endpoint{}, errors.New("eth0: MTU is 9000, want 1500")
	}
	f.set(func() { f.onCheck = differs })
	shim(t, env("CHECK", "c1"), h.conf(map[string]any{"prevResult": json.RawMessage(result)})).wantError(t, 105, "MTU is 9000")
}

func TestGC(t *testing.T) {
	type attachment struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	all := []string{"c1", "c2", "c3"}
	for name, c := range map[string]struct {
		keys map[string]any
		stay []string
	}{
		"no list":       {nil, all},
		"null list":     {map[string]any{"cni.dev/valid-attachments": json.RawMessage("null")}, all},
		"one valid":     {map[string]any{"cni.dev/valid-attachments": []attachment{{"c2", "eth0"}, {"c3", "eth1"}}}, []string{"c2"}},
		"none valid":    {map[string]any{"cni.dev/valid-attachments": []attachment{}}, nil},
		"first libcni":  {map[string]any{"cni.dev/attachments": []attachment{{"c1", "eth0"}}}, []string{"c1"}},
		"other network": {map[string]any{"name": "other", "cni.dev/valid-attachments": []attachment{}}, all},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			f := newFabric()
			h.serve(t, f)
			for _, id := range all {
				shim(t, env("ADD", id), h.conf(nil)).wantOK(t)
			}
			r := shim(t, []string{"CNI_COMMAND=GC", "CNI_PATH=/x"}, h.conf(c.keys))
			r.wantOK(t)
			for _, id := range all {
				if got, want := f.has(id), slices.Contains(c.stay, id); got != want {
					t.Errorf("%s attached: %v, want %v", id, got, want)
				}
			}
		})
	}
}

func TestGCWithABadListRemovesNothing(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(nil)).wantOK(t)
	for _, list := range []string{`"x"`, `{}`, `[1]`, `[{"containerID":"c2"}]`, `[{"containerID":"../x","ifname":"eth0"}]`} {
		shim(t, []string{"CNI_COMMAND=GC"}, h.conf(map[string]any{"cni.dev/valid-attachments": json.RawMessage(list)})).wantError(t, 7, "valid-attachments")
	}
	if !f.has("c1") {
		t.Error("removed")
	}
}

type limited struct{ error }

func (limited) LimitedConnectivity() bool { return true }

func TestStatus(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	status := func() reply { return shim(t, []string{"CNI_COMMAND=STATUS"}, h.conf(nil)) }
	status().wantOK(t)
	f.set(func() { f.onReady = func() error { return fmt.Errorf("%w: restoring", agent.ErrNotReady) } })
	status().wantError(t, 50, "restoring")
	f.set(func() { f.onReady = func() error { return fmt.Errorf("fabric: %w", limited{errors.New("no ToR")}) } })
	status().wantError(t, 51, "no ToR")
}
