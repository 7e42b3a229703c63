package cni_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/ipam"
)

// long is a name that Kubernetes takes and an endpoint cannot have.
var long = strings.Repeat("p", 200)

// pod is what CNI_ARGS say of one.
func pod(name, namespace, uid string) agent.Description {
	d := agent.Description{Name: name, Labels: map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace}}
	if uid != "" {
		d.Labels["io.kubernetes.pod.uid"] = uid
	}
	return d
}

func TestAddPassesOnWhatIsAsked(t *testing.T) {
	h := newHost(t)
	for name, c := range map[string]struct {
		conf map[string]any
		args string
		want agent.AttachRequest
	}{
		"nothing": {want: agent.AttachRequest{}},
		"mtu":     {conf: map[string]any{"mtu": 1400}, want: agent.AttachRequest{MTU: 1400}},
		"family":  {conf: map[string]any{"family": "ipv6"}, want: agent.AttachRequest{Family: ipam.OnlyIPv6}},
		"dual":    {conf: map[string]any{"family": "dual"}},
		"labels": {conf: map[string]any{"labels": map[string]string{"team": "net"}},
			want: agent.AttachRequest{Description: agent.Description{Labels: map[string]string{"team": "net"}}}},
		"pool": {conf: map[string]any{"pool": "web"}, want: agent.AttachRequest{Pool: "web"}},
		"kubernetes": {
			args: "K8S_POD_UID=u1;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p1;K8S_POD_INFRA_CONTAINER_ID=c1;Other=x",
			want: agent.AttachRequest{Description: pod("p1", "default", "u1")}},
		"kubernetes in another order": {
			args: "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=p1.a;IgnoreUnknown=true;K8S_POD_UID=u1;K8S_POD_NAMESPACE=default",
			want: agent.AttachRequest{Description: pod("p1.a", "default", "u1")}},
		"kubernetes without IgnoreUnknown": {args: "K8S_POD_NAME=p1;K8S_POD_NAMESPACE=default;", want: agent.AttachRequest{Description: pod("p1", "default", "")}},
		"a pod's name that is too long for one": {args: "K8S_POD_NAME=" + long, want: agent.AttachRequest{
			Description: agent.Description{Labels: map[string]string{"io.kubernetes.pod.name": long}}}},
		"annotations": {
			conf: map[string]any{"runtimeConfig": map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{
				"hostfabric.io/pool": "web", "hostfabric.io/addresses": "10.64.0.9, fd00::9", "hostfabric.io/mtu": "1400", "hostfabric.io/family": "dual",
				"hostfabric.io/name": "front", "hostfabric.io/aliases": "www, shop.front", "hostfabric.io/labels": "app=shop, tier=front", "example.com/pool": "other", "kubernetes.io/config.seen": "x"}}},
			want: agent.AttachRequest{Pool: "web", Addresses: addrs("10.64.0.9", "fd00::9"), MTU: 1400,
				Description: agent.Description{Name: "front", Aliases: []string{"www", "shop.front"}, Labels: map[string]string{"app": "shop", "tier": "front"}}}},
		"annotations before all else": {
			conf: map[string]any{
				"pool": "gold", "mtu": 9000, "family": "ipv4", "labels": map[string]string{"app": "net", "team": "net", "io.kubernetes.pod.name": "net"},
				"args": map[string]any{"cni": map[string]any{"labels": []map[string]string{{"key": "app", "value": "args"}, {"key": "more", "value": "args"}}}},
				"runtimeConfig": map[string]any{"ips": []string{"10.64.0.8"}, "aliases": []string{"mine"}, "io.kubernetes.cri.pod-annotations": map[string]string{
					"hostfabric.io/pool": "web", "hostfabric.io/addresses": "fd00::9", "hostfabric.io/mtu": "0", "hostfabric.io/family": "ipv6",
					"hostfabric.io/name": "front", "hostfabric.io/aliases": "www", "hostfabric.io/labels": "app=shop,io.kubernetes.pod.uid=u2"}}},
			args: "IP=10.64.0.7;K8S_POD_NAME=p1;K8S_POD_NAMESPACE=default;K8S_POD_UID=u1",
			want: agent.AttachRequest{Pool: "web", Addresses: addrs("fd00::9"), Family: ipam.OnlyIPv6, Description: agent.Description{
				Name: "front", Aliases: []string{"www"}, Labels: map[string]string{"app": "shop", "team": "net", "more": "args",
					"io.kubernetes.pod.name": "p1", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "u1"}}}},
		"aliases of the capability": {
			conf: map[string]any{"capabilities": map[string]any{"aliases": true}, "runtimeConfig": map[string]any{"aliases": []string{"db", "db.main"}}},
			want: agent.AttachRequest{Description: agent.Description{Aliases: []string{"db", "db.main"}}}},
		"aliases by network, as Podman's": {
			conf: map[string]any{"runtimeConfig": map[string]any{"aliases": map[string][]string{"fabric": {"db"}, "other": {"x"}}}},
			want: agent.AttachRequest{Description: agent.Description{Aliases: []string{"db"}}}},
		"CNI_ARGS IP":   {args: "IP=10.64.0.9", want: agent.AttachRequest{Addresses: addrs("10.64.0.9")}},
		"both families": {args: "IP=10.64.0.9/24, fd00::9", want: agent.AttachRequest{Addresses: addrs("10.64.0.9", "fd00::9")}},
		"args.cni.ips before IP": {
			conf: map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.64.0.8/26"}}, "other": 1}}, args: "IP=10.64.0.9",
			want: agent.AttachRequest{Addresses: addrs("10.64.0.8")}},
		"capability before all": {
			conf: map[string]any{
				"capabilities": map[string]any{"ips": true}, "runtimeConfig": map[string]any{"ips": []string{"::ffff:10.64.0.6"}},
				"args": map[string]any{"cni": map[string]any{"ips": []string{"10.64.0.8"}}}},
			want: agent.AttachRequest{Addresses: addrs("10.64.0.6")}},
		"what runtimes add": {conf: map[string]any{
			"cniVersions": []string{"1.0.0", "1.1.0"}, "ipam": map[string]any{}, "ipMasq": false, "capabilities": map[string]any{"dns": true},
			"cni.dev/anything": 1, "dns": map[string]any{"nameservers": []string{"10.0.0.1"}}, "prevResult": nil,
			"runtimeConfig": map[string]any{"dns": map[string]any{"servers": []string{"x"}}, "io.kubernetes.cri.pod-annotations": map[string]any{"a": "b"}, "portMappings": []any{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric()
			stop := h.serve(t, f)
			shim(t, env("ADD", "c1", "CNI_ARGS="+c.args), h.conf(c.conf)).wantOK(t)
			stop()
			c.want.Key = agent.Key{ContainerID: "c1", Interface: "eth0"}
			c.want.Netns, c.want.Owner = "/run/netns/c1", agent.OwnerCNI("fabric")
			if diff := cmp.Diff([]agent.AttachRequest{c.want}, f.wanted, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAnnotationErrors(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	for key, c := range map[string]struct{ value, word string }{
		"pools":     {"web", "unknown"},
		"":          {"", "unknown"},
		"pool":      {"a/b", "a/b"},
		"addresses": {"10.64.0.1,x", `"x"`},
		"family":    {"ipx", "ipx"},
		"mtu":       {"-1", "-1"},
		"name":      {"a b", "a b"},
		"aliases":   {"a,b c", "b c"},
		"labels":    {"app", `"app"`},
	} {
		conf := map[string]any{"runtimeConfig": map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"hostfabric.io/" + key: c.value}}}
		r := shim(t, env("ADD", "c1"), h.conf(conf))
		r.wantError(t, 7, c.word)
		r.wantError(t, 7, "hostfabric.io/"+key+": ")
	}
	for _, annotations := range []string{`"x"`, `{"a":1}`, `[]`} {
		conf := map[string]any{"runtimeConfig": map[string]any{"io.kubernetes.cri.pod-annotations": json.RawMessage(annotations)}}
		shim(t, env("ADD", "c1"), h.conf(conf)).wantError(t, 7, "runtimeConfig")
	}
	if f.history() != "" {
		t.Errorf("the agent was asked: %s", f.history())
	}
}
