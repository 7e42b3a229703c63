package workload

import "sync"

// counter returns a function that counts one more as done and reports it, safe for concurrent use.
func counter(total int, progress func(done, total int)) func() {
	var mu sync.Mutex
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		if progress != nil {
			progress(done, total)
		}
	}
}
