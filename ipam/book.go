package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// families is the number of address families, and so of the leases an allocation can have.
const families = 2

// none stands for "no slot" where a slot number is expected.
const none = -1

// record is what the book knows of a slot, and so of the address that took it. There is one for every address ever
// used, so it is kept small.
type record struct {
	addr       netip.Addr
	block      *block   // nil outside every current block
	held       *holding // nil unless leased
	freed      int64    // when, on the book's clock; meaningless while leased
	next, prev int32    // neighbours in a queue
	state      state
}

// holding is a key's allocation.
type holding struct {
	key       Key
	slots     [families]int32
	n         int   // slots that are set
	members   uint8 // leases it was made with; more than n if a slot was damaged
	allocated int64 // Unix nanoseconds
}

func (h *holding) all() []int32 { return h.slots[:h.n] }

// book is the allocator's memory: which address is in which slot, who holds it, which one is next. It knows neither
// file nor clock, and its caller locks. Times are nanoseconds on a clock that never steps back.
type book struct {
	records    []record // by slot number
	byAddr     map[netip.Addr]int32
	held       map[Key]*holding
	pools      [families]pool
	blocks     []*block // sorted by address
	strays     queue    // freed addresses that no block may hand out; their slots can be taken
	vacant     []int32  // slots without an address
	quarantine int64
	picks      [families]pick // memory for choose
	lost       int            // slots that cannot be believed, while containers may use their addresses
}

func newBook(quarantine time.Duration) *book {
	return &book{
		byAddr: make(map[netip.Addr]int32), held: make(map[Key]*holding),
		strays: emptyQueue, pools: [families]pool{{freed: emptyQueue}, {freed: emptyQueue}}, quarantine: max(0, int64(quarantine)),
	}
}

// family is an index into pools.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

var familyName = [families]string{"IPv4", "IPv6"}

// pick is an address that can be leased.
type pick struct {
	addr  netip.Addr
	block *block
	slot  int32 // none if the address has none yet
	freed int64 // when it was last freed; for one never used, long enough ago
}

// newSlots counts the picks that need one.
func newSlots(picks []pick) int {
	n := 0
	for _, pk := range picks {
		if pk.slot == none {
			n++
		}
	}
	return n
}

// choose finds an address for each family with blocks, and for each that is wanted; one never used, unless it is
// wanted, only if fresh says so. It changes nothing that shows, and the next call overwrites what it returned.
func (b *book) choose(wanted [families]netip.Addr, now int64, fresh bool) ([]pick, error) {
	picks := b.picks[:0]
	for f := range b.pools {
		p := &b.pools[f]
		var pk pick
		var err error
		switch {
		case wanted[f].IsValid():
			pk, err = b.want(wanted[f], now)
		case len(p.blocks) == 0:
			continue
		default:
			var ok bool
			if pk, ok = b.next(p, now, fresh); !ok {
				err = fmt.Errorf("%w: every %s address of %s is leased or reserved", ErrExhausted, familyName[f], p)
			}
		}
		if err != nil {
			return nil, err
		}
		picks = append(picks, pk)
	}
	if len(picks) == 0 {
		return nil, fmt.Errorf("%w: this host has no blocks", ErrExhausted)
	}
	return picks, nil
}

// want says whether one particular address can be leased.
func (b *book) want(addr netip.Addr, now int64) (pick, error) {
	blk := b.blockOf(addr)
	if blk == nil {
		return pick{}, fmt.Errorf("%w: %s", ErrNotInBlock, addr)
	}
	if blk.reserved[addr] {
		return pick{}, fmt.Errorf("%w: %s is reserved", ErrAddressInUse, addr)
	}
	if blk.doubtful[addr] {
		return pick{}, fmt.Errorf("%w: %s is fenced off, because it may be that of a damaged slot in the lease file", ErrAddressInUse, addr)
	}
	i, known := b.byAddr[addr]
	if !known {
		return pick{addr: addr, block: blk, slot: none, freed: now - b.quarantine}, nil
	}
	switch r := &b.records[i]; r.state {
	case leased:
		return pick{}, fmt.Errorf("%w: %s is held by %s", ErrAddressInUse, addr, r.held.key)
	case fenced:
		return pick{}, fmt.Errorf("%w: %s is fenced off, because its slot in the lease file is damaged", ErrAddressInUse, addr)
	default:
		return pick{addr: addr, block: blk, slot: i, freed: r.freed}, nil
	}
}

// next returns the address of a pool whose turn it is; see "Reuse" in the package comment.
func (b *book) next(p *pool, now int64, fresh bool) (pick, bool) {
	for _, beyond := range []bool{false, true} {
		if fresh {
			if blk, addr := p.fresh(b.byAddr, beyond); blk != nil {
				return pick{addr: addr, block: blk, slot: none, freed: now - b.quarantine}, true
			}
		}
		if i := p.freed.head; i != none && (beyond || now-b.records[i].freed >= b.quarantine) {
			r := &b.records[i]
			return pick{addr: r.addr, block: r.block, slot: i, freed: r.freed}, true
		}
	}
	return pick{}, false
}

