package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// clientOptions are what every client command takes.
type clientOptions struct {
	socket  string
	timeout time.Duration
	output  outputFormat
}

func (o *clientOptions) AddFlags(cmd *cobra.Command) {
	o.output = outputTable
	fs := cmd.Flags()
	fs.StringVar(&o.socket, "socket", defaultAPISocket, "unix socket of the agent's API")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "give up after this long")
	addOutputFlag(cmd, &o.output)
}

// exactArgs wants as many arguments as there are names, and says which are missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return fmt.Errorf("want %s, got %s", strings.Join(names, " "), plural(len(args), "argument"))
	}
}

// call asks the agent once and prints the answer in the wanted form.
func call[Resp proto.Message](cmd *cobra.Command, o *clientOptions, ask func(context.Context, apiv1.HostfabricClient) (Resp, error), table func(Resp, *printer)) error {
	resp, err := answer(cmd, o, ask)
	if err != nil {
		return err
	}
	return print(cmd.OutOrStdout(), o.output, resp, func(p *printer) { table(resp, p) })
}

// answer asks the agent once.
func answer[Resp proto.Message](cmd *cobra.Command, o *clientOptions, ask func(context.Context, apiv1.HostfabricClient) (Resp, error)) (Resp, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	var resp Resp
	conn, err := dialAgent(o.socket)
	if err != nil {
		return resp, err
	}
	defer conn.Close()
	if resp, err = ask(ctx, apiv1.NewHostfabricClient(conn)); err != nil {
		return resp, clientError(o.socket, err)
	}
	return resp, nil
}

// clientError drops gRPC's wrapping: the agent's text says it all. Where no agent answered, it says what to do.
func clientError(socket string, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	if st.Code() == codes.Unavailable && isDialFailure(st.Message()) {
		return fmt.Errorf("no agent answers on %s: is `hostfabric agent` running, and may you use its socket? (%s)", socket, st.Message())
	}
	if st.Code() == codes.DeadlineExceeded {
		return fmt.Errorf("the agent did not answer in time on %s; --timeout waits longer", socket)
	}
	return errors.New(st.Message())
}
