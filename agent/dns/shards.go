package dns

import (
	"hash/maphash"
	"sync"
)

// shards is a map for many readers and writers at once. Each key is under the lock of its shard, which is held for as long as one access to
// one key takes.
type shards[K comparable, V any] struct {
	seed maphash.Seed
	all  [64]shard[K, V]
}

type shard[K comparable, V any] struct {
	sync.RWMutex
	of map[K]V
}

func newShards[K comparable, V any]() *shards[K, V] {
	s := &shards[K, V]{seed: maphash.MakeSeed()}
	for i := range s.all {
		s.all[i].of = make(map[K]V)
	}
	return s
}

func (s *shards[K, V]) shard(key K) *shard[K, V] {
	return &s.all[maphash.Comparable(s.seed, key)%uint64(len(s.all))]
}

// view calls look with what is under key. It must not keep it.
func (s *shards[K, V]) view(key K, look func(V)) (found bool) {
	sh := s.shard(key)
	sh.RLock()
	defer sh.RUnlock()
	v, found := sh.of[key]
	if found {
		look(v)
	}
	return found
}

// update has change make what is under key from what was, which is zero if there was nothing; nothing is there afterwards unless keep.
func (s *shards[K, V]) update(key K, change func(V) (v V, keep bool)) {
	sh := s.shard(key)
	sh.Lock()
	defer sh.Unlock()
	if v, keep := change(sh.of[key]); keep {
		sh.of[key] = v
	} else {
		delete(sh.of, key)
	}
}
