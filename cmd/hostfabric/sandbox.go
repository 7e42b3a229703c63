package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newSandboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Use network namespaces that are wired before anybody asks for them",
		Long: `A sandbox is a network namespace that the agent has attached to the fabric ahead of time, as many as sandboxes.low and .high of its
configuration say. To acquire one takes a fraction of a millisecond; where none is ready, one is made on the spot. Each is
used once: release it when its container is gone.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newSandboxAcquireCommand(), newSandboxReleaseCommand(), newSandboxListCommand())
	return cmd
}

func newSandboxAcquireCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.AcquireSandboxRequest{}
	var pathOnly bool
	cmd := &cobra.Command{
		Use:   "acquire HOLDER",
		Short: "Get a sandbox; a repeated holder gets the one that it has",
		Example: `  hostfabric sandbox acquire job7
  podman run --network ns:$(hostfabric sandbox acquire job7 --path) ...
  nsenter --net=$(hostfabric sandbox acquire job7 --path) ip address`,
		Args: exactArgs("HOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Holder = args[0]
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.AcquireSandboxResponse, error) {
				return c.AcquireSandbox(ctx, req)
			}
			if !pathOnly {
				return call(cmd, o, ask, printAcquired)
			}
			if cmd.Flags().Changed("output") {
				return errors.New("--path and --output are two forms of the answer, name one")
			}
			resp, err := answer(cmd, o, ask)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), resp.GetSandbox().GetEndpoint().GetNetns())
			return err
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().BoolVar(&pathOnly, "path", false, "print only the path of the namespace")
	addDescriptionFlags(cmd, &req.Name, &req.Aliases, &req.Labels)
	return cmd
}

func newSandboxReleaseCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ReleaseSandboxRequest{}
	cmd := &cobra.Command{
		Use:     "release HOLDER | --id ID",
		Short:   "Take a sandbox off the fabric and remove its namespace",
		Example: "  hostfabric sandbox release job7",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Holder = args[0]
			}
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ReleaseSandboxResponse, error) {
				return c.ReleaseSandbox(ctx, req)
			}
			return call(cmd, o, ask, printReleased)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Id, "id", "", "name the sandbox by its own ID instead")
	return cmd
}

func newSandboxListCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sandboxes, ready and acquired",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListSandboxesResponse, error) {
				return c.ListSandboxes(ctx, &apiv1.ListSandboxesRequest{})
			}
			return call(cmd, o, ask, func(r *apiv1.ListSandboxesResponse, p *printer) { printSandboxes(p, r.GetSandboxes()...) })
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func printAcquired(r *apiv1.AcquireSandboxResponse, p *printer) { printSandboxes(p, r.GetSandbox()) }

func printSandboxes(p *printer, all ...*apiv1.Sandbox) {
	p.header("SANDBOX", "STATE", "HOLDER", "ADDRESSES", "NAME", "NAMESPACE", "RESOLV-CONF", "AGE")
	for _, s := range all {
		ep := s.GetEndpoint()
		p.row(text(s.GetId()), text(s.GetState()), text(dash(s.GetHolder())), text(strings.Join(ep.GetAddresses(), ",")),
			text(dash(ep.GetName())), text(ep.GetNetns()), text(dash(s.GetResolvConf())), text(age(s.GetSince().AsTime())))
	}
}

func printReleased(r *apiv1.ReleaseSandboxResponse, p *printer) {
	if r.GetFound() {
		p.row(text("released"))
		return
	}
	p.row(text("there is no such sandbox"))
}
