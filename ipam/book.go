package ipam

import (
	"cmp"
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
	given      []Block  // as the caller has them
	blocks     []*block // the same, sorted by address
	pools      map[string]*pool
	inUse      []InUse // sorted
	left       []leave // what has left inUse, longest ago first
	strays     queue   // freed addresses that no block may hand out; their slots can be taken
	vacant     []int32 // slots without an address
	quarantine int64
	picks      [families]pick // memory for choose
	lost       int            // slots that cannot be believed, while containers may use their addresses
}

func newBook(quarantine time.Duration) *book {
	return &book{
		byAddr: make(map[netip.Addr]int32), held: make(map[Key]*holding),
		strays: emptyQueue, quarantine: max(0, int64(quarantine)),
	}
}

// family is an index into a pool's stocks.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

var familyName = [families]string{"IPv4", "IPv6"}

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
	if r.block == nil || r.block.Draining || r.block.closed.contains(r.addr) {
		return &b.strays
	}
	return &r.block.home.freed
}

func (b *book) blockOf(addr netip.Addr) *block {
	i := sort.Search(len(b.blocks), func(i int) bool { return addr.Less(b.blocks[i].Prefix.Addr()) }) - 1
	if i >= 0 && b.blocks[i].Prefix.Contains(addr) {
		return b.blocks[i]
	}
	return nil
}

// setBlocks replaces the blocks.
func (b *book) setBlocks(blocks []Block) {
	b.given = blocks
	b.arrange()
}

// arrange puts every address into its block and its queue anew.
func (b *book) arrange() {
	b.blocks, b.pools, b.strays = nil, make(map[string]*pool), emptyQueue
	inUse := b.usedRanges()
	for _, given := range b.given {
		blk := newBlock(given, inUse)
		for _, l := range b.left {
			blk.lend(l.spans, l.at)
		}
		b.blocks = append(b.blocks, blk)
		p := b.pools[blk.Pool]
		if p == nil {
			p = newPool(blk.Pool)
			b.pools[blk.Pool] = p
		}
		p.stocks[family(blk.Prefix.Addr())].add(blk)
	}
	slices.SortFunc(b.blocks, func(x, y *block) int { return comparePrefix(x.Prefix, y.Prefix) })

	var waiting []int32
	for i := range b.records {
		r := &b.records[i]
		if r.block = b.blockOf(r.addr); r.block != nil {
			r.block.known++
			if r.state == leased {
				r.block.leased++
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
