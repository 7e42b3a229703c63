package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// drainSteps is what the steps of a drain or undrain take besides the wait for traffic, when the speaker is slow.
const drainSteps = time.Minute

func newDrainCommand() *cobra.Command {
	o := &streamOptions{}
	req := &apiv1.DrainRequest{}
	var deadline time.Duration
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Take this host out of the fabric, without loss",
		Long: `Take this host out of the fabric: new containers are refused, and the host's blocks are announced with the
GRACEFUL_SHUTDOWN community (RFC 8326). When the containers' traffic has left, or the deadline has passed, the blocks are
withdrawn and every session ends with Administrative Shutdown and the reason (RFC 9003). Detaches go on, and so does
traffic among the containers of this host.

It stays so when the agent, the speaker or the host restart, until "hostfabric undrain". Of a host that is drained
already the reason is changed. The drain goes on if this command is interrupted.

The routes that the fabric has told this host go with the sessions: if its default route comes by BGP, a host without
another one can no longer be reached through the fabric. Have a console at hand, or drain with --until-boot.`,
		Example: `  hostfabric drain --reason "memory module replaced, back at 14:00"
  hostfabric drain --deadline 0s --until-boot`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Deadline = durationpb.New(deadline)
			return o.follow(cmd, deadline+drainSteps, func(ctx context.Context, c apiv1.HostfabricClient) (progressStream, error) {
				return c.Drain(ctx, req)
			}, drainEnd)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Reason, "reason", "", "shown by status, and told to the routers, as far as 128 bytes; at most 255")
	cmd.Flags().DurationVar(&deadline, "deadline", time.Minute, "withdraw after this long whatever traffic is left")
	cmd.Flags().BoolVar(&req.UntilBoot, "until-boot", false, "serve again after the next boot")
	return cmd
}

func newUndrainCommand() *cobra.Command {
	o := &streamOptions{}
	cmd := &cobra.Command{
		Use:   "undrain",
		Short: "Take a drained host back into the fabric",
		Long: `Take a drained host back into the fabric: the sessions come up, then its blocks are announced, and containers are
accepted again. A router that does not come back is not waited for longer than some 20 s.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.follow(cmd, drainSteps, func(ctx context.Context, c apiv1.HostfabricClient) (progressStream, error) {
				return c.Undrain(ctx, &apiv1.UndrainRequest{})
			}, undrainEnd)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

// streamOptions are what a command takes that follows the agent.
type streamOptions struct {
	socket string
}

func (o *streamOptions) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.socket, "socket", defaultAPISocket, "unix socket of the agent's API")
}

type progressStream interface {
	Recv() (*apiv1.DrainProgress, error)
}

// follow prints a line for every change until the end, which it has say how it went.
func (o *streamOptions) follow(cmd *cobra.Command, within time.Duration, ask func(context.Context, apiv1.HostfabricClient) (progressStream, error), end func(*apiv1.DrainProgress) string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), within)
	defer cancel()
	conn, err := dialAgent(o.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := ask(ctx, apiv1.NewHostfabricClient(conn))
	last := ""
	for err == nil {
		var p *apiv1.DrainProgress
		if p, err = stream.Recv(); err != nil {
			break
		}
		line := progressLine(p)
		if p.GetDone() {
			line = end(p)
		}
		if line != last {
			fmt.Fprintln(cmd.OutOrStdout(), line)
			last = line
		}
		if p.GetDone() {
			return nil
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the agent ended without a word: see its log")
	case ctx.Err() != nil && last != "":
		return fmt.Errorf("not waited for any longer (%w): it goes on in the agent, see hostfabric status", ctx.Err())
	}
	return clientError(o.socket, err)
}

func progressLine(p *apiv1.DrainProgress) string {
	line := p.GetStage()
	if line == "" {
		line = "serving"
	}
	if p.GetStep() != "" {
		line += ": " + p.GetStep()
	}
	if p.GetStage() == "draining" && p.GetEndpoints() > 0 {
		line += ", " + trafficText(p)
	}
	if p.GetError() != "" {
		line += ": trying again: " + p.GetError()
	}
	return line
}

func trafficText(p *apiv1.DrainProgress) string {
	return fmt.Sprintf("%d of %s busy, %.0f packets/s", p.GetBusyEndpoints(), plural(int(p.GetEndpoints()), "endpoint"), p.GetPacketsPerSecond())
}

func drainEnd(p *apiv1.DrainProgress) string {
	left := "no traffic was left"
	switch {
	case p.GetEndpoints() == 0:
		left = "no endpoint was left"
	case p.GetBusyEndpoints() > 0:
		left = "the deadline passed with " + trafficText(p)
	}
	return fmt.Sprintf("drained: %s (%s)", p.GetReason(), left)
}

func undrainEnd(p *apiv1.DrainProgress) string {
	if down := p.GetPeersDown(); len(down) > 0 {
		return "serving, but these peers are not established: " + strings.Join(down, ", ")
	}
	return "serving"
}
