package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/rpc"
)

// ledgerOptions are where a command reads the ledger: from the agent, or from its directory.
type ledgerOptions struct {
	socket string
	dir    string
}

func (o *ledgerOptions) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.socket, "socket", defaultAPISocket, "unix socket of the agent's API")
	cmd.Flags().StringVar(&o.dir, "dir", "", "read the ledger in this directory, such as /var/lib/hostfabric/history, without the agent")
}

// history asks what somebody or something was at a time.
func (o *ledgerOptions) history(cmd *cobra.Command, req *apiv1.HistoryRequest) (*apiv1.HistoryResponse, error) {
	var resp *apiv1.HistoryResponse
	err := o.either(func(c apiv1.HostfabricClient) (err error) {
		resp, err = c.History(cmd.Context(), req)
		return err
	}, func(d *history.Dir) (err error) {
		resp, err = rpc.HistoryOf(cmd.Context(), d, req)
		return err
	})
	if err == nil {
		warnDamage(cmd.ErrOrStderr(), resp.GetDamage())
	}
	return resp, err
}

// events calls do for each event.
func (o *ledgerOptions) events(cmd *cobra.Command, req *apiv1.EventsRequest, do func(*apiv1.LedgerEvent) error) error {
	each := func(r *apiv1.EventsResponse) error {
		warnDamage(cmd.ErrOrStderr(), r.GetDamage())
		if r.GetEvent() == nil {
			return nil
		}
		return do(r.GetEvent())
	}
	return o.either(func(c apiv1.HostfabricClient) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		stream, err := c.Events(ctx, req)
		for err == nil {
			var r *apiv1.EventsResponse
			if r, err = stream.Recv(); err == nil {
				if failed := each(r); failed != nil {
					return failed
				}
			}
		}
		switch {
		case cmd.Context().Err() != nil:
			return nil
		case errors.Is(err, io.EOF) && req.GetFollow():
			return errors.New("the agent has ended, and with it what there is to follow")
		case errors.Is(err, io.EOF):
			return nil
		}
		return err
	}, func(d *history.Dir) error {
		if req.GetFollow() {
			return errors.New("--follow needs the agent: leave --dir out")
		}
		return rpc.EventsOf(cmd.Context(), d, req, each)
	})
}

func (o *ledgerOptions) either(agent func(apiv1.HostfabricClient) error, dir func(*history.Dir) error) error {
	if o.dir != "" {
		d, err := history.OpenDir(o.dir)
		if err != nil {
			return fmt.Errorf("%w: name the directory that the agent's configuration has as history.dir", err)
		}
		return dir(d)
	}
	conn, err := dialAgent(o.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = agent(apiv1.NewHostfabricClient(conn))
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unavailable {
		return fmt.Errorf("%w; --dir DIRECTORY reads the ledger without the agent", clientError(o.socket, err))
	}
	if err != nil {
		return clientError(o.socket, err)
	}
	return nil
}

func warnDamage(w io.Writer, damage []string) {
	for _, d := range damage {
		fmt.Fprintln(w, "hostfabric: the ledger is damaged:", d)
	}
}

// timeValue is a flag of a time: RFC 3339, local, or relative to now.
type timeValue struct {
	at  time.Time
	now func() time.Time
}

func addTimeFlag(cmd *cobra.Command, t *timeValue, name, usage string) {
	t.now = time.Now
	cmd.Flags().Var(t, name, usage)
}

func (t *timeValue) String() string {
	if t.at.IsZero() {
		return ""
	}
	return t.at.Format(time.RFC3339)
}

// Type is what the usage calls it.
func (t *timeValue) Type() string { return "time" }

// Set implements pflag.Value.
func (t *timeValue) Set(text string) error {
	if d, err := time.ParseDuration(text); err == nil {
		if d > 0 {
			return fmt.Errorf("%q lies in the future: -%s is that long ago", text, text)
		}
		t.at = t.now().Add(d)
		return nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(form, text, time.Local); err == nil {
			t.at = at
			return nil
		}
	}
	return fmt.Errorf("%q is not a time: want 2026-03-01T12:00:00Z, '2026-03-01 13:00:00' of this place, or -10m", text)
}

// stamp is the time for the API; absent if the flag was not given.
func (t *timeValue) stamp() *timestamppb.Timestamp {
	if t.at.IsZero() {
		return nil
	}
	return timestamppb.New(t.at)
}

// showTime is a time of this place, to the millisecond.
func showTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02T15:04:05.000Z07:00")
}
