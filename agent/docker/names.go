package docker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/agent"
)

// describe gives the endpoints the names, aliases and labels of their containers, and tells whether some are still without.
func (f *follower) describe(ctx context.Context) (nameless bool, err error) {
	attached := f.attached()
	still := make(map[string]bool, len(attached))
	for _, ep := range attached {
		still[ep.ContainerID] = true
	}
	maps.DeleteFunc(f.aliases, func(endpoint string, _ []string) bool { return !still[endpoint] })
	if len(attached) == 0 {
		return false, nil
	}
	containers, err := f.api.containers(ctx)
	if err != nil {
		return false, err
	}
	of := byEndpoint(containers)
	for _, ep := range attached {
		c, known := of[ep.ContainerID]
		if !known {
			nameless = nameless || len(ep.Labels) == 0
			continue
		}
		d := describe(c)
		d.Aliases, err = f.aliasesOf(ctx, ep.ContainerID, c.ID, d.Name)
		if err != nil { // it may have gone meanwhile
			f.log.Debug("docker: aliases not known", "endpoint", ep.ContainerID, "err", err)
			d.Aliases, nameless = ep.Aliases, true
		}
		if ep.Name == d.Name && slices.Equal(ep.Aliases, d.Aliases) && maps.Equal(ep.Labels, d.Labels) {
			continue
		}
		if err := f.s.endpoints.Describe(ctx, ep.Key, d); err != nil && !errors.Is(err, agent.ErrNotFound) {
			f.log.Warn("docker: container not named", "endpoint", ep.ContainerID, "err", err)
		}
	}
	return nameless, nil
}

// describe is who a container is, or as much of it as can be said of an endpoint.
func describe(c apiContainer) agent.Description {
	d := agent.Description{Labels: maps.Clone(c.Labels)}
	if d.Labels == nil {
		d.Labels = make(map[string]string)
	}
	d.Labels[containerLabel] = c.ID
	for _, name := range c.Names {
		name = strings.TrimPrefix(name, "/")
		if !strings.Contains(name, "/") { // else it is one that a --link gave
			d.Name = name
		}
	}
	if (agent.Description{Name: d.Name}).Validate() != nil {
		d.Name = ""
	}
	if (agent.Description{Labels: d.Labels}).Validate() != nil { // more, or other, than fits
		d.Labels = map[string]string{containerLabel: c.ID}
	}
	return d
}

// aliasesOf are what else a container is called in the endpoint's network, its short ID among them: a network has them from its
// beginning to its end, so that one question for each suffices.
func (f *follower) aliasesOf(ctx context.Context, endpoint, container, name string) ([]string, error) {
	if known, asked := f.aliases[endpoint]; asked {
		return known, nil
	}
	names, err := f.api.names(ctx, container)
	if err != nil {
		return nil, err
	}
	f.aliases[endpoint] = usable(names[endpoint], name)
	return f.aliases[endpoint], nil
}

// usable leaves out what repeats, and what is no name: one that is wrong must not cost a container the others.
func usable(names []string, own string) []string {
	var all []string
	for _, alias := range names {
		repeated := alias == own || slices.Contains(all, alias)
		if !repeated && (agent.Description{Aliases: []string{alias}}).Validate() == nil {
			all = append(all, alias)
		}
	}
	return all[:min(len(all), agent.MaxAliases)]
}
