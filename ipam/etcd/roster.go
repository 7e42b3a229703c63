package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// A host tells the others of itself in a key of its own, PREFIX/hosts/NAME/ID. As a claim it has no lease of etcd's, and
// means nothing without one: of a host that has no claims any more, whatever is left of it is not believed.

func (k keys) hosts() string { return k.prefix + "/hosts/" }

func (k keys) host(id Identity) string { return k.hosts() + id.Host + "/" + id.ID }

func (k keys) parseHost(key string) (Identity, bool) {
	rest, found := strings.CutPrefix(key, k.hosts())
	name, id, _ := strings.Cut(rest, "/")
	return Identity{ID: id, Host: name}, found && name != "" && id != "" && !strings.Contains(id, "/")
}

// maxAddresses is how many of its own a host has at most.
const maxAddresses = 16

// self is the value of a host's key.
type self struct {
	Addresses []netip.Addr `json:"addresses"`
}

func (v self) encode() string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // addresses
	}
	return string(text)
}

// decodeSelf leaves out what is no address of a host.
func decodeSelf(value []byte) self {
	var v self
	if json.Unmarshal(value, &v) != nil {
		return self{}
	}
	v.Addresses = slices.DeleteFunc(v.Addresses, func(a netip.Addr) bool { return !a.IsValid() || a.Zone() != "" || a.Is4In6() })
	return self{v.Addresses[:min(len(v.Addresses), maxAddresses)]}
}

// own is what this host wants the others to know of it.
type own struct {
	mu        sync.Mutex // guards what follows
	addresses []netip.Addr
	said      bool          // by SetAddresses
	changed   chan struct{} // of size 1
}

func (o *own) wanted() ([]netip.Addr, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.addresses, o.said
}

// SetAddresses implements ipam.Roster.
func (s *Source) SetAddresses(addresses []netip.Addr) {
	s.own.mu.Lock()
	s.own.addresses, s.own.said = slices.Clone(addresses), true
	s.own.mu.Unlock()
	poke(s.own.changed)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody will look
	}
}

const (
	together     = 50 * time.Millisecond // changes within it are told in one
	retellFirst  = time.Second           // between two attempts to correct this host's key
	retellLatest = 15 * time.Second
)

// Follow implements ipam.Roster. One goroutine keeps up with etcd; this one tells of it, and corrects what is said of this host.
func (s *Source) Follow(ctx context.Context, tell func([]ipam.Claim, []ipam.Host)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(s.ctx, cancel)()
	r := newRoster(s.keys)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { s.watch(ctx, s.watched(r)) })
	again := time.NewTimer(0)
	defer again.Stop()
	var corrected time.Time
	delay := retellFirst // between two corrections: another that takes itself for this host may make them too
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.own.changed:
			delay = retellFirst
		case <-again.C:
		case <-r.changed:
			if !sleep(ctx, together) {
				return nil
			}
			claims, hosts := r.all()
			tell(claims, hosts)
		}
		want, wrong := s.wrong(r)
		if !wrong {
			delay = retellFirst
			continue
		}
		if left := delay - time.Since(corrected); left > 0 {
			again.Reset(left)
			continue
		}
		corrected = time.Now()
		if err := s.correct(ctx, want); err != nil && ctx.Err() == nil {
			delay = min(2*delay, retellLatest)
			s.log.Warn("this host's own addresses are not written to etcd; it is tried again", "err", err, "in", delay)
		}
		again.Reset(delay)
	}
}

// wrong says that this host's key is not what it should be, as far as etcd was heard.
func (s *Source) wrong(r *roster) (want []netip.Addr, wrong bool) {
	want, said := s.own.wanted()
	have, heard := r.host(s.keys.host(s.id))
	return want, said && heard && !slices.Equal(have.Addresses, want)
}

