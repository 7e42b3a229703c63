package etcd

import (
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
	host, server     net.Conn
	holdUp, holdDown bool
	kept             int // bytes from the host that are held up
	cut              bool
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
		l := &link{host: host, server: server}
		p.mu.Lock()
		if p.refused {
			host.Close()
			l.cut = true
		}
		p.links = append(p.links, l)
		p.mu.Unlock()
		p.wg.Go(func() { p.pump(server, host, &l.holdUp, &l.kept) })
		p.wg.Go(func() {
			p.pump(host, server, &l.holdDown, new(int))
			host.Close() // as etcd does when it ends
		})
	}
}

// pump copies. A host that leaves does not take with it what it has sent.
func (p *proxy) pump(to, from net.Conn, hold *bool, kept *int) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		if *hold {
			*kept += n
			p.changed.Broadcast()
		}
		for *hold {
			p.changed.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
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
			l.holdUp, l.holdDown = up, down
		}
	}
}

// awaitKept waits until something that a host sent is held up.
func (p *proxy) awaitKept() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for _, l := range p.links {
			if l.holdUp && l.kept > 0 {
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
		l.holdUp, l.holdDown = false, false
	}
	p.changed.Broadcast()
}
