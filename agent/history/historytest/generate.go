// Package historytest makes the events of a busy host, for tests and benchmarks of the ledger.
package historytest

import (
	"container/heap"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
)

// Options say what kind of host it is.
type Options struct {
	Seed       uint64
	Start      time.Time
	Containers int           // at a time; 0 takes 200
	Life       time.Duration // of one, on average; 0 takes 5 s
	// Pods have every container be one of Kubernetes: a name with random digits, and a UID, among its labels. Else there are as many names
	// as containers at a time, which are used again.
	Pods bool
}

// Host makes the events of containers that come and go. Each is allocated, attached, detached and released; its ID is new, its addresses,
// name and labels have been others' before.
type Host struct {
	opts   Options
	rng    *rand.Rand
	random *rand.ChaCha8
	due    queue
	free   []uint8 // last bytes of addresses, longest free first
	n      int
}

// step is the next thing that happens to a container.
type step struct {
	at   time.Time
	n    int // order of making, for those of one time
	kind history.Kind
	who  *container
}

type container struct {
	history.Event
	slot int
	host uint8
}

type queue []step

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(step)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// New makes a host whose containers are all about to start.
func New(o Options) *Host {
	if o.Containers == 0 {
		o.Containers = 200
	}
	if o.Life == 0 {
		o.Life = 5 * time.Second
	}
	if o.Start.IsZero() {
		o.Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	}
	var seed [32]byte
	for i := range 8 {
		seed[i] = byte(o.Seed >> (8 * i))
	}
	h := &Host{opts: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), random: rand.NewChaCha8(seed)}
	for i := 1; i < 255; i++ {
		h.free = append(h.free, uint8(i))
	}
	for slot := range o.Containers {
		h.push(o.Start.Add(time.Duration(h.rng.Int64N(int64(o.Life)))), history.Allocate, h.container(slot))
	}
	return h
}

func (h *Host) push(at time.Time, kind history.Kind, who *container) {
	h.n++
	heap.Push(&h.due, step{at, h.n, kind, who})
}

var services = []string{"cart", "search", "resize", "thumbnail", "invoice", "mailer", "ranking", "session", "export", "webhook"}

// container is the next one in a slot.
func (h *Host) container(slot int) *container {
	service := services[slot%len(services)]
	version := 40 + slot%3
	c := &container{slot: slot, Event: history.Event{
		Container: h.hex(32), Interface: "eth0", Owner: "cni/pods", Pool: "default", Name: fmt.Sprintf("%s-%d", service, slot),
	}}
	if h.opts.Pods {
		c.Name = fmt.Sprintf("%s-%08x-%s", service, 0x6f8b1c00+slot%30, h.suffix())
	}
	c.Labels = map[string]string{
		"io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": c.Name,
		"image": fmt.Sprintf("registry.example.net/shop/%s:1.%d.0", service, version),
	}
	if h.opts.Pods {
		u := h.hex(16)
		c.Labels["io.kubernetes.pod.uid"] = u[:8] + "-" + u[8:12] + "-" + u[12:16] + "-" + u[16:20] + "-" + u[20:]
	}
	return c
}

func (h *Host) hex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = h.random.Read(b) // never fails
	return hex.EncodeToString(b)
}

// suffix is what Kubernetes makes names unique by.
func (h *Host) suffix() string {
	const digits = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, 5)
	for i := range b {
		b[i] = digits[h.rng.IntN(len(digits))]
	}
	return string(b)
}

// between is a random time, most often near the least.
func (h *Host) between(least, mean time.Duration) time.Duration {
	return least + time.Duration(h.rng.ExpFloat64()*float64(mean-least))
}

// Next is the next event.
func (h *Host) Next() history.Event {
	s := heap.Pop(&h.due).(step)
	c := s.who
	e := c.Event
	e.Time, e.Kind = s.at, s.kind
	switch s.kind {
	case history.Allocate:
		c.host, h.free = h.free[0], h.free[1:]
		c.Addresses = []netip.Addr{
			netip.AddrFrom4([4]byte{10, 64, 0, c.host}),
			netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x64, 0, 0, 0, 1, 15: c.host}),
		}
		e = history.Event{Container: c.Container, Interface: c.Interface, Addresses: c.Addresses, Pool: c.Pool, Time: s.at, Kind: s.kind}
		h.push(s.at.Add(h.between(600*time.Microsecond, 1500*time.Microsecond)), history.Attach, c)
	case history.Attach:
		e.Duration = h.between(800*time.Microsecond, 1700*time.Microsecond)
		h.push(s.at.Add(h.between(h.opts.Life/2, h.opts.Life)), history.Detach, c)
	case history.Detach:
		e.Duration = h.between(300*time.Microsecond, 700*time.Microsecond)
		h.push(s.at.Add(h.between(5*time.Millisecond, 30*time.Millisecond)), history.Release, c)
	case history.Release:
		e = history.Event{Container: c.Container, Interface: c.Interface, Addresses: c.Addresses, Time: s.at, Kind: s.kind}
		h.free = append(h.free, c.host)
		h.push(s.at.Add(h.between(time.Millisecond, 40*time.Millisecond)), history.Allocate, h.container(c.slot))
	}
	return e
}
