package history

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// End is how an episode ended.
type End string

// The ends there are.
const (
	Lives    End = ""         // it has not, as far as the ledger goes
	Detached End = "detached" // as asked for, or because its link was gone
	Released End = "released" // its addresses went back without a detach: it was never attached, or that is lost
	Refused  End = "refused"  // it could not be attached
	Replaced End = "replaced" // somebody else has the address, or the container another attachment: the end itself is not in the ledger
	Rebooted End = "rebooted" // no container outlives the host's boot
)

// Episode is one attachment of a container's interface, as it was at the time that was asked for, or at its end. What the ledger does
// not know is zero.
type Episode struct {
	Container string
	Interface string
	Owner     string
	Addresses []netip.Addr
	Pool      string
	Name      string
	Aliases   []string
	Labels    map[string]string

	Leased time.Time // when it got its addresses
	From   time.Time // when it was attached; zero: before the ledger begins, or never, see End
	To     time.Time // when it ended; of Rebooted and Replaced, at the latest
	End    End
	Error  string // of Refused

	first   uint64 // number of its first event
	lost    bool   // its beginning should be in the ledger, and is not
	renamed bool   // it was described anew after the time that was asked for
}

// start is when the addresses began to be its own.
func (e *Episode) start() time.Time {
	if e.Leased.IsZero() {
		return e.From
	}
	return e.Leased
}

// covers tells whether it was there at a time, in a ledger that begins at another. What the ledger only has the end of was there when it
// began.
func (e *Episode) covers(at, begin time.Time) bool {
	from := e.start()
	if from.IsZero() {
		from = begin
	}
	return !e.lost && !at.Before(from) && (e.End == Lives || at.Before(e.To))
}

func (e *Episode) has(a netip.Addr) bool {
	return slices.ContainsFunc(e.Addresses, func(b netip.Addr) bool { return b.Unmap() == a.Unmap() })
}

// note takes over what an event says of an episode and nothing has said yet.
func (e *Episode) note(ev *Entry) {
	if e.Owner == "" {
		e.Owner = ev.Owner
	}
	if e.Pool == "" {
		e.Pool = ev.Pool
	}
	if len(e.Addresses) == 0 {
		e.Addresses = ev.Addresses
	}
	if e.Name == "" && len(e.Aliases) == 0 && len(e.Labels) == 0 && !e.renamed {
		e.describe(ev)
	}
}

func (e *Episode) describe(ev *Entry) { e.Name, e.Aliases, e.Labels = ev.Name, ev.Aliases, ev.Labels }

// boundary is where events of another boot begin.
type boundary struct {
	number uint64
	time   time.Time
}

// holder is whom an episode is of.
type holder struct{ container, iface string }

func holderOf(e *Entry) holder { return holder{e.Container, e.Interface} }

// pairing makes episodes of events in their order.
type pairing struct {
	at      time.Time // what an episode is like is what it was like then; zero: at its end
	reboots []boundary
	open    map[holder]*Episode
	last    map[holder]*Episode // that ended
	done    []*Episode
}

func newPairing(at time.Time, reboots []boundary) *pairing {
	return &pairing{at: at, reboots: reboots, open: make(map[holder]*Episode), last: make(map[holder]*Episode)}
}

func (p *pairing) add(e Entry) {
	p.cross(e.Number)
	key := holderOf(&e)
	if e.Container == "" {
		return
	}
	now := p.open[key]
	switch e.Kind {
	case Allocate:
		p.end(key, Replaced, e.Time)
		now = p.begin(key, &e)
		now.Leased = e.Time
		now.note(&e)
	case Attach:
		if now == nil || !now.From.IsZero() || now.Leased.IsZero() {
			p.end(key, Replaced, e.Time)
			now = p.begin(key, &e)
		}
		now.From = e.Time
		now.note(&e)
		now.describe(&e)
	case Describe:
		if now == nil {
			now = p.begin(key, &e)
		}
		if p.at.IsZero() || !e.Time.After(p.at) {
			now.describe(&e)
		} else {
			now.renamed = true
		}
		now.note(&e)
	case Detach:
		if last := p.last[key]; now == nil && (last == nil || last.End != Rebooted) {
			now = p.begin(key, &e)
			now.lost = last != nil
		}
		if now != nil {
			now.note(&e)
			p.end(key, Detached, e.Time)
		}
	case Release:
		if now != nil { // without one, the rest of a detach
			now.note(&e)
			p.end(key, Released, e.Time)
		}
	case Refuse:
		p.refused(key, &e)
	}
}

// refused ends what was not attached yet. By then its addresses may have gone back.
func (p *pairing) refused(key holder, e *Entry) {
	now, last := p.open[key], p.last[key]
	switch {
	case now != nil && now.From.IsZero() && !now.Leased.IsZero():
		now.note(e)
		now.Error = e.Error
		p.end(key, Refused, e.Time)
	case now == nil && last != nil && last.End == Released && last.From.IsZero():
		last.note(e)
		last.End, last.Error = Refused, e.Error
	}
}

func (p *pairing) begin(key holder, e *Entry) *Episode {
	one := &Episode{Container: e.Container, Interface: e.Interface, first: e.Number}
	p.open[key] = one
	return one
}

func (p *pairing) end(key holder, how End, at time.Time) {
	if one := p.open[key]; one != nil {
		one.End, one.To = how, at
		p.done = append(p.done, one)
		p.last[key] = one
		delete(p.open, key)
	}
}

// cross ends what boots before that of an event did.
func (p *pairing) cross(number uint64) {
	for len(p.reboots) > 0 && number >= p.reboots[0].number {
		for key, one := range p.open {
			if one.first < p.reboots[0].number {
				p.end(key, Rebooted, p.reboots[0].time)
			}
		}
		p.reboots = p.reboots[1:]
	}
}

// episodes are all of them, by their beginning.
func (p *pairing) episodes() []*Episode {
	p.cross(^uint64(0))
	all := p.done
	for _, one := range p.open {
		all = append(all, one)
	}
	slices.SortFunc(all, func(x, y *Episode) int { return cmp.Compare(x.first, y.first) })
	return all
}
