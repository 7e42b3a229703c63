// Package keylock serialises work on one key while different keys go side by side.
package keylock

import (
	"context"
	"sync"
)

// Locks holds only keys in use. The zero value is ready.
type Locks[K comparable] struct {
	mu   sync.Mutex // guards held
	held map[K]*lock
}

type lock struct {
	token chan struct{} // capacity 1: full while locked
	users int           // holder and waiters; the entry goes with the last of them
}

// Lock waits for the key or for ctx. unlock must be called unless there is an error.
func (l *Locks[K]) Lock(ctx context.Context, key K) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[K]*lock)
	}
	e := l.held[key]
	if e == nil {
		e = &lock{token: make(chan struct{}, 1)}
		l.held[key] = e
	}
	e.users++
	l.mu.Unlock()

	select {
	case e.token <- struct{}{}:
		return func() { <-e.token; l.leave(key, e) }, nil
	case <-ctx.Done():
		l.leave(key, e)
		return nil, ctx.Err()
	}
}

func (l *Locks[K]) leave(key K, e *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.held, key)
	}
}
