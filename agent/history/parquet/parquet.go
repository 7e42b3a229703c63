// Package parquet writes events of the ledger as a Parquet file, for whatever reads tables.
package parquet

import (
	"fmt"
	"io"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/hostfabric/hostfabric/agent/history"
)

// row is an event as a table has it. What an event has not is null, or an empty list.
type row struct {
	Number     uint64            `parquet:"number,delta"`
	Time       time.Time         `parquet:"time,timestamp(microsecond),delta"`
	Kind       string            `parquet:"kind,dict"`
	Container  string            `parquet:"container,optional"`
	Interface  string            `parquet:"interface,optional,dict"`
	Owner      string            `parquet:"owner,optional,dict"`
	Addresses  []string          `parquet:"addresses,list"`
	Pool       string            `parquet:"pool,optional,dict"`
	Name       string            `parquet:"name,optional,dict"`
	Aliases    []string          `parquet:"aliases,list"`
	Labels     map[string]string `parquet:"labels"`
	Prefix     string            `parquet:"prefix,optional,dict"`
	Peer       string            `parquet:"peer,optional,dict"`
	DurationUS int64             `parquet:"duration_us,optional"`
	Count      uint64            `parquet:"count,optional"`
	Error      string            `parquet:"error,optional"`
	Detail     string            `parquet:"detail,optional"`
}

// rowsAtATime bounds what is in memory: a group of rows, columns and all.
const (
	rowsAtATime = 1 << 10
	rowGroup    = 256 << 10
)

// Writer writes a file. Without Close it is none.
type Writer struct {
	w    *parquet.GenericWriter[row]
	rows []row
}

// NewWriter begins a file.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: parquet.NewGenericWriter[row](w, parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}), parquet.MaxRowsPerRowGroup(rowGroup))}
}

// Write adds an event.
func (w *Writer) Write(e history.Entry) error {
	r := row{
		Number: e.Number, Time: e.Time, Kind: string(e.Kind), Container: e.Container, Interface: e.Interface, Owner: e.Owner, Pool: e.Pool, Name: e.Name,
		Aliases: e.Aliases, Labels: e.Labels, Peer: e.Peer, DurationUS: e.Duration.Microseconds(), Count: e.Count, Error: e.Error, Detail: e.Detail,
	}
	for _, a := range e.Addresses {
		r.Addresses = append(r.Addresses, a.String())
	}
	if e.Prefix.IsValid() {
		r.Prefix = e.Prefix.String()
	}
	w.rows = append(w.rows, r)
	if len(w.rows) < rowsAtATime {
		return nil
	}
	return w.flush()
}

func (w *Writer) flush() error {
	_, err := w.w.Write(w.rows)
	w.rows = w.rows[:0]
	if err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	return nil
}

// Close ends the file; the writer below stays open.
func (w *Writer) Close() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.w.Close(); err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	return nil
}
