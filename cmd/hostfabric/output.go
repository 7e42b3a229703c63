package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// outputFormat is the value of -o.
type outputFormat string

const (
	outputTable outputFormat = "table"
	outputJSON  outputFormat = "json"
	outputYAML  outputFormat = "yaml"
)

func (f *outputFormat) String() string { return string(*f) }
func (f *outputFormat) Type() string   { return "format" }

func (f *outputFormat) Set(s string) error {
	switch outputFormat(s) {
	case outputTable, outputJSON, outputYAML:
		*f = outputFormat(s)
		return nil
	}
	return fmt.Errorf("%q is not one of table, json, yaml", s)
}

func addOutputFlag(cmd *cobra.Command, f *outputFormat) {
	cmd.Flags().VarP(f, "output", "o", "table, json or yaml")
	complete(cmd, "output", string(outputTable), string(outputJSON), string(outputYAML))
}

// complete offers a flag's values to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails for a flag that the command does not have, or when called twice: a mistake of ours that tests show.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

func print(w io.Writer, format outputFormat, msg proto.Message, table func(*printer)) error {
	if format == outputTable {
		p := &printer{w: w, color: isTerminal(w)}
		table(p)
		return p.flush()
	}
	out, err := encode(format, msg)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, err = fmt.Fprintln(w, strings.TrimRight(string(out), "\n"))
	return err
}

func encode(format outputFormat, msg proto.Message) ([]byte, error) {
	out, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(msg)
	if err != nil {
		return nil, err
	}
	if format == outputYAML {
		return yaml.JSONToYAML(out)
	}
	// protojson varies its white space from build to build, on purpose; scripts that compare or grep like it stable.
	var stable bytes.Buffer
	err = json.Indent(&stable, out, "", "  ")
	return stable.Bytes(), err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}

// tone is what a colour means.
type tone string

const (
	plain tone = ""
	good  tone = "\x1b[32m"
	bad   tone = "\x1b[31m"
	faint tone = "\x1b[2m"
	bold  tone = "\x1b[1m"
	reset      = "\x1b[0m"
)

// cell is a text with a tone; its width is the text's.
type cell struct {
	text string
	tone tone
}

func text(v any) cell { return cell{text: fmt.Sprint(v)} }

func judged(v any, ok bool) cell {
	if ok {
		return cell{fmt.Sprint(v), good}
	}
	return cell{fmt.Sprint(v), bad}
}

// printer aligns rows in columns and colours cells on a terminal only.
type printer struct {
	w     io.Writer
	color bool
	rows  [][]cell
}

func (p *printer) header(names ...string) {
	row := make([]cell, len(names))
	for i, n := range names {
		row[i] = cell{n, bold}
	}
	p.rows = append(p.rows, row)
}

func (p *printer) row(cells ...cell) { p.rows = append(p.rows, cells) }

// split ends a table: what follows is another one, with columns of its own, below an empty line.
func (p *printer) split() { p.rows = append(p.rows, nil) }

// flush writes the rows gathered so far.
func (p *printer) flush() error {
	rows := p.rows
	p.rows = nil
	for {
		i := slices.IndexFunc(rows, func(r []cell) bool { return r == nil })
		if i < 0 {
			return p.table(rows)
		}
		if err := p.table(append(rows[:i:i], []cell{{}})); err != nil {
			return err
		}
		rows = rows[i+1:]
	}
}

func (p *printer) table(rows [][]cell) error {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range rows {
		var line strings.Builder
		for i, c := range r {
			body := c.text
			if p.color && c.tone != plain {
				body = string(c.tone) + c.text + reset
			}
			line.WriteString(body)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		if _, err := fmt.Fprintln(p.w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// dash stands for an empty value, so that columns stay columns for awk.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
