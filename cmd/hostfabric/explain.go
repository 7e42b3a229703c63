package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newExplainCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "explain ADDRESS|PREFIX",
		Short: "Say why an address can be reached, or where the chain is broken",
		Long: `Follow an address or prefix link by link, and mark each one ok, broken or unknown. For one of this host's: its block,
who has leased it, the container's link, what the kernel does with its packets, the discard route, whether the host
announces its blocks, and what each peer was told. For one elsewhere: the sessions, what peers announce and why it is
refused, the route made of it, and what the kernel really does. Of several peers one is enough.

The exit status is 1 if the chain is broken.`,
		Example: "  hostfabric explain 10.64.0.7\n  hostfabric explain 0.0.0.0/0 -o json",
		Args:    exactArgs("ADDRESS|PREFIX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			broken := ""
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ExplainResponse, error) {
				resp, err := c.Explain(ctx, &apiv1.ExplainRequest{Subject: args[0]})
				broken = resp.GetBroken()
				return resp, err
			}
			if err := call(cmd, o, ask, printExplanation); err != nil {
				return err
			}
			if broken != "" {
				return errors.New("broken at " + broken)
			}
			return nil
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func printExplanation(r *apiv1.ExplainResponse, p *printer) {
	for _, s := range r.GetSteps() {
		verdict := cell{s.GetVerdict(), faint}
		if s.GetVerdict() != "unknown" {
			verdict = judged(s.GetVerdict(), s.GetVerdict() == "ok")
		}
		p.row(verdict, text(s.GetLink()), text(s.GetText()))
	}
}
