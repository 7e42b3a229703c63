package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/history"
)

// Ledger is what the API tells of the ledger; history.Ledger is the real one.
type Ledger interface {
	history.Reader
	Follow(ctx context.Context, f history.Filter, visit history.Visit) error
	Stats() history.Stats
	Kept() (dir string, limits history.Limits)
}

var errNoLedger = fmt.Errorf("%w: this agent keeps no ledger: set history.enabled and restart it", agent.ErrNotFound)

// History implements hostfabric.v1.
func (s *Server) History(ctx context.Context, r *apiv1.HistoryRequest) (*apiv1.HistoryResponse, error) {
	if s.ledger == nil {
		return nil, rpcError(errNoLedger)
	}
	resp, err := HistoryOf(ctx, s.ledger, r)
	return resp, rpcError(err)
}

// Events implements hostfabric.v1.
func (s *Server) Events(r *apiv1.EventsRequest, stream grpc.ServerStreamingServer[apiv1.EventsResponse]) error {
	if s.ledger == nil {
		return rpcError(errNoLedger)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.serving, cancel)() // who follows must not keep the agent from ending
	f, err := eventFilter(r)
	if err != nil {
		return rpcError(err)
	}
	if !r.GetFollow() {
		return rpcError(EventsOf(ctx, s.ledger, r, stream.Send))
	}
	if r.GetLast() > 0 {
		if f.After, err = sendLast(ctx, s.ledger, int(r.GetLast()), f, stream.Send); err != nil {
			return rpcError(err)
		}
	}
	visit, failed := sending(stream.Send)
	return rpcError(errors.Join(s.ledger.Follow(ctx, f, visit), failed()))
}

// GetLedger implements hostfabric.v1.
func (s *Server) GetLedger(context.Context, *apiv1.GetLedgerRequest) (*apiv1.GetLedgerResponse, error) {
	if s.ledger == nil {
		return nil, rpcError(errNoLedger)
	}
	dir, limits := s.ledger.Kept()
	resp := LedgerStats(dir, s.ledger.Stats())
	resp.MaxSize, resp.MaxAge = uint64(limits.MaxSize), durationpb.New(limits.MaxAge)
	return resp, nil
}

// LedgerStats converts what is known of a ledger.
func LedgerStats(dir string, st history.Stats) *apiv1.GetLedgerResponse {
	return &apiv1.GetLedgerResponse{
		Dir: dir, Events: st.Events, Size: uint64(st.Size), Segments: uint32(st.Segments), Oldest: timestamp(st.Oldest), Newest: timestamp(st.Newest),
		Recorded: st.Recorded, Dropped: st.Dropped, WriteErrors: st.WriteErrors, Failing: st.Failing, Buffered: uint64(st.Buffered),
	}
}

// HistoryOf answers from any ledger.
func HistoryOf(ctx context.Context, l history.Reader, r *apiv1.HistoryRequest) (*apiv1.HistoryResponse, error) {
	if r.GetSubject() == "" || r.GetAt() == nil {
		return nil, fmt.Errorf("%w: name an address, a container or a name, and the time", agent.ErrInvalid)
	}
	found, err := l.At(ctx, r.GetAt().AsTime(), subjectFilter(r.GetSubject()))
	resp := &apiv1.HistoryResponse{}
	if resp.Damage, err = damage(err); err != nil {
		return nil, err
	}
	for _, e := range found {
		resp.Episodes = append(resp.Episodes, episode(e))
	}
	return resp, nil
}

// EventsOf sends the events that there are, of any ledger.
func EventsOf(ctx context.Context, l history.Reader, r *apiv1.EventsRequest, send func(*apiv1.EventsResponse) error) error {
	f, err := eventFilter(r)
	if err != nil {
		return err
	}
	if r.GetLast() > 0 {
		_, err := sendLast(ctx, l, int(r.GetLast()), f, send)
		return err
	}
	visit, failed := sending(send)
	return sendDamage(errors.Join(l.Events(ctx, f, visit), failed()), send)
}

// sendLast also returns the number to follow from.
func sendLast(ctx context.Context, l history.Reader, n int, f history.Filter, send func(*apiv1.EventsResponse) error) (after uint64, err error) {
	found, err := l.Last(ctx, n, f)
	for _, e := range found {
		f.After = e.Number
		if err := send(&apiv1.EventsResponse{Event: LedgerEvent(e)}); err != nil {
			return 0, err
		}
	}
	return f.After, sendDamage(err, send)
}

