package ipam

// Orphans finds leases that have outlived their containers. Two looks in a row must agree: at one moment a container
// may not be there yet, or be on its way out. The zero value is ready. It is for one goroutine.
type Orphans struct {
	suspects map[Key]struct{} // held without life at the last look
}

// Look takes the keys that hold leases, and returns those seen without life at this look and the one before. They are
// returned at each look until they are released. Whoever allocates again between two looks is for alive to know.
func (o *Orphans) Look(held []Key, alive func(Key) bool) (dead []Key) {
	suspects := make(map[Key]struct{})
	for _, key := range held {
		if alive(key) {
			continue
		}
		if _, again := o.suspects[key]; again {
			dead = append(dead, key)
		}
		suspects[key] = struct{}{}
	}
	o.suspects = suspects
	return dead
}
