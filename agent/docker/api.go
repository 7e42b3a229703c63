package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// api asks Docker's Engine API, which it serves on a unix socket. Paths carry no version: the daemon answers with its own, and what is
// read here is in all of them.
type api struct {
	client *http.Client
}

const (
	apiTimeout = 10 * time.Second
	apiLimit   = 64 << 20 // bytes of an answer; a container is told of in 2 KiB
)

func newAPI(socket string) *api {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	// Questions are rare: a connection that is kept would only hold a dead daemon's socket.
	return &api{&http.Client{Timeout: apiTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// apiNetwork is a network as Docker lists it.
type apiNetwork struct {
	ID      string `json:"Id"`
	Name    string
	Driver  string
	Options map[string]string
	IPAM    struct{ Driver string }
}

func (a *api) networks(ctx context.Context) (all []apiNetwork, err error) {
	return all, a.get(ctx, "/networks", &all)
}

// endpoints returns the IDs of a network's endpoints.
func (a *api) endpoints(ctx context.Context, network string) (map[string]bool, error) {
	var n struct {
		Containers map[string]struct{ EndpointID string }
	}
	if err := a.get(ctx, "/networks/"+url.PathEscape(network), &n); err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(n.Containers))
	for _, c := range n.Containers {
		ids[c.EndpointID] = true
	}
	return ids, nil
}

// apiContainer is a running container as Docker lists it.
type apiContainer struct {
	ID              string `json:"Id"`
	Names           []string
	Labels          map[string]string
	NetworkSettings struct{ Networks map[string]apiEndpoint }
}

// apiEndpoint is a container's in one network. The list of containers leaves its names out.
type apiEndpoint struct {
	EndpointID string
	Aliases    []string
	DNSNames   []string // since API 1.44, which has the short ID here and no longer among the aliases
}

// names returns what a container is called in its networks, by endpoint.
func (a *api) names(ctx context.Context, container string) (map[string][]string, error) {
	var c struct {
		NetworkSettings struct{ Networks map[string]apiEndpoint }
	}
	if err := a.get(ctx, "/containers/"+url.PathEscape(container)+"/json", &c); err != nil {
		return nil, err
	}
	names := make(map[string][]string)
	for _, ep := range c.NetworkSettings.Networks {
		names[ep.EndpointID] = slices.Concat(ep.Aliases, ep.DNSNames)
	}
	return names, nil
}

func (a *api) containers(ctx context.Context) (all []apiContainer, err error) {
	return all, a.get(ctx, "/containers/json", &all)
}

func (a *api) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return fmt.Errorf("ask Docker: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask Docker: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, apiLimit))
	if err != nil {
		return fmt.Errorf("ask Docker for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Docker for %s: %s: %.256s", path, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("ask Docker for %s: %w", path, err)
	}
	return nil
}
