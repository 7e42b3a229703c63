package routes

import "slices"

// Failures returns what Status does, but only the routes of one owner that the kernel has refused. It costs next to nothing
// while there are none.
func (t *Table) Failures(of Owner) []Status {
	i := index(of)
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Status
	for key := range t.failed {
		if r, first, ok := t.winner(key); ok && first == i && t.entries[key].state == Failed {
			all = append(all, t.status(i, r))
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return compareKeys(a.Route.Key(), b.Route.Key()) })
	return all
}
