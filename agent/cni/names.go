package cni

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostfabric/hostfabric/agent/resolver"
)

// runtimeDNS is the capability "dns" (CONVENTIONS.md), whose keys are not those of a network config.
type runtimeDNS struct {
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

// dns is what the result tells of resolvers: as in the reference plugins, all of it is of the first who says anything. What the runtime says
// of one container goes before what the network config says of all, and that before the agent's own resolver.
func (p plugin) dns(own resolver.Resolver) types.DNS {
	for _, said := range []types.DNS{
		{Nameservers: p.RuntimeConfig.DNS.Servers, Search: p.RuntimeConfig.DNS.Searches, Options: p.RuntimeConfig.DNS.Options},
		p.DNS,
	} {
		if !said.IsEmpty() {
			return said
		}
	}
	d := types.DNS{Domain: own.Domain(), Search: slices.Clone(own.Search)}
	for _, server := range own.Servers {
		d.Nameservers = append(d.Nameservers, server.String())
	}
	return d
}

// aliases are those of the capability of this name: a list (CONVENTIONS.md, CRI-O), or lists by the network's name (Podman).
type aliases struct {
	all       []string
	byNetwork map[string][]string
}

func (a *aliases) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &a.all) == nil || json.Unmarshal(data, &a.byNetwork) == nil {
		return nil
	}
	return errors.New("aliases: want a list of names, or one for each network")
}

// of are the aliases in a network.
func (a aliases) of(network string) []string { return slices.Concat(a.all, a.byNetwork[network]) }
