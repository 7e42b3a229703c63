// Command hostfabric connects the containers of a bare-metal host to a BGP-routed fabric: the agent, the BGP speaker it
// talks to, and the client commands that look at them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hostfabric:", err)
		os.Exit(1)
	}
}
