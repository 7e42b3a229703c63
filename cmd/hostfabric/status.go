package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newStatusCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the agent, its speaker and whatever is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.GetStatusResponse, error) {
				return c.GetStatus(ctx, &apiv1.GetStatusRequest{})
			}
			return call(cmd, o, ask, printStatus)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func printStatus(s *apiv1.GetStatusResponse, p *printer) {
	state := judged("ready", true)
	if !s.GetReady() {
		state = judged("degraded", false)
	}
	p.row(text("Host"), text(s.GetHost()))
	p.row(text("State"), state)
	p.row(text("Agent"), text(fmt.Sprintf("%s, up %s", s.GetVersion(), age(s.GetStarted().AsTime()))))
	p.row(text("Speaker"), speakerCell(s.GetSpeaker()))
	if b := s.GetBfd(); b != nil {
		p.row(text("BFD"), bfdProcessCell(b))
	}
	p.row(text("AS, router ID"), text(fmt.Sprintf("%d, %s", s.GetAsn(), s.GetRouterId())))
	p.row(text("Peers"), judged(fmt.Sprintf("%d of %d established", s.GetPeersEstablished(), s.GetPeersTotal()), s.GetPeersEstablished() == s.GetPeersTotal()))
	p.row(text("Announced"), text(fmt.Sprintf("%s (budget %d IPv4, %d IPv6)", dash(strings.Join(s.GetAnnounced(), " ")), s.GetBudgetIpv4(), s.GetBudgetIpv6())))
	p.row(text("Endpoints"), text(fmt.Sprintf("%d, %d leases, MTU %d", s.GetEndpoints(), s.GetLeases(), s.GetMtu())))
	if d := s.GetDns(); d != nil {
		p.row(text("DNS"), dnsCell(d))
	}
	installed := fmt.Sprintf("%d installed, %d failed", s.GetRoutesInstalled(), s.GetRoutesFailed())
	if n := s.GetRoutesRefused(); n > 0 {
		installed += fmt.Sprintf(", %d refused", n)
	}
	p.row(text("Routes"), judged(installed, s.GetRoutesFailed() == 0))
	for _, problem := range s.GetProblems() {
		p.row(text("Problem"), cell{problem, bad})
	}
}

func speakerCell(s *apiv1.SpeakerStatus) cell {
	if !s.GetConnected() {
		return judged("not connected", false)
	}
	return text(fmt.Sprintf("%s, pid %d, connected %s", s.GetVersion(), s.GetPid(), age(s.GetSince().AsTime())) + crashed(s.GetCrashes()))
}

func crashed(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", crashes of speakers so far: %d", n)
}

func bfdProcessCell(b *apiv1.BFDProcess) cell {
	if !b.GetConnected() {
		return judged("not connected", false)
	}
	line := fmt.Sprintf("%s, pid %d, %d of %d sessions up", b.GetVersion(), b.GetPid(), b.GetSessionsUp(), b.GetSessionsTotal())
	return judged(line, b.GetSessionsUp() == b.GetSessionsTotal())
}

func dnsCell(d *apiv1.DNSStatus) cell {
	forwards := "nothing"
	if d.GetForwards() {
		forwards = "to " + dash(strings.Join(d.GetUpstreams(), " "))
	}
	line := fmt.Sprintf("%s on %s, forwards %s", strings.TrimSuffix(d.GetOrigin(), "."), dash(strings.Join(d.GetListeners(), " ")), forwards)
	return judged(line, len(d.GetListeners()) > 0)
}

// age is how long ago something was, to the second.
func age(t time.Time) string { return time.Since(t).Truncate(time.Second).String() }
