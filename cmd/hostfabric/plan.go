package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newReloadCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the agent apply its configuration file as it is now",
		Long: `Have the agent apply its configuration file as it is now, as SIGHUP does, and print what that changed. Sessions and
announcements that are not concerned stay as they are. With a mistake in the file nothing changes. Some keys are only
read when the agent starts; "hostfabric plan" tells beforehand.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ReloadResponse, error) {
				return c.Reload(ctx, &apiv1.ReloadRequest{})
			}
			return call(cmd, o, ask, func(r *apiv1.ReloadResponse, p *printer) { printEffects(r.GetEffects(), p) })
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func newPlanCommand() *cobra.Command {
	o := &clientOptions{}
	file := ""
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Tell what a new configuration file would change",
		Long: `Tell what a new configuration file would change if it were put in the place of the agent's and reloaded: sessions,
announcements and kernel routes. Nothing changes. Names of files in it are relative to the directory of the agent's
own, and the agent's flags and environment go before it, as they will.`,
		Example: "  hostfabric plan -c /etc/hostfabric/hostfabric.yaml.new",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("new configuration file: %w", err)
			}
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.PlanResponse, error) {
				return c.Plan(ctx, &apiv1.PlanRequest{Config: text})
			}
			return call(cmd, o, ask, func(r *apiv1.PlanResponse, p *printer) { printEffects(r.GetEffects(), p) })
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVarP(&file, "config", "c", defaultConfig, "the new configuration file")
	return cmd
}

// shownRoutes bounds a list that may have as many lines as the fabric has prefixes.
const shownRoutes = 20

func printEffects(e *apiv1.Effects, p *printer) {
	if len(e.GetChanges()) == 0 {
		p.row(text("nothing differs from the running configuration"))
		return
	}
	p.header("WHAT", "WHICH", "EFFECT")
	for _, c := range e.GetChanges() {
		p.row(text("config"), text(c.GetKey()), text(changed(c)))
	}
	for _, s := range e.GetSessions() {
		p.row(text("session"), text(s.GetPeer()), text(s.GetEffect()))
	}
	if len(e.GetSessions()) == 0 {
		p.row(text("session"), text("-"), text("none changes"))
	}
	list := func(what, effect string, prefixes []string) {
		for i, prefix := range prefixes {
			if i == shownRoutes {
				p.row(text(what), text(fmt.Sprintf("and %d more", len(prefixes)-i)), text(effect))
				return
			}
			p.row(text(what), text(prefix), text(effect))
		}
	}
	list("announcement", "announced, with a discard route in the kernel", e.GetAnnounced())
	list("block", "drains: nothing more is leased from it", e.GetDraining())
	list("announcement", "withdrawn when nothing is leased from it, and its discard route goes", e.GetWithdrawn())
	list("kernel route", "removed: no longer accepted from the fabric", e.GetRefused())
	if n := e.GetRewritten(); n > 0 {
		p.row(text("kernel route"), text(plural(int(n), "route")+" of the fabric"), text("rewritten, the new one before the old one goes"))
	}
}

func changed(c *apiv1.ConfigChange) string {
	out := fmt.Sprintf("%s -> %s", dash(c.GetOld()), dash(c.GetNew()))
	switch {
	case c.GetOld() == "":
		out = "+ " + c.GetNew()
	case c.GetNew() == "":
		out = "- " + c.GetOld()
	}
	if c.GetRestart() {
		out += " (takes a restart of the agent)"
	}
	return out
}
