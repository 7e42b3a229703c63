// Package server is what the speaker process runs: GoBGP behind a private socket with full rights and read-only
// listeners for inspection.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v3/pkg/server"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/hostfabric/hostfabric/bgp/internal/private"
)

// keptCapability is all the speaker needs: port 179. SO_BINDTODEVICE on a fresh socket needs no capability since Linux 5.7, TCP
// MD5 and GTSM never did.
const keptCapability = unix.CAP_NET_BIND_SERVICE

// Options configure the speaker process.
type Options struct {
	Socket  string   // private unix socket, full rights; its directory belongs to the speaker alone
	Inspect []string // read-only listeners: "127.0.0.1:50051" or "unix:///path"
	User    string   // whom to become when started as root; "": hostfabric. One that does not exist: uid 65534
	Log     *slog.Logger
	Version string // told to the agent
	Ready   func() // called once the private socket is served; may be nil
}

// Run serves until ctx ends. It does not start BGP: the agent does that through the private socket. When ctx ends it
// sends no CEASE, so that peers keep our routes under graceful restart; the BGP server cannot be stopped otherwise,
// so the caller must exit the process right after. Started with privileges, Run first gives them up by executing
// the same binary with the same arguments anew, in the same process.
func Run(ctx context.Context, opts Options) error {
	if opts.Socket == "" {
		return errors.New("speaker: no socket path given")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if strings.Contains(filepath.Base(opts.Socket), ",") {
		return fmt.Errorf("speaker: socket name %q: a comma separates addresses for GoBGP; use another name", filepath.Base(opts.Socket))
	}
	dir, err := private.Prepare(private.Options{
		Process: "speaker", Socket: opts.Socket, User: opts.User, Capability: keptCapability, DirFDEnv: "HOSTFABRIC_SPEAKER_DIR_FD", Log: opts.Log,
	})
	if err != nil {
		return fmt.Errorf("speaker: %w", err)
	}
	defer dir.Close()
	release, err := dir.Claim()
	if err != nil {
		return fmt.Errorf("speaker: %w", err)
	}
	defer release()
	if err := reportCrashes(dir); err != nil {
		opts.Log.Warn("a peer that crashes the speaker will not be found out", "error", err)
	}

	downs := newDownLog()
	fatal := make(chan error, 1)
	id := identity{version: opts.Version}
	bgp := gobgp.NewBgpServer(
		gobgp.LoggerOption(newLogger(opts.Log, fatal, downs)),
		gobgp.GrpcListenAddress("unix://"+dir.SocketPath()),
		gobgp.GrpcOption([]grpc.ServerOption{
			grpc.UnaryInterceptor(id.unary),
			grpc.StreamInterceptor(id.stream(downs)),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		}),
	)
	go bgp.Serve() // never returns; see the contract above

	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	for _, addr := range opts.Inspect {
		wg.Go(func() { inspect(ctx, opts.Log, addr, bgp, id) })
	}
	if err := awaitSocket(ctx, dir.SocketPath(), fatal); err != nil || ctx.Err() != nil {
		return err
	}
	opts.Log.Info("speaker ready", "socket", opts.Socket, "inspect", opts.Inspect, "version", opts.Version)
	if opts.Ready != nil {
		opts.Ready()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-fatal:
		return fmt.Errorf("speaker: %w", err)
	}
}

// awaitSocket waits until GoBGP, which opens the private socket in the background, serves it.
func awaitSocket(ctx context.Context, path string, fatal <-chan error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", path); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-fatal:
			return fmt.Errorf("speaker: %w", err)
		case <-tick.C:
		}
	}
}
