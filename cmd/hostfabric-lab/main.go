// Command hostfabric-lab builds fabrics of hosts, top-of-rack routers and a spine out of network namespaces, and shows
// and measures Hostfabric in them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if !errors.Is(err, errNotOK) {
		fmt.Fprintln(os.Stderr, "hostfabric-lab:", err)
	}
	os.Exit(1)
}

// errNotOK ends the process with status 1 after a report that says why.
var errNotOK = errors.New("not as it should be")

func newRootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "hostfabric-lab",
		Short:         "Fabrics out of network namespaces, to try Hostfabric in",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(newUpCommand(), newDownCommand(), newStatusCommand(), newDemoCommand(), newBenchCommand(), newTorCommand())
	return cmd
}
