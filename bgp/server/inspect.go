package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	gobgp "github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// inspectRetry is how often a listener that could not be opened is tried again.
const inspectRetry = 5 * time.Second

// inspect serves the read-only API on one address until ctx ends. A busy address must not cost the BGP sessions: it is
// logged and tried again. The server is apart from that of the private socket and has no writing method at all; the
// interceptors only turn "unimplemented" into "permission denied".
func inspect(ctx context.Context, log *slog.Logger, addr string, bgp *gobgp.BgpServer, id identity) {
	srv := grpc.NewServer(
		grpc.ChainUnaryInterceptor(readOnlyUnary, id.unary),
		grpc.ChainStreamInterceptor(readOnlyStream, id.stream(newDownLog())),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errReadOnly }),
	)
	api.RegisterGobgpApiServer(srv, &reader{bgp: bgp})
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	for warned := false; ; warned = true {
		lis, err := listenInspect(addr)
		if err == nil {
			log.Info("read-only API listening", "address", addr)
			err = srv.Serve(lis)
		}
		if ctx.Err() != nil {
			return
		}
		if !warned {
			log.Error("read-only API not available, trying again", "address", addr, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(inspectRetry):
		}
	}
}

func listenInspect(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix://")
	if !ok {
		return net.Listen("tcp", addr)
	}
	lis, err := net.Listen("unix", path)
	if err == nil {
		return lis, nil
	}
	if conn, dialErr := net.Dial("unix", path); dialErr == nil {
		conn.Close()
		return nil, err
	}
	st, statErr := os.Lstat(path)
	if statErr != nil || st.Mode().Type() != fs.ModeSocket { // only a dead socket is ours to remove
		return nil, err
	}
	if rmErr := os.Remove(path); rmErr != nil {
		return nil, errors.Join(err, rmErr)
	}
	return net.Listen("unix", path)
}

var errReadOnly = status.Error(codes.PermissionDenied, "this listener is read-only: the hostfabric agent owns the speaker's configuration")

func readOnly(method string) bool {
	name, ok := strings.CutPrefix(method, "/apipb.GobgpApi/")
	return ok && (strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Get") || name == "WatchEvent")
}

func readOnlyUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if !readOnly(info.FullMethod) {
		return nil, errReadOnly
	}
	return h(ctx, req)
}

func readOnlyStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if !readOnly(info.FullMethod) {
		return errReadOnly
	}
	return h(srv, ss)
}

// reader is GoBGP's API without what changes anything, and without passwords.
type reader struct {
	api.UnimplementedGobgpApiServer
	bgp *gobgp.BgpServer
}

// list runs one of GoBGP's listings and sends each item; it stops at the first item the client does not take.
func list[Item, Resp any](ctx context.Context, send func(*Resp) error, wrap func(Item) *Resp,
	run func(context.Context, func(Item)) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sendErr error
	err := run(ctx, func(item Item) {
		if sendErr == nil {
			if sendErr = send(wrap(item)); sendErr != nil {
				cancel()
			}
		}
	})
	if sendErr != nil {
		return sendErr
	}
	return err
}

func (r *reader) GetBgp(ctx context.Context, req *api.GetBgpRequest) (*api.GetBgpResponse, error) {
	return r.bgp.GetBgp(ctx, req)
}

func (r *reader) GetTable(ctx context.Context, req *api.GetTableRequest) (*api.GetTableResponse, error) {
	return r.bgp.GetTable(ctx, req)
}

func (r *reader) ListPeer(req *api.ListPeerRequest, s api.GobgpApi_ListPeerServer) error {
	return list(s.Context(), s.Send, func(p *api.Peer) *api.ListPeerResponse {
		if p.GetConf() != nil {
			p.Conf.AuthPassword = ""
		}
		if p.GetState() != nil {
			p.State.AuthPassword = ""
		}
		return &api.ListPeerResponse{Peer: p}
	}, func(ctx context.Context, fn func(*api.Peer)) error { return r.bgp.ListPeer(ctx, req, fn) })
}

func (r *reader) ListPath(req *api.ListPathRequest, s api.GobgpApi_ListPathServer) error {
	return list(s.Context(), s.Send, func(d *api.Destination) *api.ListPathResponse {
		return &api.ListPathResponse{Destination: d}
	}, func(ctx context.Context, fn func(*api.Destination)) error { return r.bgp.ListPath(ctx, req, fn) })
}

func (r *reader) ListPolicy(req *api.ListPolicyRequest, s api.GobgpApi_ListPolicyServer) error {
	return list(s.Context(), s.Send, func(p *api.Policy) *api.ListPolicyResponse {
		return &api.ListPolicyResponse{Policy: p}
	}, func(ctx context.Context, fn func(*api.Policy)) error { return r.bgp.ListPolicy(ctx, req, fn) })
}

func (r *reader) ListStatement(req *api.ListStatementRequest, s api.GobgpApi_ListStatementServer) error {
	return list(s.Context(), s.Send, func(p *api.Statement) *api.ListStatementResponse {
		return &api.ListStatementResponse{Statement: p}
	}, func(ctx context.Context, fn func(*api.Statement)) error { return r.bgp.ListStatement(ctx, req, fn) })
}

func (r *reader) ListDefinedSet(req *api.ListDefinedSetRequest, s api.GobgpApi_ListDefinedSetServer) error {
	return list(s.Context(), s.Send, func(d *api.DefinedSet) *api.ListDefinedSetResponse {
		return &api.ListDefinedSetResponse{DefinedSet: d}
	}, func(ctx context.Context, fn func(*api.DefinedSet)) error { return r.bgp.ListDefinedSet(ctx, req, fn) })
}

func (r *reader) ListPolicyAssignment(req *api.ListPolicyAssignmentRequest, s api.GobgpApi_ListPolicyAssignmentServer) error {
	return list(s.Context(), s.Send, func(a *api.PolicyAssignment) *api.ListPolicyAssignmentResponse {
		return &api.ListPolicyAssignmentResponse{Assignment: a}
	}, func(ctx context.Context, fn func(*api.PolicyAssignment)) error {
		return r.bgp.ListPolicyAssignment(ctx, req, fn)
	})
}

// WatchEvent sends events until the client leaves. GoBGP calls back from a goroutine of its own, also for a moment
// after ctx ended, when the stream must no longer be used.
func (r *reader) WatchEvent(req *api.WatchEventRequest, s api.GobgpApi_WatchEventServer) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var mu sync.Mutex // guards the stream against the end of this handler
	err := r.bgp.WatchEvent(ctx, req, func(ev *api.WatchEventResponse) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if err := s.Send(ev); err != nil {
			cancel()
		}
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	mu.Lock()
	defer mu.Unlock()
	return nil
}