// sending sends each event until one cannot be sent.
func sending(send func(*apiv1.EventsResponse) error) (visit history.Visit, failed func() error) {
	var err error
	return func(e history.Entry) bool {
		err = send(&apiv1.EventsResponse{Event: LedgerEvent(e)})
		return err == nil
	}, func() error { return err }
}

func sendDamage(err error, send func(*apiv1.EventsResponse) error) error {
	parts, err := damage(err)
	if err != nil || len(parts) == 0 {
		return err
	}
	return send(&apiv1.EventsResponse{Damage: parts})
}

// damage takes what could not be read from among the errors: the answer is good without it.
func damage(err error) ([]string, error) {
	var d *history.DamageError
	if errors.As(err, &d) {
		return d.Parts, nil
	}
	return nil, err
}

// subjectFilter takes what is an address for one.
func subjectFilter(subject string) history.Filter {
	if a, err := netip.ParseAddr(subject); err == nil {
		return history.Filter{Address: a.Unmap()}
	}
	return history.Filter{Subject: subject}
}

func eventFilter(r *apiv1.EventsRequest) (history.Filter, error) {
	var f history.Filter
	if r.GetSubject() != "" {
		f = subjectFilter(r.GetSubject())
	}
	if r.GetAddress() != "" {
		addrs, err := parseAddrs([]string{r.GetAddress()})
		if err != nil {
			return f, err
		}
		f.Address = addrs[0]
	}
	for _, text := range r.GetKinds() {
		kind := history.Kind(text)
		if !slices.Contains(history.Kinds, kind) {
			return f, fmt.Errorf("%w: kind %.64q: want one of %s", agent.ErrInvalid, text, history.Kinds)
		}
		f.Kinds = append(f.Kinds, kind)
	}
	f.Container, f.Name, f.After = r.GetContainerId(), r.GetName(), r.GetAfter()
	if r.GetSince() != nil {
		f.Since = r.GetSince().AsTime()
	}
	if r.GetUntil() != nil {
		f.Until = r.GetUntil().AsTime()
	}
	return f, nil
}

func episode(e history.Episode) *apiv1.Episode {
	return &apiv1.Episode{
		ContainerId: e.Container, Interface: e.Interface, Owner: e.Owner, Addresses: texts(e.Addresses), Pool: e.Pool, Name: e.Name, Aliases: e.Aliases,
		Labels: e.Labels, Leased: timestamp(e.Leased), From: timestamp(e.From), To: timestamp(e.To), End: string(e.End), Error: e.Error,
	}
}

// LedgerEvent converts an event.
func LedgerEvent(e history.Entry) *apiv1.LedgerEvent {
	out := &apiv1.LedgerEvent{
		Number: e.Number, Time: timestamp(e.Time), Kind: string(e.Kind), ContainerId: e.Container, Interface: e.Interface, Owner: e.Owner,
		Addresses: texts(e.Addresses), Pool: e.Pool, Name: e.Name, Aliases: e.Aliases, Labels: e.Labels, Peer: e.Peer, Count: e.Count,
		Error: e.Error, Detail: e.Detail,
	}
	if e.Prefix.IsValid() {
		out.Prefix = e.Prefix.String()
	}
	if e.Duration > 0 {
		out.Duration = durationpb.New(e.Duration.Truncate(time.Microsecond))
	}
	return out
}

// EntryOf converts one back.
func EntryOf(e *apiv1.LedgerEvent) (history.Entry, error) {
	out := history.Entry{Number: e.GetNumber(), Event: history.Event{
		Time: e.GetTime().AsTime(), Kind: history.Kind(e.GetKind()), Container: e.GetContainerId(), Interface: e.GetInterface(), Owner: e.GetOwner(),
		Pool: e.GetPool(), Name: e.GetName(), Aliases: e.GetAliases(), Labels: e.GetLabels(), Peer: e.GetPeer(), Count: e.GetCount(),
		Error: e.GetError(), Detail: e.GetDetail(),
	}}
	var err error
	if out.Addresses, err = parseAddrs(e.GetAddresses()); err != nil {
		return out, err
	}
	if e.GetPrefix() != "" {
		if out.Prefix, err = netip.ParsePrefix(e.GetPrefix()); err != nil {
			return out, fmt.Errorf("event %d: %w", e.GetNumber(), err)
		}
	}
	if e.GetDuration() != nil {
		out.Duration = e.GetDuration().AsDuration()
	}
	return out, nil
}
