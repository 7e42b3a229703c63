package etcd

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between hosts and etcd, and can hold up what goes over the connections of the moment.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	links   []*link
	refused bool // connections are closed at once
}

type link struct {
	host, server net.Conn
	up, down     way
	cut          bool
}

// way is one direction of a link.
type way struct {
	to   net.Conn
	hold bool
	kept []byte
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: strings.TrimPrefix(target, "http://")}
	p.changed = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.letGo()
		p.mu.Lock()
		for _, l := range p.links {
			l.server.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		host, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			host.Close()
			continue
		}
		l := &link{host: host, server: server, up: way{to: server}, down: way{to: host}}
		p.mu.Lock()
		if p.refused {
			host.Close()
			l.cut = true
		}
		p.links = append(p.links, l)
		p.mu.Unlock()
		p.wg.Go(func() { p.pump(&l.up, host) })
		p.wg.Go(func() {
			p.pump(&l.down, server)
			host.Close() // as etcd does when it ends
		})
	}
}

// pump copies. A host that leaves does not take with it what it has sent.
func (p *proxy) pump(w *way, from net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		if w.hold {
			w.kept = append(w.kept, buffer[:n]...)
			p.changed.Broadcast()
		} else if n > 0 {
			w.to.Write(buffer[:n])
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// hold holds up what the hosts send, or what etcd answers, over the connections that there are.
func (p *proxy) hold(up, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if !l.cut {
			l.up.hold, l.down.hold = up, down
		}
	}
}

// awaitClaim waits until the whole of a transaction that claims something is held up.
func (p *proxy) awaitClaim() {
	const end = `Z"}` // of a claim's value, the last thing in the request
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for _, l := range p.links {
			if bytes.Contains(l.up.kept, []byte(end)) {
				return
			}
		}
		p.changed.Wait()
	}
}

// cut breaks the connections at the hosts' end.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if !l.cut {
			l.cut = true
			l.host.Close()
		}
	}
}

// refuse keeps hosts from etcd, or lets them to it again.
func (p *proxy) refuse(all bool) {
	p.mu.Lock()
	p.refused = all
	p.mu.Unlock()
	if all {
		p.cut()
	}
}

// letGo passes on what was held up.
func (p *proxy) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		for _, w := range []*way{&l.up, &l.down} {
			w.to.Write(w.kept)
			w.hold, w.kept = false, nil
		}
	}
}