// correct writes this host's key.
func (s *Source) correct(ctx context.Context, want []netip.Addr) error {
	key := s.keys.host(s.id)
	op := clientv3.OpPut(key, self{want}.encode())
	if len(want) == 0 {
		op = clientv3.OpDelete(key)
	}
	if _, err := s.transact(ctx, nil, op); err != nil {
		return fmt.Errorf("tell the other hosts of %s: %w", s.id.Host, err)
	}
	s.log.Info("the other hosts are told this host's own addresses", "addresses", want)
	return nil
}

// forget deletes what installations of a host have told of themselves.
func (s *Source) forget(ctx context.Context, host string, meant func(id string) bool) error {
	resp, err := s.query(ctx, clientv3.OpGet(s.keys.hosts()+host+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	if err != nil {
		return err
	}
	var deletes []clientv3.Op
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		if id, ok := s.keys.parseHost(string(kv.Key)); ok && meant(id.ID) && len(deletes) < maxOps {
			deletes = append(deletes, clientv3.OpDelete(string(kv.Key)))
		}
	}
	if len(deletes) == 0 {
		return nil
	}
	_, err = s.transact(ctx, nil, deletes...)
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watched keeps r up with etcd: all there is when the watch stands, then what changes.
func (s *Source) watched(r *roster) watched {
	prefixes := []string{s.keys.claims(), s.keys.hosts()}
	w := watched{events: r.apply}
	var ops []clientv3.Op
	for _, p := range prefixes {
		w.requests = append(w.requests, &pb.WatchCreateRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p))})
		ops = append(ops, clientv3.OpGet(p, clientv3.WithPrefix()))
	}
	w.begin = func(ctx context.Context) error {
		resp, err := s.query(ctx, ops...)
		if err != nil {
			return err
		}
		var all []*mvccpb.KeyValue
		for _, one := range resp.Responses {
			all = append(all, one.GetResponseRange().Kvs...)
		}
		r.reset(resp.Header.GetRevision(), all)
		return nil
	}
	return w
}

// roster is what etcd has of the hosts and their claims.
type roster struct {
	keys    keys
	changed chan struct{} // of size 1

	mu       sync.Mutex // guards what follows
	heard    bool
	revision int64 // as of which it was read as a whole
	claims   map[string]ipam.Claim
	hosts    map[string]ipam.Host
}

func newRoster(k keys) *roster {
	return &roster{keys: k, changed: make(chan struct{}, 1), claims: map[string]ipam.Claim{}, hosts: map[string]ipam.Host{}}
}

func (r *roster) reset(revision int64, all []*mvccpb.KeyValue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.claims)
	clear(r.hosts)
	for _, kv := range all {
		r.put(kv)
	}
	r.heard, r.revision = true, revision
	poke(r.changed)
}

// apply takes changes. Those that were read already may come too.
func (r *roster) apply(events []*mvccpb.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		switch {
		case e.Kv.ModRevision <= r.revision:
		case e.Type == mvccpb.DELETE:
			delete(r.claims, string(e.Kv.Key))
			delete(r.hosts, string(e.Kv.Key))
		default:
			r.put(e.Kv)
		}
	}
	poke(r.changed)
}

// put leaves out what is neither a claim nor a host: others will have complained of it. Caller holds mu.
func (r *roster) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	if id, ok := r.keys.parseHost(key); ok {
		r.hosts[key] = ipam.Host{Name: id.Host, ID: id.ID, Addresses: decodeSelf(kv.Value).Addresses, Revision: kv.ModRevision}
		return
	}
	if pool, prefix, err := r.keys.parse(key); err == nil {
		h := decodeHolder(kv.Value)
		r.claims[key] = claim{Claim: Claim{Prefix: prefix, Pool: pool, Host: h.Host, ID: h.ID}, claimed: h.Claimed}.complete()
	}
}

// host is one by its key. heard: what is not there is not in etcd.
func (r *roster) host(key string) (h ipam.Host, heard bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hosts[key], r.heard
}

func (r *roster) all() (claims []ipam.Claim, hosts []ipam.Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	claims = slices.Collect(maps.Values(r.claims))
	sortClaims(claims)
	hosts = slices.SortedFunc(maps.Values(r.hosts), func(a, b ipam.Host) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return claims, hosts
}
