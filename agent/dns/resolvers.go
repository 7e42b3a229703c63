package dns

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// resolvers are those that the host's own programs ask, as its resolv.conf has them at the time.
type resolvers struct {
	file string

	mu      sync.Mutex
	looked  time.Time
	is      os.FileInfo // of the file when it was read
	servers []netip.AddrPort
}

// lookEvery is how often the file is looked at.
const lookEvery = time.Second

// list returns them in the order of the file.
func (r *resolvers) list() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.looked) >= lookEvery {
		r.looked = now
		r.look()
	}
	return r.servers
}

// look reads the file anew if it is another one. One that cannot be read for a moment changes nothing.
func (r *resolvers) look() {
	is, err := os.Stat(r.file)
	if err != nil || r.is != nil && os.SameFile(r.is, is) && r.is.ModTime().Equal(is.ModTime()) && r.is.Size() == is.Size() {
		return
	}
	conf, err := dns.ClientConfigFromFile(r.file)
	if err != nil {
		return
	}
	r.is, r.servers = is, nil
	for _, text := range conf.Servers {
		if a, err := netip.ParseAddr(text); err == nil {
			r.servers = append(r.servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
}

const dnsPort = 53

// upstreams are the resolvers to ask, without the addresses that this server answers at: a query would come back.
func (s *Server) upstreams(p *place) []netip.AddrPort {
	list := p.Upstreams
	if len(list) == 0 {
		list = s.resolvers.list()
	}
	return slices.DeleteFunc(slices.Clone(list), func(server netip.AddrPort) bool {
		return slices.Contains(p.Listen, server) || server.Port() == s.opts.Port && slices.Contains(p.host, server.Addr())
	})
}
