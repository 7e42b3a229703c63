package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Conflicts says which claims contradict that a host has one installation, and an installation is one host's: one text for
// each other ID under this host's name, and for each other name under its ID.
func (s *Source) Conflicts(ctx context.Context) ([]string, error) {
	claims, err := s.claimsOf(ctx, func(c Claim) bool { return (c.Host == s.id.Host) != (c.ID == s.id.ID) })
	if err != nil {
		return nil, err
	}
	byID, byHost := map[string][]Claim{}, map[string][]Claim{}
	for _, c := range claims {
		if c.ID == s.id.ID {
			byHost[c.Host] = append(byHost[c.Host], c)
		} else {
			byID[c.ID] = append(byID[c.ID], c)
		}
	}
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		texts = append(texts, fmt.Sprintf("%d blocks (the first is %s) are claimed by another installation of host %s (ID %s): "+
			"if it is gone, release them with `hostfabric blocks release --host %s --id %s`",
			len(byID[id]), byID[id][0].Prefix, s.id.Host, id, s.id.Host, id))
	}
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		texts = append(texts, fmt.Sprintf("%d blocks (the first is %s) are claimed under this host's identity %s by host %s: "+
			"two machines have one identity, or this host was renamed. "+
			"Give one of them another etcd.host_id",
			len(byHost[host]), byHost[host][0].Prefix, s.id.ID, host))
	}
	return texts, nil
}
