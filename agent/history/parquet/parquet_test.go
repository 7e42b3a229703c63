package parquet_test

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"

	lib "github.com/parquet-go/parquet-go"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
	"github.com/hostfabric/hostfabric/agent/history/parquet"
)

func TestTableHasTheEvents(t *testing.T) {
	host := historytest.New(historytest.Options{Seed: 3})
	var events []history.Entry
	for i := range 3000 {
		events = append(events, history.Entry{Number: uint64(i + 1), Event: host.Next()})
	}
	events = append(events, history.Entry{Number: 3001, Event: history.Event{
		Time: time.Unix(1, 0), Kind: history.Withdraw, Prefix: netip.MustParsePrefix("10.64.0.0/26"), Error: "no", Detail: "because", Count: 7, Peer: "10.0.1.0",
		Aliases: []string{"a", "b"},
	}})
	var file bytes.Buffer
	w := parquet.NewWriter(&file)
	for _, e := range events {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	type row struct {
		Number    uint64            `parquet:"number"`
		Time      time.Time         `parquet:"time,timestamp(microsecond)"`
		Kind      string            `parquet:"kind"`
		Container *string           `parquet:"container,optional"`
		Addresses []string          `parquet:"addresses,list"`
		Aliases   []string          `parquet:"aliases,list"`
		Labels    map[string]string `parquet:"labels"`
		Prefix    *string           `parquet:"prefix,optional"`
		Count     *uint64           `parquet:"count,optional"`
	}
	r := lib.NewGenericReader[row](bytes.NewReader(file.Bytes()))
	rows := make([]row, len(events)+1)
	n, err := r.Read(rows)
	for err == nil && n < len(events) {
		var more int
		more, err = r.Read(rows[n:])
		n += more
	}
	if n != len(events) || err != nil && err != io.EOF {
		t.Fatalf("%d rows of %d, %v", n, len(events), err)
	}
	for i, e := range events[:3000] {
		got := rows[i]
		if got.Number != e.Number || !got.Time.Equal(e.Time.Truncate(time.Microsecond)) || got.Kind != string(e.Kind) || got.Container == nil ||
			*got.Container != e.Container || len(got.Addresses) != 2 || got.Addresses[0] != e.Addresses[0].String() || got.Labels["image"] != e.Labels["image"] {
			t.Fatalf("row %d is %+v, want %+v", i, got, e)
		}
	}
	last := rows[3000]
	if last.Container != nil || last.Prefix == nil || *last.Prefix != "10.64.0.0/26" || *last.Count != 7 || len(last.Aliases) != 2 || len(last.Addresses) != 0 {
		t.Errorf("the last row is %+v", last)
	}
}
