package bfd

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestSetThatIsNotCarried: a set whose connection fails, while the one that follows the changes goes on, is made up for.
func TestSetThatIsNotCarried(t *testing.T) {
	lis, err := net.Listen("unix", filepath.Join(t.TempDir(), "bfd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var refuse atomic.Bool
	sets := make(chan []Session, 16)
	serve := func(conn net.Conn) {
		defer conn.Close()
		lines := newLines(conn)
		for {
			var req request
			if readLine(lines, &req) != nil {
				return
			}
			switch {
			case req.Watch:
				_ = writeLine(conn, reply{Version: "v", Sessions: &[]Status{}})
				_ = writeLine(conn, reply{Change: &Status{}})
			case refuse.Load(): // as when there are too many connections
				return
			default:
				sets <- *req.Set
				_ = writeLine(conn, reply{Version: "v"})
			}
		}
	}
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	defer lis.Close()
	following := make(chan struct{}, 16) // a change is read when what was wanted before the connection has been told
	c := NewClient(ClientOptions{Socket: lis.Addr().String(), Changed: func(Status) { following <- struct{}{} }})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() { <-done }()
	defer cancel()
	select {
	case <-following:
	case <-ctx.Done():
		t.Fatal("not connected")
	}
	refuse.Store(true)
	if err := c.Set(ctx, []Session{{Peer: netip.MustParseAddr("192.0.2.1"), MinTx: time.Second, MinRx: time.Second, Multiplier: 3}}); err != nil {
		t.Fatal(err)
	}
	refuse.Store(false)
	select {
	case s := <-sets:
		if len(s) != 1 {
			t.Errorf("set of %d sessions", len(s))
		}
	case <-ctx.Done():
		t.Fatal("the set never arrives")
	}
}
