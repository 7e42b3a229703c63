package tor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
)

// embeddedDriver runs routers made of our own rooms, in two processes like FRR's bgpd and zebra: the speaker, which parses
// what the network sends and has no privileges, and the router, which has the routes.
type embeddedDriver struct{ binary string }

func (d embeddedDriver) Check() error {
	if d.binary == "" {
		return errors.New("embedded routers need the path of the hostfabric-lab binary")
	}
	return nil
}

func (d embeddedDriver) Attach(n Node) Tor { return newEmbedded(n) }

func (d embeddedDriver) Start(ctx context.Context, n Node) (Tor, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if n.HasBFD() {
		return nil, fmt.Errorf("router %s: an embedded router has no BFD: take --tor frr or bird", n.Name)
	}
	e := newEmbedded(n)
	if err := e.clear(); err != nil {
		return nil, err
	}
	for _, role := range e.daemons {
		if err := e.run(role, d.binary); err != nil {
			return nil, err
		}
	}
	return e, e.await(ctx, "the embedded router to answer", func() bool {
		_, err := e.ask(ctx)
		return err == nil
	})
}

// RestartBGP gives the router process another speaker, which it then tells everything.
func (d embeddedDriver) RestartBGP(ctx context.Context, n Node) error {
	e := newEmbedded(n)
	if err := e.kill(ctx, roleSpeaker); err != nil {
		return err
	}
	return e.run(roleSpeaker, d.binary)
}

func (e embedded) run(role, binary string) error {
	raw, err := json.MarshalIndent(embeddedConfig{Role: role, Node: e.node}, "", "  ")
	if err != nil {
		return fmt.Errorf("router %s: %w", e.node.Name, err)
	}
	file := filepath.Join(e.node.Dir, role+".json")
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		return fmt.Errorf("router %s: %w", e.node.Name, err)
	}
	return e.start(role, binary, "tor", "--config", file)
}

// The roles of an embedded router's processes, which are the names of their records and logs too.
const (
	roleSpeaker = "speaker"
	roleRouter  = "tor"
)

// embeddedConfig is the configuration file of one process.
type embeddedConfig struct {
	Role string
	Node Node
}

// embeddedStatus is what the router process tells on its status socket.
type embeddedStatus struct {
	Established, Total int
	UpdatesReceived    uint64
	Prefixes           []netip.Prefix
}

// speakerSocket and statusSocket are paths below the router's folder. The speaker's folder is the speaker's own.
func speakerSocket(n Node) string { return filepath.Join(n.Dir, "speaker", "gobgp.sock") }
func statusSocket(n Node) string  { return filepath.Join(n.Dir, "tor.sock") }

// embedded is a running embedded router.
type embedded struct{ processes }

func newEmbedded(n Node) embedded {
	return embedded{processes{node: n, daemons: []string{roleSpeaker, roleRouter}}}
}

func (e embedded) ask(ctx context.Context) (embeddedStatus, error) {
	var s embeddedStatus
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", statusSocket(e.node))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://router/", nil)
	if err != nil {
		return s, fmt.Errorf("router %s: %w", e.node.Name, err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return s, fmt.Errorf("router %s: %w", e.node.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return s, fmt.Errorf("router %s: %s: %s", e.node.Name, resp.Status, text)
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("router %s: status: %w", e.node.Name, err)
	}
	return s, nil
}

func (e embedded) Prefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error) {
	s, err := e.ask(ctx)
	var found []netip.Prefix
	for _, p := range s.Prefixes {
		if inside(p, within) {
			found = append(found, p)
		}
	}
	return sorted(found), err
}

func (e embedded) UpdatesReceived(ctx context.Context) (uint64, error) {
	s, err := e.ask(ctx)
	return s.UpdatesReceived, err
}

func (e embedded) Established(ctx context.Context) (up, total int, err error) {
	s, err := e.ask(ctx)
	return s.Established, s.Total, err
}
