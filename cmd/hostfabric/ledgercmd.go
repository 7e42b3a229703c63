package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/parquet"
	"github.com/hostfabric/hostfabric/agent/rpc"
)

func newLedgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Look after the ledger of what happened on this host",
	}
	cmd.AddCommand(newLedgerInfoCommand(), newLedgerExportCommand())
	return cmd
}

func newLedgerInfoCommand() *cobra.Command {
	o := &clientOptions{}
	dir := ""
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Say how much the ledger holds, and whether it loses anything",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.GetLedgerResponse, error) {
					return c.GetLedger(ctx, &apiv1.GetLedgerRequest{})
				}
				return call(cmd, o, ask, printLedger)
			}
			d, err := history.OpenDir(dir)
			if err != nil {
				return err
			}
			st, err := d.Stats()
			var damage *history.DamageError
			if errors.As(err, &damage) {
				warnDamage(cmd.ErrOrStderr(), damage.Parts)
			} else if err != nil {
				return err
			}
			resp := rpc.LedgerStats(dir, st)
			return print(cmd.OutOrStdout(), o.output, resp, func(p *printer) { printLedger(resp, p) })
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "look at the ledger in this directory, without the agent")
	return cmd
}

func printLedger(r *apiv1.GetLedgerResponse, p *printer) {
	row := func(name string, value any) { p.row(text(name), text(value)) }
	row("directory", r.GetDir())
	row("events", r.GetEvents())
	size := fmt.Sprintf("%.1f MiB", float64(r.GetSize())/(1<<20))
	if r.GetMaxSize() > 0 {
		size += fmt.Sprintf(" of %d MiB, %s", r.GetMaxSize()>>20, r.GetMaxAge().AsDuration())
	}
	row("size", size)
	row("segments", r.GetSegments())
	row("oldest", showTime(r.GetOldest()))
	row("newest", showTime(r.GetNewest()))
	if r.GetMaxSize() == 0 {
		return // nobody who writes was asked
	}
	row("recorded", fmt.Sprintf("%d since the agent started, %d wait", r.GetRecorded(), r.GetBuffered()))
	p.row(text("dropped"), judged(r.GetDropped(), r.GetDropped() == 0))
	if r.GetFailing() != "" {
		p.row(text("failing"), judged(r.GetFailing(), false))
	}
}

// exportFormat is what an export is written in.
type exportFormat string

const (
	exportJSONL   exportFormat = "jsonl"
	exportParquet exportFormat = "parquet"
)

func (f *exportFormat) String() string { return string(*f) }

// Type is what the usage calls it.
func (f *exportFormat) Type() string { return "format" }

// Set implements pflag.Value.
func (f *exportFormat) Set(text string) error {
	if all := []exportFormat{exportJSONL, exportParquet}; !slices.Contains(all, exportFormat(text)) {
		return fmt.Errorf("%q is not one of jsonl, parquet", text)
	}
	*f = exportFormat(text)
	return nil
}

func newLedgerExportCommand() *cobra.Command {
	o := &ledgerOptions{}
	format := exportJSONL
	req := &apiv1.EventsRequest{}
	file := ""
	var since, until timeValue
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the events of the ledger as JSON lines or a Parquet file",
		Example: `  hostfabric ledger export --since -24h > yesterday.jsonl
  hostfabric ledger export --format parquet -o ledger.parquet
  hostfabric ledger export --kind refuse --dir /mnt/broken-host/history`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Since, req.Until = since.stamp(), until.stamp()
			if file == "" {
				if format == exportParquet && isTerminal(cmd.OutOrStdout()) {
					return errors.New("a Parquet file does not belong on a terminal: name a file with -o, or redirect the output")
				}
				return export(cmd, o, req, format, cmd.OutOrStdout())
			}
			return exportFile(cmd, o, req, format, file)
		},
	}
	o.AddFlags(cmd)
	fs := cmd.Flags()
	fs.Var(&format, "format", "jsonl or parquet")
	complete(cmd, "format", string(exportJSONL), string(exportParquet))
	fs.StringVarP(&file, "output", "o", "", "write to this file, which must not be there; empty: to standard output")
	fs.StringSliceVar(&req.Kinds, "kind", nil, "only events of this kind; may be given more than once")
	addTimeFlag(cmd, &since, "since", "only events from this time on")
	addTimeFlag(cmd, &until, "until", "only events before this time")
	return cmd
}

// exportFile leaves no half of a file.
func exportFile(cmd *cobra.Command, o *ledgerOptions, req *apiv1.EventsRequest, format exportFormat, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	return export(cmd, o, req, format, f)
}

func export(cmd *cobra.Command, o *ledgerOptions, req *apiv1.EventsRequest, format exportFormat, to io.Writer) error {
	w := bufio.NewWriterSize(to, 1<<16)
	var err error
	if format == exportParquet {
		table := parquet.NewWriter(w)
		if err = o.events(cmd, req, func(e *apiv1.LedgerEvent) error {
			entry, err := rpc.EntryOf(e)
			if err != nil {
				return err
			}
			return table.Write(entry)
		}); err == nil {
			err = table.Close()
		}
	} else {
		err = o.events(cmd, req, func(e *apiv1.LedgerEvent) error {
			b, err := eventJSON(e)
			if err != nil {
				return err
			}
			_, err = w.Write(append(b, '\n'))
			return err
		})
	}
	if err != nil {
		return err
	}
	return w.Flush()
}
