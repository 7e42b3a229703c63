package fabric

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// RestartBGP ends a router's BGP daemon with SIGKILL and starts it again. Its sessions come up later: see WaitReady.
func (l *Lab) RestartBGP(ctx context.Context, router string) error {
	r, err := l.router(router)
	if err != nil {
		return err
	}
	return l.driver.RestartBGP(ctx, l.Plan.TorNode(r))
}

// SetCable sets the router's end of its cable to a neighbour up or down: the other end gains or loses carrier.
func (l *Lab) SetCable(router, neighbour string, up bool) error {
	r, err := l.router(router)
	if err != nil {
		return err
	}
	for _, link := range r.Links {
		if link.Peer == neighbour {
			return setLinks(r.NS, []Link{link}, up)
		}
	}
	return fmt.Errorf("router %s of lab %s has no cable to %q", router, l.Plan.Name, neighbour)
}

// Silence has a router drop every packet that comes in and every one of its own, or ends that. Links keep their carrier and
// processes go on: nobody is told.
func (l *Lab) Silence(ctx context.Context, router string, silent bool) error {
	r, err := l.router(router)
	if err != nil {
		return err
	}
	policy := "ACCEPT"
	if silent {
		policy = "DROP"
	}
	tables := []string{"iptables-restore"}
	if l.Plan.IPv6 {
		tables = append(tables, "ip6tables-restore")
	}
	for _, tool := range tables {
		var out strings.Builder
		cmd := exec.CommandContext(ctx, tool)
		cmd.Stdin = strings.NewReader("*raw\n:PREROUTING " + policy + "\n:OUTPUT " + policy + "\nCOMMIT\n")
		cmd.Stderr = &out
		if err := r.NS.Start(cmd); err != nil {
			return fmt.Errorf("silence router %s: %w", router, err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("silence router %s: %s: %w: %s", router, tool, err, out.String())
		}
	}
	return nil
}
