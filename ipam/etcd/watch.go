package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Waits before a watch is opened again.
const (
	rewatchFirst = 100 * time.Millisecond
	rewatchMost  = 10 * time.Second
)

// Watch hints whenever a claim of this host's ID, or the registry of pools, has changed, and whenever the watch is (again)
// established, as changes may have been missed before. The channel is closed when ctx or the source ends.
func (s *Source) Watch(ctx context.Context) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("etcd at %s: the source is closed", s.endpoints)
	}
	hints := make(chan struct{}, 1)
	s.watches.Go(func() {
		defer close(hints)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		s.watch(ctx, s.hints(hints))
	})
	return hints, nil
}

// hints watches for what may change what this host has.
func (s *Source) hints(hints chan struct{}) watched {
	return watched{
		requests: []*pb.WatchCreateRequest{
			{Key: []byte(s.keys.registry())},
			{Key: []byte(s.keys.claims()), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(s.keys.claims())), PrevKv: true},
		},
		begin: func(context.Context) error {
			poke(hints)
			return nil
		},
		events: func(events []*mvccpb.Event) {
			if slices.ContainsFunc(events, s.concerns) {
				poke(hints)
			}
		},
	}
}

// watched is what a watch is about.
type watched struct {
	requests []*pb.WatchCreateRequest
	// begin is called whenever the watch is (again) established: changes may have been missed before. An error ends it.
	begin  func(ctx context.Context) error
	events func(events []*mvccpb.Event)
}

func (s *Source) watch(ctx context.Context, w watched) {
	again := retry{first: rewatchFirst, most: rewatchMost}
	silent := false // the log knows already
	for {
		err := s.stream(ctx, w, func() {
			again.next = 0
			if silent {
				s.log.Info("etcd is watched again", "endpoints", s.endpoints)
			}
			silent = false
		})
		if ctx.Err() != nil {
			return
		}
		if !silent {
			s.log.Warn("watch of etcd ended; it is tried again for as long as it takes", "endpoints", s.endpoints, "err", err)
			silent = true
		}
		if !again.wait(ctx) {
			return
		}
	}
}

// stream is one life of the watch. It is gRPC's stream and not the client's, which resumes behind its caller's back: then
// nobody would look again after etcd was restored from a backup that is older than what was seen. As each begins with a look at
// what there is, none needs to begin at an old revision, which might be compacted.
func (s *Source) stream(ctx context.Context, w watched, up func()) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	token, err := s.freshToken(ctx)
	if err != nil {
		return err
	}
	stream, err := pb.NewWatchClient(s.client.ActiveConnection()).Watch(withToken(ctx, token),
		grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return s.failure(ctx, err, err)
	}
	for _, r := range w.requests {
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
			break // Recv knows why
		}
	}
	for created := 0; ; {
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return s.failure(ctx, err, err)
		case resp.Canceled:
			return s.canceled(resp)
		case resp.Created:
			if created++; created == len(w.requests) {
				if err := w.begin(ctx); err != nil {
					return err
				}
				up()
			}
		}
		if len(resp.Events) > 0 {
			w.events(resp.Events)
		}
	}
}

// freshToken logs in for a stream, as nobody would say of a stream that its token is stale.
func (s *Source) freshToken(ctx context.Context) (string, error) {
	if s.user == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	old, err := s.currentToken(ctx)
	if err != nil {
		return "", err
	}
	return s.renewToken(ctx, old)
}

func (s *Source) canceled(resp *pb.WatchResponse) error {
	if resp.CompactRevision > 0 {
		return fmt.Errorf("etcd at %s compacted what was not watched yet", s.endpoints)
	}
	reason := resp.CancelReason
	if _, text, ok := strings.Cut(reason, "desc = "); ok {
		reason = text // of an error that etcd has printed
	}
	err := errors.New(reason)
	return s.failure(s.ctx, err, err)
}

// concerns tells whether an event may have changed what this host has.
func (s *Source) concerns(e *mvccpb.Event) bool {
	if string(e.Kv.Key) == s.keys.registry() {
		return true
	}
	if decodeHolder(e.Kv.Value).ID == s.id.ID {
		return true
	}
	if e.PrevKv != nil {
		return decodeHolder(e.PrevKv.Value).ID == s.id.ID
	}
	return !e.IsCreate() // what it was is compacted
}