// spare returns how many slots up to n can be taken without growing the file.
func (b *book) spare(n, capacity int, now int64) int {
	have := len(b.vacant) + capacity - len(b.records)
	for i := b.strays.head; i != none && have < n && now-b.records[i].freed >= b.quarantine; i = b.records[i].next {
		have++
	}
	return min(have, n)
}

// takeSlot returns a slot for addr. Some must be spare.
func (b *book) takeSlot(pk pick, capacity int) int32 {
	var i int32
	switch {
	case len(b.vacant) > 0:
		i = b.vacant[len(b.vacant)-1]
		b.vacant = b.vacant[:len(b.vacant)-1]
	case len(b.records) < capacity:
		i = int32(len(b.records))
		b.records = append(b.records, record{})
	default:
		i = b.strays.head
		b.remove(&b.strays, i)
		b.forget(i)
	}
	b.records[i] = record{addr: pk.addr, block: pk.block, freed: pk.freed, state: freed, next: none, prev: none}
	b.byAddr[pk.addr] = i
	pk.block.known++
	return i
}

// forget takes the address from a slot.
func (b *book) forget(i int32) {
	if blk := b.records[i].block; blk != nil {
		blk.known--
	}
	delete(b.byAddr, b.records[i].addr)
}

// lease gives the picked addresses to a key.
func (b *book) lease(key Key, picks []pick, capacity int, wall int64) *holding {
	h := &holding{key: key, members: uint8(len(picks)), allocated: wall}
	for _, pk := range picks {
		if pk.slot == none {
			pk.slot = b.takeSlot(pk, capacity)
		} else {
			b.remove(b.queueOf(pk.slot), pk.slot)
		}
		b.bind(h, pk.slot)
	}
	b.held[key] = h
	return h
}

func (b *book) bind(h *holding, i int32) {
	r := &b.records[i]
	r.state, r.held = leased, h
	if r.block != nil {
		r.block.leased++
	}
	h.slots[h.n] = i
	h.n++
	if h.n == families && !b.records[h.slots[0]].addr.Is4() {
		h.slots[0], h.slots[1] = h.slots[1], h.slots[0] // restored the wrong way round
	}
}

// free takes a key's addresses back, each freed at the time that when returns.
func (b *book) free(h *holding, when func(n int) int64) {
	for n, i := range h.all() {
		r := &b.records[i]
		if r.block != nil {
			r.block.leased--
		}
		r.state, r.held, r.freed = freed, nil, when(n)
		b.insert(b.queueOf(i), i)
	}
	delete(b.held, h.key)
}

// queueOf returns the queue in which a freed address waits.
func (b *book) queueOf(i int32) *queue {
	r := &b.records[i]
	if r.block == nil || r.block.reserved[r.addr] {
		return &b.strays
	}
	return &b.pools[family(r.addr)].freed
}

func (b *book) blockOf(addr netip.Addr) *block {
	i := sort.Search(len(b.blocks), func(i int) bool { return addr.Less(b.blocks[i].Prefix.Addr()) }) - 1
	if i >= 0 && b.blocks[i].Prefix.Contains(addr) {
		return b.blocks[i]
	}
	return nil
}

// setBlocks puts every address into its block and its queue anew.
func (b *book) setBlocks(blocks []Block) {
	b.blocks, b.strays = nil, emptyQueue
	for f := range b.pools {
		b.pools[f] = pool{freed: emptyQueue}
	}
	for _, blk := range blocks {
		n := newBlock(blk)
		b.blocks = append(b.blocks, n)
		p := &b.pools[family(n.Prefix.Addr())]
		p.blocks = append(p.blocks, n)
		p.open = append(p.open, n)
	}
	slices.SortFunc(b.blocks, func(x, y *block) int { return comparePrefix(x.Prefix, y.Prefix) })

	var waiting []int32
	for i := range b.records {
		r := &b.records[i]
		if r.block = b.blockOf(r.addr); r.block != nil {
			r.block.known++
			switch r.state {
			case leased:
				r.block.leased++
			case fenced:
				r.block.fenced++
			}
		}
		if r.state == freed {
			waiting = append(waiting, int32(i))
		}
	}
	slices.SortFunc(waiting, func(i, j int32) int {
		x, y := &b.records[i], &b.records[j]
		return cmp.Or(cmp.Compare(x.freed, y.freed), x.addr.Compare(y.addr))
	})
	for _, i := range waiting {
		b.insert(b.queueOf(i), i)
	}
	for _, blk := range b.blocks {
		blk.doubt(b.lost, b.byAddr)
	}
}
