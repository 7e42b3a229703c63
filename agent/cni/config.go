package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/ipam"
)

// Bounds of the "mtu" key; 0 takes the uplink's. With IPv6 addresses the agent wants at least 1280 (RFC 8200 section 5).
const (
	minMTU = 576
	maxMTU = 65535
)

// knownKeys a network config may have. Ours come first, all of them optional:
//
//	mtu      bytes, 576 to 65535; 0 or none takes the uplink's
//	pool     of which the addresses are to be; none is the agent's default pool
//	family   of the addresses, ipv4 or ipv6; dual or none is all that the pool has
//	labels   of the endpoints, an object of strings
//	socket   where the agent listens (relay.DefaultSocket)
//	spool    where DELs wait while it is away (relay.DefaultSpool); the agent must drain this very directory
//	timeout  how long an ADD waits for the agent, such as "30s" (relay.DefaultTimeout)
//
// The others are the specification's (section 1) and the runtime's (section 3), and beside them there may be any key
// that starts with "cni.dev/".
var knownKeys = []string{
	"mtu", "pool", "family", "labels", "socket", "spool", "timeout",
	"cniVersion", "cniVersions", "name", "type", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "capabilities",
	"ipMasq", "ipam", "dns",
	"runtimeConfig", "prevResult", "args",
}

// config is a network config of which only the JSON, the version and the name have been looked at.
type config struct {
	raw     []byte
	version string
	name    string
	keys    map[string]json.RawMessage
}

func parseConfig(data []byte) (config, error) {
	c := config{raw: data}
	if err := json.Unmarshal(data, &c.keys); err != nil {
		return c, &relay.Error{Code: relay.CodeDecode, Msg: "network config is not JSON", Details: err.Error()}
	}
	if err := c.decode("cniVersion", &c.version); err != nil {
		return c, err
	}
	return c, c.decode("name", &c.name)
}

// decode reads one key into v, which stays as it is if there is none.
func (c config) decode(key string, v any) error {
	raw, ok := c.keys[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return configError(key, err.Error())
	}
	return nil
}

// firstVersions of the specification that have a verb; the other verbs are in all we support.
var firstVersions = map[string]string{relay.Check: "0.4.0", relay.GC: "1.1.0", relay.Status: "1.1.0"}

// allows checks the version, and the name for all but DEL: a container must go even when its config was spoilt.
func (c config) allows(command string) error {
	v := c.version
	if v == "" {
		v = "0.1.0" // what the specification takes a missing one for
	}
	if !slices.Contains(relay.SupportedVersions(), v) {
		return incompatible(fmt.Sprintf("config is %q, we speak %s", v, strings.Join(relay.SupportedVersions(), ", ")))
	}
	if first, ok := firstVersions[command]; ok {
		if newEnough, err := version.GreaterThanOrEqualTo(v, first); err != nil || !newEnough {
			return incompatible(fmt.Sprintf("config is %q, %s came with %s", v, command, first))
		}
	}
	if command == relay.Del {
		return nil
	}
	if c.name == "" {
		return configError("name", "missing")
	}
	if err := utils.ValidateNetworkName(c.name); err != nil {
		return configError("name", fmt.Sprintf("want a-z A-Z 0-9 _ . - and a letter or digit first, have %q", c.name))
	}
	return nil
}

func incompatible(details string) error {
	return &relay.Error{Code: relay.CodeIncompatibleVersion, Msg: "incompatible CNI version", Details: details}
}

// plugin is what the network config asks of us.
type plugin struct {
	Name          string // of the network
	MTU           int
	Pool          string
	Family        ipam.Family
	Labels        map[string]string
	DNS           types.DNS
	RuntimeConfig struct {
		IPs         []string          `json:"ips"`
		Aliases     aliases           `json:"aliases"`
		DNS         runtimeDNS        `json:"dns"`
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	}
	Args struct {
		CNI struct {
			IPs    []string                      `json:"ips"`
			Labels []struct{ Key, Value string } `json:"labels"`
		} `json:"cni"`
	}
}

// plugin reads and checks every key. spool is the one this agent drains.
func (c config) plugin(spool relay.Spool) (plugin, error) {
	var p plugin
	for _, k := range slices.Sorted(maps.Keys(c.keys)) {
		if !slices.Contains(knownKeys, k) && !strings.HasPrefix(k, "cni.dev/") {
			return p, configError(k, "unknown key")
		}
	}
	for _, k := range []struct {
		key string
		to  any
	}{
		{"name", &p.Name}, {"mtu", &p.MTU}, {"pool", &p.Pool}, {"family", &p.Family}, {"labels", &p.Labels}, {"dns", &p.DNS},
		{"runtimeConfig", &p.RuntimeConfig}, {"args", &p.Args},
	} {
		if err := c.decode(k.key, k.to); err != nil {
			return p, err
		}
	}
	if err := validateMTU(p.MTU); err != nil {
		return p, configError("mtu", err.Error())
	}
	if err := agent.ValidatePool(p.Pool); err != nil {
		return p, configError("pool", err.Error())
	}
	var err error
	if p.Family, err = parseFamily(string(p.Family)); err != nil {
		return p, configError("family", err.Error())
	}
	if err := (agent.Description{Labels: p.Labels}).Validate(); err != nil {
		return p, configError("labels", err.Error())
	}
	settings, err := relay.ParseSettings(c.raw) // the shim's own reading
	if err != nil {
		return p, err
	}
	if !sameDir(string(settings.Spool), string(spool)) {
		return p, configError("spool", fmt.Sprintf("the agent drains %s: DELs left in %s would never be done", spool, settings.Spool))
	}
	return p, c.unsupported()
}

