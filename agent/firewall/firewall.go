// Package firewall keeps the one nftables table that confines containers to their own addresses, and to what of the host is
// for them. The table is the same for one container and for thousands: who may send what, the kernel's routes say.
//
// It is replaced as a whole, in one transaction. Nobody else's table is ever touched. Where somebody removes or changes it,
// a reload of the host's own firewall that begins with "flush ruleset" being the normal case, it is put back within
// lookRest. It stays when the agent ends: the containers do too.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Protocol is of the transport layer, by its number.
type Protocol uint8

// The protocols whose ports can be closed.
const (
	TCP Protocol = unix.IPPROTO_TCP
	UDP Protocol = unix.IPPROTO_UDP
)

// Port is one of the host's.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// Policy is what an operator wishes.
type Policy struct {
	Enabled    bool           // else there is no table
	Closed     []Port         // of the host, to its containers
	Masquerade bool           // what leaves the host from its blocks
	Except     []netip.Prefix // destinations that see the containers' own addresses all the same, besides the blocks
}

// Dropped counts packets of containers since the table was first there, or last flushed by somebody.
type Dropped struct {
	SpoofedIPv4, SpoofedIPv6 uint64 // from addresses that are not the container's
	Closed                   uint64 // to ports of the host that are not for containers
}

const (
	// lookEvery is how often the table is looked at though nothing was heard of it.
	lookEvery = 10 * time.Second
	// lookRest is between two looks at least: others may change their tables without end.
	lookRest = 100 * time.Millisecond
	// retryEvery is how often a table is tried again that could not be written.
	retryEvery = time.Second
)

// Firewall keeps the table in the network namespace that it was made in. Its methods may be called from any goroutine.
type Firewall struct {
	log  *slog.Logger
	home *os.File // the network namespace

	err atomic.Pointer[error] // why containers are not confined as they should be

	mu     sync.Mutex // guards what follows, and the order of changes in the kernel
	policy Policy
	own    []netip.Prefix
	sound  bool  // the table was written, and is as seen has it unless somebody changes it
	seen   image // as it was read after it was written last
}

// New writes the table. What keeps it from being written is Err's to tell, and tried again by Run: containers that are there
// must not go without the agent for it.
func New(p Policy, own []netip.Prefix, log *slog.Logger) (*Firewall, error) {
	home, err := rtnl.ThreadNamespace()
	if err != nil {
		return nil, err
	}
	f := &Firewall{log: log, home: home, policy: p, own: own}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write()
	return f, nil
}

// Close releases what New opened. The table stays.
func (f *Firewall) Close() error { return f.home.Close() }

// SetPolicy goes on with another policy. It has its effect on return, or Err tells why not.
func (f *Firewall) SetPolicy(p Policy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !reflect.DeepEqual(p, f.policy) {
		f.policy = p
		f.write()
	}
}

// SetBlocks goes on with other blocks of the host.
func (f *Firewall) SetBlocks(own []netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(own, f.own) {
		return
	}
	f.own = slices.Clone(own)
	if f.policy.Enabled && f.policy.Masquerade { // nothing else depends on them
		f.write()
	}
}

// Err tells why containers are not confined as the policy says; nil when they are. It asks nobody and can be called for
// every attach.
func (f *Firewall) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Dropped reads the counters from the kernel; there are none while the table is not there.
func (f *Firewall) Dropped() (Dropped, error) {
	f.mu.Lock()
	enabled := f.policy.Enabled
	f.mu.Unlock()
	if !enabled { // the kernel may have no nftables to ask
		return Dropped{}, nil
	}
	all, err := readCounters(f.home)
	return Dropped{SpoofedIPv4: all[spoofed4].packets, SpoofedIPv6: all[spoofed6].packets, Closed: all[closed].packets}, err
}

// Run keeps the table as it should be until ctx ends.
func (f *Firewall) Run(ctx context.Context) error {
	changed, stop, err := watch(f.home, f.log)
	if err != nil {
		f.log.Warn("changes of nftables are not heard of and are noticed later", "after", lookEvery, "err", err)
	}
	defer stop()
	rest := time.NewTicker(lookRest)
	defer rest.Stop()
	for {
		again := lookEvery
		if !f.look() {
			again = retryEvery
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
	}
}

// look puts the table back if it is not as it was written, and reports whether all is well.
func (f *Firewall) look() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sound {
		now, err := read(f.home)
		switch {
		case err == nil && now == f.seen, err != nil && !f.policy.Enabled:
			return true
		case err != nil:
			f.log.Warn("the table that confines containers cannot be read, it is written anew", "table", TableName, "err", err)
		case f.policy.Enabled:
			f.log.Warn("somebody has changed the table that confines containers, it is written anew", "table", TableName)
		default:
			f.log.Warn("somebody has made a table of our name, which is removed", "table", TableName)
		}
	}
	return f.write()
}

// write has the kernel have the table, or not have it, and reports whether it does.
func (f *Firewall) write() bool {
	err := f.put()
	f.sound = err == nil
	if err != nil {
		err = fmt.Errorf("containers are not confined to their own addresses: nftables: %w", explained(err))
		if f.Err() == nil || f.Err().Error() != err.Error() {
			f.log.Error("no firewall, will be retried", "err", err)
		}
		f.err.Store(&err)
		return false
	}
	if f.err.Swap(nil) != nil {
		f.log.Info("containers are confined again", "table", TableName)
	}
	return true
}

func (f *Firewall) put() error {
	if !f.policy.Enabled {
		f.remove()
		return nil
	}
	counters, err := readCounters(f.home)
	if err != nil {
		f.log.Debug("counters begin anew", "err", err)
	}
	conn, err := open(f.home)
	if err != nil {
		return err
	}
	shape, err := replace(conn, f.policy, f.own, counters)
	if err != nil {
		return err
	}
	f.seen, err = read(f.home)
	if err == nil && f.seen.shape != shape {
		err = errors.New("somebody has changed the table just after it was written")
	}
	return err
}

// remove takes the table away if there is one. Where nftables cannot be read, as in a kernel without, there is none.
func (f *Firewall) remove() {
	f.seen = image{}
	if now, err := read(f.home); err != nil || now == f.seen {
		return
	}
	if err := remove(f.home); err != nil {
		f.log.Warn("table not removed", "table", TableName, "err", err)
	}
}

// explained adds what an operator can do.
func explained(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the agent needs CAP_NET_ADMIN", err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: does this kernel have nf_tables, nft_fib_inet and, to masquerade, nft_masq? Without, set firewall.enabled: false", err)
	}
	return err
}
