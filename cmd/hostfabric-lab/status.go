package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

func newStatusCommand() *cobra.Command {
	var shape fabric.Shape
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the routers and hosts of a standing fabric",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fabric.EnsurePrivileges(); err != nil {
				return err
			}
			lab, err := fabric.Open(shape)
			if err != nil {
				return err
			}
			return printLab(cmd.Context(), cmd.OutOrStdout(), lab)
		},
	}
	addNameFlag(cmd, &shape)
	return cmd
}

func printLab(ctx context.Context, w io.Writer, lab *fabric.Lab) error {
	nodes, err := lab.Status(ctx)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tROLE\tNAMESPACE\tAS\tRUNNING\tSESSIONS\tPREFIXES\tIN KERNEL\tBLOCKS\tERROR")
	for _, n := range nodes {
		sessions, prefixes, kernel, blocks := "-", "-", "-", "-"
		if n.Role == "host" {
			blocks = joined(n.Blocks)
		} else {
			sessions, prefixes, kernel = fmt.Sprintf("%d/%d", n.Up, n.Sessions), fmt.Sprint(n.Prefixes), fmt.Sprint(n.Kernel)
		}
		running := "yes"
		if !n.Running {
			running = "no"
		}
		problem := n.Err
		if problem == "" {
			problem = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role, n.NS, n.ASN, running, sessions, prefixes, kernel, blocks, problem)
	}
	return tw.Flush()
}

func joined[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, " ")
}
