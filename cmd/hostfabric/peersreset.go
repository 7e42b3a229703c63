package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newPeersResetCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ResetPeerRequest{}
	cmd := &cobra.Command{
		Use:   "reset ADDRESS|INTERFACE",
		Short: "Start the session with a peer anew",
		Long: `Start the session with a peer anew: one that is up is ended, its routes go at once, and it comes back by itself. One that
was shut, for too many prefixes or because an external peer has our own AS, is started, and so is one whose peer is held
down after its messages crashed the speaker. The other sessions are not touched.`,
		Example: `  hostfabric peers reset 10.0.1.0 --reason "new policy on tor1"
  hostfabric peers reset eth0`,
		Args: exactArgs("ADDRESS|INTERFACE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Peer = args[0]
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ResetPeerResponse, error) {
				return c.ResetPeer(ctx, req)
			}
			return call(cmd, o, ask, printPeerReset)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Reason, "reason", "", "told to the peer, as far as 128 bytes; at most 255")
	return cmd
}

var resetTexts = map[agent.ResetEffect]string{
	agent.ResetEnded:    "the session is ended, and comes back by itself",
	agent.ResetDropped:  "the routes kept while it restarts are gone; its session comes back by itself",
	agent.ResetStarted:  "the session that was shut is started",
	agent.ResetReleased: "no longer held down",
	agent.ResetNothing:  "there is no session to end; attempts at one go on",
}

func printPeerReset(r *apiv1.ResetPeerResponse, p *printer) {
	p.row(text(r.GetPeer() + ": " + resetTexts[agent.ResetEffect(r.GetEffect())]))
}
