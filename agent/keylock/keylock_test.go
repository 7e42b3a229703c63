package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestKeyLocks(t *testing.T) {
	var l Locks[string]
	const a, b = "a", "b"
	unlock, err := l.Lock(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Lock(t.Context(), b) // waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	other()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Lock(cancelled, a); !errors.Is(err, context.Canceled) {
		t.Errorf("a held key: %v", err)
	}
	unlock()

	inside, total := 0, 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := l.Lock(t.Context(), a)
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if inside++; inside != 1 {
				t.Error("two holders")
			}
			total++
			inside--
		})
	}
	wg.Wait()
	if total != 50 || len(l.held) != 0 {
		t.Errorf("%d holders, %d keys left", total, len(l.held))
	}
}
