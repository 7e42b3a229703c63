package ipam

import (
	"fmt"
	"net/netip"
)

// restorer rebuilds a book from the slots of a lease file. What the file leaves in doubt is never decided in favour
// of handing an address out.
type restorer struct {
	generation uint64 // of this boot
	sameBoot   bool   // the file was last written in this boot, so containers may live
	start      int64  // Unix nanoseconds of the book's zero

	entries []entry        // by slot
	reasons map[int]string // why slots cannot be believed

	changed    []int32 // slots that the file has to be told about
	kept       []Key   // allocations of which only a part could be read
	rolledBack int     // leases of allocations cut short: never acknowledged, or already being released
	foreign    int     // leases of an earlier boot
}

// slot takes the next slot of the file.
func (r *restorer) slot(buf *slotBuf) {
	e, err := decode(buf)
	r.entries = append(r.entries, e)
	switch {
	case err != nil:
		r.distrust(len(r.entries)-1, err.Error())
	case e.state == fenced:
		r.distrust(len(r.entries)-1, "contradicted others when the file was opened before")
	}
}

func (r *restorer) distrust(i int, reason string) {
	if r.reasons == nil {
		r.reasons = make(map[int]string)
	}
	r.reasons[i] = reason
}

// finish fills the book once every slot is in.
func (r *restorer) finish(b *book) []Damaged {
	r.trim()
	r.distrustContradictions()
	r.settleAllocations()

	b.records = make([]record, len(r.entries))
	var damaged []Damaged
	for i := range r.entries {
		b.records[i].next, b.records[i].prev = none, none
		if reason, bad := r.reasons[i]; bad {
			damaged = append(damaged, Damaged{Slot: i, Addr: r.entries[i].addr, Reason: reason})
			continue
		}
		r.restore(b, int32(i))
	}
	for _, d := range damaged {
		r.fence(b, d)
	}
	b.setBlocks(nil)
	return damaged
}

// trim cuts off the slots never used. As slots are taken in order, zeroes before the last used one are a loss.
func (r *restorer) trim() {
	n := len(r.entries)
	for n > 0 && r.entries[n-1].state == empty && r.reasons[n-1] == "" {
		n--
	}
	r.entries = r.entries[:n]
	for i := range r.entries {
		if r.entries[i].state == empty && r.reasons[i] == "" {
			r.distrust(i, "overwritten with zeroes")
		}
	}
}

// distrustContradictions finds readable slots that cannot all be true.
func (r *restorer) distrustContradictions() {
	byAddr := make(map[netip.Addr]int, len(r.entries))
	for i := range r.entries {
		e := &r.entries[i]
		if r.reasons[i] != "" || e.state == vacant {
			continue
		}
		if e.generation > r.generation {
			r.distrust(i, "written in a boot yet to come")
			continue
		}
		if other, twice := byAddr[e.addr]; twice {
			r.distrust(i, fmt.Sprintf("slot %d has the same address", other))
			r.distrust(other, fmt.Sprintf("slot %d has the same address", i))
			continue
		}
		byAddr[e.addr] = i
	}
}

// settleAllocations looks at the leases of each key together.
func (r *restorer) settleAllocations() {
	groups := make(map[Key][]int)
	for i := range r.entries {
		e := &r.entries[i]
		if r.reasons[i] != "" || e.state != leased {
			continue
		}
		if e.generation != r.generation || !r.sameBoot {
			r.foreign++
			r.drop(i)
			continue
		}
		groups[e.key] = append(groups[e.key], i)
	}
	for _, group := range groups {
		if !r.consistent(group) {
			for _, i := range group {
				r.distrust(i, "its key holds more than one allocation")
			}
		}
	}
	for key, group := range groups {
		e := &r.entries[group[0]]
		switch {
		case r.reasons[group[0]] != "" || len(group) == int(e.members):
		case len(r.reasons) > 0:
			// The rest may be in a damaged slot, and the container may live.
			r.kept = append(r.kept, key)
		default:
			r.rolledBack += len(group)
			for _, i := range group {
				r.drop(i)
			}
		}
	}
}

// consistent says whether leases of one key can be of one allocation.
func (r *restorer) consistent(group []int) bool {
	first := &r.entries[group[0]]
	if len(group) > int(first.members) {
		return false
	}
	for _, i := range group[1:] {
		e := &r.entries[i]
		if e.members != first.members || e.allocated != first.allocated || family(e.addr) == family(first.addr) {
			return false
		}
	}
	return true
}

// drop turns a lease into an address freed now.
func (r *restorer) drop(i int) {
	r.entries[i] = entry{state: freed, addr: r.entries[i].addr, generation: r.generation, released: r.start}
	r.changed = append(r.changed, int32(i))
}

func (r *restorer) restore(b *book, i int32) {
	e, rec := &r.entries[i], &b.records[i]
	rec.state, rec.addr = e.state, e.addr
	switch e.state {
	case vacant:
		b.vacant = append(b.vacant, i)
		return
	case freed:
		// A clock set back meanwhile must not make the address rest for longer than the quarantine.
		rec.freed = min(e.released-r.start, 0)
	case leased:
		h := b.held[e.key]
		if h == nil {
			h = &holding{key: e.key, members: e.members, allocated: e.allocated}
			b.held[e.key] = h
		}
		b.bind(h, i)
	}
	b.byAddr[e.addr] = i
}

// fence keeps the address of a damaged slot from being handed out, unless a sound slot has it. After a reboot there
// is nobody to protect, and the slot is put to use again.
func (r *restorer) fence(b *book, d Damaged) {
	rec := &b.records[d.Slot]
	if !r.sameBoot {
		rec.state = vacant
		b.vacant = append(b.vacant, int32(d.Slot))
		r.changed = append(r.changed, int32(d.Slot))
		return
	}
	b.lost++
	rec.state = fenced
	if _, taken := b.byAddr[d.Addr]; d.Addr.IsValid() && !taken {
		rec.addr = d.Addr
		b.byAddr[d.Addr] = int32(d.Slot)
	}
	if e := &r.entries[d.Slot]; e.state != empty && e.state != fenced {
		r.changed = append(r.changed, int32(d.Slot)) // it can be read, so the file has to say that it must not be
	}
}
