package server

import (
	"context"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// identity tells clients of the private socket which speaker answers.
type identity struct{ version string }

func (i identity) header() metadata.MD {
	return metadata.Pairs(meta.Version, i.version, meta.PID, strconv.Itoa(os.Getpid()))
}

func (i identity) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := grpc.SetHeader(ctx, i.header()); err != nil {
		return nil, err
	}
	return h(ctx, req)
}

func (i identity) stream(downs *downLog) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		md := i.header()
		if strings.HasSuffix(info.FullMethod, "/ListPeer") {
			md.Append(meta.PeerDown, downs.encode()...)
		}
		if err := ss.SetHeader(md); err != nil {
			return err
		}
		return h(srv, ss)
	}
}