func validateMTU(mtu int) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return fmt.Errorf("want %d to %d, or 0 for the uplink's, have %d", minMTU, maxMTU, mtu)
	}
	return nil
}

// parseFamily knows a third word beside the agent's, so that a pod can take back what its network says.
func parseFamily(text string) (ipam.Family, error) {
	f := ipam.Family(text)
	if text == "dual" {
		f = ipam.AnyFamily
	}
	if f.Validate() != nil {
		return f, fmt.Errorf("want ipv4, ipv6 or dual, have %.16q", text)
	}
	return f, nil
}

func sameDir(a, b string) bool {
	if a == b {
		return true
	}
	ia, errA := os.Stat(a)
	ib, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(ia, ib)
}

// known capability arguments are seen to, or ask for nothing of ours, as every one does with a domain in its name.
var knownCapabilities = []string{"ips", "dns", "aliases", "cgroupPath"}

// unsupported refuses what the config asks for and we would not do.
func (c config) unsupported() error {
	if raw, ok := c.keys["ipMasq"]; ok && string(raw) != "false" && !isNothing(raw) {
		return unsupported("ipMasq", string(raw)+" (container addresses are routed, not masqueraded)")
	}
	var ipam struct {
		Type string `json:"type"`
	}
	if err := c.decode("ipam", &ipam); err != nil {
		return err
	}
	if ipam.Type != "" {
		return unsupported("ipam", string(c.keys["ipam"])+" (addresses come from the agent's own blocks)")
	}
	var capabilities map[string]json.RawMessage
	if err := c.decode("runtimeConfig", &capabilities); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(capabilities)) {
		if !slices.Contains(knownCapabilities, k) && !strings.Contains(k, ".") && !isNothing(capabilities[k]) {
			return unsupported("runtimeConfig."+k, string(capabilities[k])+" (chain a plugin that does this)")
		}
	}
	return nil
}

// isNothing is true for the empty JSON values.
func isNothing(raw json.RawMessage) bool {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return false
	}
	return slices.Contains([]string{"null", "[]", "{}", `""`}, b.String())
}

// prevResult is the result of the plugins before us in the chain, or of the ADD that is being checked; nil without one.
func (c config) prevResult() (*types100.Result, error) {
	raw := c.keys["prevResult"]
	if raw == nil || isNothing(raw) {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, configError("prevResult", err.Error())
	}
	// Plugins before 1.0.0 may leave the version out; whatever they say, the runtime passes the config's own.
	members["cniVersion"] = json.RawMessage(fmt.Sprintf("%q", c.version))
	data, err := json.Marshal(members)
	if err != nil {
		return nil, configError("prevResult", err.Error())
	}
	result, err := create.Create(c.version, data)
	if err != nil {
		return nil, configError("prevResult", err.Error())
	}
	prev, err := types100.GetResult(result)
	if err != nil {
		return nil, configError("prevResult", err.Error())
	}
	return prev, checkResult(prev)
}

// checkResult refuses the nulls and indexes out of range that JSON lets through.
func checkResult(r *types100.Result) error {
	if slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil) || slices.Contains(r.Routes, nil) {
		return configError("prevResult", "null in a list")
	}
	for i, ip := range r.IPs {
		if ip.Interface != nil && (*ip.Interface < 0 || *ip.Interface >= len(r.Interfaces)) {
			return configError("prevResult", fmt.Sprintf("ips[%d].interface: %d is not in the list of interfaces", i, *ip.Interface))
		}
	}
	return nil
}

// validAttachments is GC's list; listed is false without one, which must never be taken for an empty one. libcni
// 1.2.0 called it "cni.dev/attachments".
func (c config) validAttachments() (valid []agent.Key, listed bool, err error) {
	for _, key := range []string{"cni.dev/valid-attachments", "cni.dev/attachments"} {
		var list []types.GCAttachment
		if err := c.decode(key, &list); err != nil {
			return nil, false, err
		}
		if list == nil {
			continue
		}
		for i, a := range list {
			if err := relay.ValidateKey(relay.Key{ContainerID: a.ContainerID, IfName: a.IfName}); err != nil {
				return nil, false, configError(fmt.Sprintf("%s[%d]", key, i), err.Error())
			}
			valid = append(valid, agent.Key{ContainerID: a.ContainerID, Interface: a.IfName})
		}
		return valid, true, nil
	}
	return nil, false, nil
}
