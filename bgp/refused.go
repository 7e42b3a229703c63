package bgp

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"sync"
)

// Reason says why a prefix that a peer announces is kept out.
type Reason string

// The reasons. The names are those of the metric's label.
const (
	OwnSpace  Reason = "own_space"  // it equals, lies inside or covers HostPolicy.OwnSpace: somebody else uses it
	NotListed Reason = "not_listed" // no ImportRule has it
	NextHop   Reason = "next_hop"   // not to be forwarded to, see Peer.Subnets
	Loop      Reason = "as_loop"    // our own AS number is in its path (RFC 4271 section 9.1.2)
)

// Refusal is a prefix that a peer announces and that is kept out.
type Refusal struct {
	Prefix netip.Prefix
	Reason Reason
	Detail string       // more about the reason, for a reader; may be empty
	Own    netip.Prefix // of OwnSpace: what of it is meant, the longest if the prefix covers several
	Origin uint32       // of OwnSpace: the AS number at the end of the path; 0: not known
}

// RefusedCount counts, by reason, the prefixes of one family that a peer announces and the import policy keeps out. It
// follows within some seconds; what is NotListed of a peer with many thousands, within a minute.
type RefusedCount struct{ OwnSpace, NotListed, NextHop, Loop uint64 }

// RefusedBy yields the reasons for which prefixes are kept out, those without a usable next hop included, and how many.
func (f FamilyStatus) RefusedBy() iter.Seq2[Reason, uint64] {
	return func(yield func(Reason, uint64) bool) {
		for _, c := range []struct {
			reason Reason
			n      uint64
		}{{OwnSpace, f.Refused.OwnSpace}, {NotListed, f.Refused.NotListed}, {NextHop, f.Unusable + f.Refused.NextHop}, {Loop, f.Refused.Loop}} {
			if c.n > 0 && !yield(c.reason, c.n) {
				return
			}
		}
	}
}

// maxRefusals is how many refused prefixes are told of, a peer and reason.
const maxRefusals = 16

// refuses tells why the policy keeps a learned prefix out, as hostImport has GoBGP do it; "" if it does not.
func (p HostPolicy) refuses(pfx netip.Prefix) (Reason, netip.Prefix) {
	var touched netip.Prefix
	for _, o := range p.OwnSpace {
		// The default route covers everything, and is a matter of the list.
		if pfx.Bits() > 0 && o.Overlaps(pfx) && (!touched.IsValid() || o.Bits() > touched.Bits()) {
			touched = o
		}
	}
	if touched.IsValid() {
		return OwnSpace, touched
	}
	for _, r := range p.Import {
		lo, hi := r.lengths()
		if pfx.Bits() >= lo && pfx.Bits() <= hi && r.Prefix.Contains(pfx.Addr()) {
			return "", netip.Prefix{}
		}
	}
	return NotListed, netip.Prefix{}
}

// sample keeps the first few of many refusals, in the order of their prefixes, so that the same ones are told of again.
type sample []Refusal

func (s sample) add(r Refusal) sample {
	at, same := slices.BinarySearchFunc(s, r, func(a, b Refusal) int { return a.Prefix.Compare(b.Prefix) })
	switch {
	case same || at == maxRefusals:
		return s
	case len(s) == maxRefusals:
		s = s[:maxRefusals-1]
	}
	return slices.Insert(s, at, r)
}

// refused is what was found refused of one peer and family.
type refused struct {
	count   RefusedCount
	samples map[Reason]sample
}

func (r *refused) add(one Refusal) {
	if r.samples == nil {
		r.samples = map[Reason]sample{}
	}
	r.samples[one.Reason] = r.samples[one.Reason].add(one)
}

// refusals has what was found refused, by peer without zone.
type refusals struct {
	mu    sync.Mutex // guards what follows
	found map[tallyKey]refused
}

func newRefusals() *refusals { return &refusals{found: map[tallyKey]refused{}} }

// set replaces what is known of a peer and family, and returns what was known.
func (r *refusals) set(k tallyKey, now refused) (before refused) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before = r.found[k]
	if now.count == (RefusedCount{}) {
		delete(r.found, k)
	} else {
		r.found[k] = now
	}
	return before
}

// missing returns what of the first sample the second does not have.
func missing(of, in sample) []Refusal {
	var out []Refusal
	for _, a := range of {
		if !slices.ContainsFunc(in, func(b Refusal) bool { return a.Prefix == b.Prefix }) {
			out = append(out, a)
		}
	}
	return out
}

// of returns what is known of a peer and family.
func (r *refusals) of(k tallyKey) refused {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found[k]
}

// known lists the peers and families something is known of.
func (r *refusals) known() []tallyKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]tallyKey, 0, len(r.found))
	for k := range r.found {
		out = append(out, k)
	}
	return out
}

// fill sets what is refused of each peer: own space first, then by prefix.
func (r *refusals) fill(peers []PeerStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range peers {
		p := &peers[i]
		for j := range p.Families {
			f := &p.Families[j]
			now := r.found[tallyKey{p.Address.WithZone(""), f.Family}]
			f.Refused = now.count
			for _, s := range now.samples {
				p.Refused = append(p.Refused, s...)
			}
		}
		slices.SortFunc(p.Refused, func(a, b Refusal) int {
			return cmp.Or(-compareBool(a.Reason == OwnSpace, b.Reason == OwnSpace), a.Prefix.Compare(b.Prefix))
		})
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
