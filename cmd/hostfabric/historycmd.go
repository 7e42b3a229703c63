package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// mostEvents is how many events history tells where nobody says how many.
const mostEvents = 1000

func newHistoryCommand() *cobra.Command {
	o := &ledgerOptions{}
	output := outputTable
	var at, since, until timeValue
	last := uint32(mostEvents)
	cmd := &cobra.Command{
		Use:   "history ADDRESS|CONTAINER|NAME",
		Short: "Say who had an address, or what a container or a name was, and when",
		Long: `Ask this host's ledger. With --at: who had the address at that time, or what the container or name was then, from when
to when, and how it ended. Without: the events of the address, the container or the name, oldest first.

Of a container ID of 64 digits the first 12 will do. A time is RFC 3339, a date and time of this place, or relative to now.`,
		Example: `  hostfabric history 10.64.0.7 --at '2026-03-01 14:05:00'
  hostfabric history 10.64.0.7 --at -10m -o json
  hostfabric history 3f9a1b2c4d5e
  hostfabric history shop-cart --since -1h
  hostfabric history 10.64.0.7 --dir /var/lib/hostfabric/history`,
		Args: exactArgs("ADDRESS|CONTAINER|NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !at.at.IsZero() {
				if !since.at.IsZero() || !until.at.IsZero() {
					return errors.New("--at asks of one time, --since and --until of what happened between: use one or the other")
				}
				req := &apiv1.HistoryRequest{Subject: args[0], At: timestamppb.New(at.at)}
				resp, err := o.history(cmd, req)
				if err != nil {
					return err
				}
				return print(cmd.OutOrStdout(), output, resp, func(p *printer) { printEpisodes(req, resp, p) })
			}
			req := &apiv1.EventsRequest{Subject: args[0], Since: since.stamp(), Until: until.stamp(), Last: last}
			e := &eventPrinter{cmd: cmd, output: output}
			if err := o.events(cmd, req, e.print); err != nil {
				return err
			}
			if e.printed == int(last) {
				fmt.Fprintf(cmd.ErrOrStderr(), "hostfabric: these are the newest %d events, --last has more\n", last)
			}
			return e.end("no event of " + args[0] + " is in the ledger")
		},
	}
	o.AddFlags(cmd)
	addOutputFlag(cmd, &output)
	addTimeFlag(cmd, &at, "at", "who, or what, it was at this time")
	addTimeFlag(cmd, &since, "since", "events from this time on")
	addTimeFlag(cmd, &until, "until", "events before this time")
	cmd.Flags().Uint32Var(&last, "last", last, "at most so many events, the newest; 0: all")
	return cmd
}

func printEpisodes(req *apiv1.HistoryRequest, r *apiv1.HistoryResponse, p *printer) {
	if len(r.GetEpisodes()) == 0 {
		p.row(text(fmt.Sprintf("nobody was %s at %s", req.GetSubject(), showTime(req.GetAt()))))
		return
	}
	p.header("CONTAINER", "INTERFACE", "NAME", "ADDRESSES", "FROM", "TO", "END", "OWNER", "LABELS")
	for _, e := range r.GetEpisodes() {
		from, to, end := showTime(e.GetFrom()), showTime(e.GetTo()), e.GetEnd()
		switch {
		case e.GetFrom() == nil && e.GetLeased() != nil:
			from = "never attached"
		case e.GetFrom() == nil:
			from = "before the ledger"
		}
		if end == "" {
			to, end = "still", "-"
		}
		p.row(text(e.GetContainerId()), text(dash(e.GetInterface())), text(dash(e.GetName())), text(dash(strings.Join(e.GetAddresses(), ","))),
			text(from), text(to), text(end), text(dash(e.GetOwner())), text(dash(labelText(e.GetLabels()))))
	}
}
