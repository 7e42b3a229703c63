package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/history"
)

func newEventsCommand() *cobra.Command {
	o := &ledgerOptions{}
	output := outputTable
	req := &apiv1.EventsRequest{}
	var since, until timeValue
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened on this host, and what happens",
		Long: `Show the newest events of this host's ledger: addresses leased and returned, containers attached, detached and refused,
blocks, announcements, sessions. With -f go on with those to come, until interrupted; what is slow to read them misses none
that the ledger keeps. -o json has one event a line.`,
		Example: `  hostfabric events -f
  hostfabric events -f --kind refuse --kind session-down
  hostfabric events --address 10.64.0.7 --since -1h --last 0 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Since, req.Until = since.stamp(), until.stamp()
			if req.Follow && req.Until != nil {
				return fmt.Errorf("--until ends what --follow does not: use one or the other")
			}
			e := &eventPrinter{cmd: cmd, output: output, lines: true}
			if err := o.events(cmd, req, e.print); err != nil {
				return err
			}
			return e.end("")
		},
	}
	o.AddFlags(cmd)
	addOutputFlag(cmd, &output)
	fs := cmd.Flags()
	fs.BoolVarP(&req.Follow, "follow", "f", false, "go on with the events to come")
	fs.Uint32VarP(&req.Last, "last", "n", 20, "the newest so many; 0: all")
	fs.StringSliceVar(&req.Kinds, "kind", nil, "only events of this kind; may be given more than once")
	fs.StringVar(&req.ContainerId, "container", "", "only this container ID; of 64 digits the first 12 will do")
	fs.StringVar(&req.Address, "address", "", "only events with this address")
	fs.StringVar(&req.Name, "name", "", "only those of this name or alias")
	addTimeFlag(cmd, &since, "since", "only events from this time on")
	addTimeFlag(cmd, &until, "until", "only events before this time")
	var kinds []string
	for _, k := range history.Kinds {
		kinds = append(kinds, string(k))
	}
	complete(cmd, "kind", kinds...)
	return cmd
}

// eventPrinter prints events as they come: a line each, or with YAML a document each. JSON is one array, unless it is to be lines.
type eventPrinter struct {
	cmd     *cobra.Command
	output  outputFormat
	lines   bool
	printed int
}

func (p *eventPrinter) print(e *apiv1.LedgerEvent) error {
	p.printed++
	w := p.cmd.OutOrStdout()
	if p.output == outputTable {
		_, err := fmt.Fprintln(w, eventLine(e))
		return err
	}
	b, err := eventJSON(e)
	if err != nil {
		return err
	}
	switch {
	case p.output == outputYAML:
		doc, err := encode(outputYAML, e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "---\n%s", doc)
		return err
	case p.lines:
		_, err = fmt.Fprintf(w, "%s\n", b)
	case p.printed == 1:
		_, err = fmt.Fprintf(w, "[\n  %s", b)
	default:
		_, err = fmt.Fprintf(w, ",\n  %s", b)
	}
	return err
}

// end closes what print opened. none is said where there was nothing to print.
func (p *eventPrinter) end(none string) error {
	var err error
	w := p.cmd.OutOrStdout()
	switch array := p.output == outputJSON && !p.lines; {
	case array && p.printed == 0:
		_, err = fmt.Fprintln(w, "[]")
	case array:
		_, err = fmt.Fprintln(w, "\n]")
	case p.output == outputTable && p.printed == 0 && none != "":
		_, err = fmt.Fprintln(w, none)
	}
	return err
}

// eventJSON is an event on one line, without what it has not.
func eventJSON(e *apiv1.LedgerEvent) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
	if err != nil {
		return nil, err
	}
	return compactJSON(b)
}

// compactJSON takes out the white space that protojson varies from build to build.
func compactJSON(b []byte) ([]byte, error) {
	var raw json.RawMessage = b
	return json.Marshal(raw)
}

// eventLine is an event for people: time, kind, whom it is about, and whatever else it has.
func eventLine(e *apiv1.LedgerEvent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-13s", showTime(e.GetTime()), e.GetKind())
	field := func(key, value string) {
		switch {
		case value == "":
		case strings.ContainsFunc(value, func(r rune) bool { return r == ' ' || r == '"' || !unicode.IsPrint(r) }):
			fmt.Fprintf(&b, " %s=%q", key, value)
		default:
			fmt.Fprintf(&b, " %s=%s", key, value)
		}
	}
	field("container", e.GetContainerId())
	field("interface", e.GetInterface())
	field("name", e.GetName())
	field("aliases", strings.Join(e.GetAliases(), ","))
	field("addresses", strings.Join(e.GetAddresses(), ","))
	field("pool", e.GetPool())
	field("prefix", e.GetPrefix())
	field("peer", e.GetPeer())
	field("owner", e.GetOwner())
	field("labels", labelText(e.GetLabels()))
	if d := e.GetDuration(); d != nil {
		field("took", d.AsDuration().String())
	}
	if n := e.GetCount(); n > 0 {
		field("count", fmt.Sprint(n))
	}
	field("error", e.GetError())
	field("detail", e.GetDetail())
	return b.String()
}
