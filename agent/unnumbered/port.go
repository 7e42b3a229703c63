package unnumbered

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Timing of what is sent. RFC 4861 section 6.2.1 has up to 16 s between the first advertisements and 3 s at least between any:
// a router that needs one to begin with its session, as FRR does, would be waited for that long.
const (
	// downInterval is between advertisements while there is no session.
	downInterval = time.Second
	// With a session they come at random times, MinRtrAdvInterval and MaxRtrAdvInterval of RFC 4861 section 6.2.1.
	minInterval = 10 * time.Second
	maxInterval = 30 * time.Second
	// maxReplyDelay is until a solicitation is answered at most (MAX_RA_DELAY_TIME).
	maxReplyDelay = 500 * time.Millisecond
	// solicitEvery is how many advertisements without a session go to one solicitation, of a router that is known.
	solicitEvery = 5
	// openInterval is between looks for a link that is not there.
	openInterval = 50 * time.Millisecond
)

// port is one interface.
type port struct {
	link string
	open func() (wire, error)
	tell func(netip.Addr, string) // the router of the link, and what is wrong
	log  *slog.Logger
	poke chan struct{} // of size 1: session changed

	mu      sync.Mutex // guards what follows
	session bool       // one is established

	d *discovery // owned by run
}

func newPort(link string, open func() (wire, error), tell func(netip.Addr, string), log *slog.Logger) *port {
	return &port{link: link, open: open, tell: tell, log: log, poke: make(chan struct{}, 1), d: newDiscovery(link)}
}

func (p *port) established() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

func (p *port) setSession(up bool) {
	p.mu.Lock()
	changed := p.session != up
	p.session = up
	p.mu.Unlock()
	if changed {
		select {
		case p.poke <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// run keeps a wire open and works on it until ctx ends.
func (p *port) run(ctx context.Context) {
	tick := time.NewTicker(openInterval)
	defer tick.Stop()
	waiting := ""
	for {
		w, err := p.open()
		if err == nil {
			waiting = ""
			p.log.Debug("link can be used", "interface", p.link)
			err = p.work(ctx, w)
		}
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != waiting {
			waiting = text
			p.log.Debug("link cannot be used yet", "interface", p.link, "error", err)
			if !p.d.current.IsValid() {
				p.tell(netip.Addr{}, text)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// work advertises and discovers on a wire until it fails or ctx ends.
func (p *port) work(ctx context.Context, w wire) error {
	packets, failed := make(chan packet), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			pkt, err := w.receive()
			if err != nil {
				failed <- err
				return
			}
			select {
			case packets <- pkt:
			case <-ctx.Done():
				return
			}
		}
	})
	defer reader.Wait()
	defer w.close()
	defer cancel()

	p.d.begin(time.Now())
	advertise, look := time.NewTimer(0), time.NewTimer(0)
	defer advertise.Stop()
	defer look.Stop()
	var due time.Time // of the next advertisement
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-p.poke:
			due = time.Now()
			advertise.Reset(0)
		case <-advertise.C:
			if err := p.send(w, sent); err != nil {
				return err
			}
			sent++
			wait := p.interval()
			due = time.Now().Add(wait)
			advertise.Reset(wait)
		case <-look.C:
		case pkt := <-packets:
			if pkt.kind != routerSolicitation {
				p.hear(pkt)
			} else if delay := rand.N(maxReplyDelay); time.Until(due) > delay {
				due = time.Now().Add(delay)
				advertise.Reset(delay)
			}
		}
		if err := p.look(w, look); err != nil {
			return err
		}
	}
}

// hear takes a sign of life. Of neighbours only those that are known as routers matter.
func (p *port) hear(pkt packet) {
	switch pkt.kind {
	case routerAdvertisement:
		p.d.heard(pkt.from, advertisement, time.Now())
	case echoReply:
		p.d.heard(pkt.from, answer, time.Now())
	case neighborAdvertisement:
		if p.d.routers[pkt.from] != nil {
			p.d.heard(pkt.from, answer, time.Now())
		}
	}
}

func (p *port) interval() time.Duration {
	if p.established() {
		return minInterval + rand.N(maxInterval-minInterval)
	}
	return downInterval
}

// send advertises us, and asks for routers as long as none is known, and more seldom while one does not come up.
func (p *port) send(w wire, sent int) error {
	if w.stale() {
		return errStale
	}
	if err := w.advertise(); err != nil {
		return err
	}
	if !p.d.current.IsValid() || !p.established() && sent%solicitEvery == 0 {
		return w.solicit()
	}
	return nil
}

// look steps the discovery and tells what it found.
func (p *port) look(w wire, again *time.Timer) error {
	now := time.Now()
	probe, next := p.d.step(now)
	for _, a := range probe {
		if err := w.probe(a); err != nil {
			return err
		}
	}
	again.Stop()
	if next > 0 {
		again.Reset(next)
	}
	p.tell(p.d.result(now))
	return nil
}
