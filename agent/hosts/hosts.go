// Package hosts finds who answers for the names and addresses of other hosts' containers. It knows the hosts by a list in the
// configuration, by large communities that they put on the blocks they announce, and by their claims in the source of blocks.
//
// What is announced or claimed names servers inside itself only: whoever has packets to a prefix come to it may say that a host
// of some name answers there, but not that anybody else does.
package hosts

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/hostfabric/hostfabric/agent/dns"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

// Options say what a Directory has to wait for before it can say that there is no such host.
type Options struct {
	Claims bool // it will be told claims
}

// Directory implements dns.Directory. It is safe for concurrent use.
type Directory struct {
	opts Options

	mu       sync.RWMutex // guards what follows
	listed   listed
	learned  learned
	claimed  *claimed            // nil before the first word of claims
	synced   bool                // what the fabric announces is all here
	alone    bool                // there is nobody to hear of a fabric from
	sessions map[netip.Addr]bool // that are up
}

var _ dns.Directory = (*Directory)(nil)

// New returns a Directory that knows of nobody yet.
func New(opts Options) *Directory {
	return &Directory{opts: opts, listed: newListed(nil), learned: newLearned(), sessions: map[netip.Addr]bool{}}
}

// SetListed replaces the hosts of the configuration.
func (d *Directory) SetListed(list []Listed) {
	l := newListed(list)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed = l
}

// SetPeers replaces the peers that there are sessions with; so many more are to be found yet.
func (d *Directory) SetPeers(found []netip.Addr, pending int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alone = len(found)+pending == 0
	for peer := range d.sessions {
		if !slices.Contains(found, peer) {
			delete(d.sessions, peer)
		}
	}
}

// Learned takes what the fabric announces, as bgp.Events.Routes has it.
func (d *Directory) Learned(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned.update(upserts, withdrawn)
}

// Session takes what becomes of a BGP session.
func (d *Directory) Session(p bgp.PeerStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.State == bgp.StateEstablished {
		d.sessions[p.Address] = true
	} else {
		delete(d.sessions, p.Address)
	}
}

// Speaker takes what becomes of the speaker.
func (d *Directory) Speaker(s bgp.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.synced = s.Synced; !s.Connected {
		clear(d.sessions) // the next speaker's are told anew
	}
}

// SetClaims replaces the claims of all hosts, and what these tell of themselves.
func (d *Directory) SetClaims(claims []ipam.Claim, hosts []ipam.Host) {
	c := newClaimed(claims, hosts)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claimed = c
}

// Host implements dns.Directory. The configuration's word is the last; else what is announced comes before what is claimed.
func (d *Directory) Host(name string) ([]netip.Addr, error) {
	name = strings.ToLower(name)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if servers, ok := d.listed.servers[name]; ok {
		return slices.Clone(servers), nil
	}
	servers, announced := d.learned.servers(Hash(name))
	more, claimed := d.claimed.host(name)
	return d.answer(merge(servers, more), announced || claimed)
}

// Address implements dns.Directory.
func (d *Directory) Address(addr netip.Addr) ([]netip.Addr, error) {
	addr = addr.Unmap()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if servers, ok := d.listed.of(addr); ok {
		return slices.Clone(servers), nil
	}
	servers, announced := d.learned.of(addr)
	more, claimed := d.claimed.of(addr)
	return d.answer(merge(servers, more), announced || claimed)
}

// answer tells nobody from somebody that nobody can ask. Caller holds mu.
func (d *Directory) answer(servers []netip.Addr, known bool) ([]netip.Addr, error) {
	switch {
	case len(servers) > 0:
		return servers, nil
	case known || d.unsure():
		return nil, dns.ErrUnsure
	}
	return nil, dns.ErrUnknown
}

// unsure says that there may be hosts that are not known. Claims that were not heard yet do not matter where hosts are announced:
// what starts while etcd is away must not depend on it. Caller holds mu.
func (d *Directory) unsure() bool {
	if !d.alone && (!d.synced || len(d.sessions) == 0) {
		return true
	}
	return d.opts.Claims && d.claimed == nil && len(d.learned.known) == 0
}
