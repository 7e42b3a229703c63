package dns

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/agent"
)

// model is what a zone is to say, the slow way.
type model map[agent.Key]agent.Endpoint

// names are the addresses by name, and those that others end with.
func (m model) names() map[string][]string {
	names := map[string][]string{}
	for _, ep := range m {
		r := recordOf(ep)
		for _, name := range r.names {
			for _, a := range r.addrs {
				names[name] = append(names[name], a.String())
			}
			for parent := range parents(name) {
				names[parent] = append(names[parent], "")
			}
		}
	}
	for name, list := range names {
		slices.Sort(list)
		names[name] = slices.DeleteFunc(slices.Compact(list), func(a string) bool { return a == "" })
	}
	return names
}

func (m model) reverse() map[netip.Addr]string {
	reverse := map[netip.Addr]string{}
	for _, ep := range m {
		for _, a := range ep.Addresses {
			reverse[a] = recordOf(ep).canonical
		}
	}
	return reverse
}

// said is what the zone has under a name.
func (z *Zone) said(name string) (list []string, exists bool) {
	for _, v4 := range []bool{true, false} {
		var addrs []netip.Addr
		addrs, exists = z.Addresses(nil, name, v4)
		for _, a := range addrs {
			list = append(list, a.String())
		}
	}
	slices.Sort(list)
	return list, exists
}

// TestZoneEqualsItsModel has many goroutines publish and retract in a random order; each has its own keys, as the agent has one caller at a time.
func TestZoneEqualsItsModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	z := NewZone()
	var mu sync.Mutex
	all := model{}
	var working sync.WaitGroup
	for worker := range 8 {
		working.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			for range 2000 {
				i := worker*8 + r.IntN(8)
				ep := endpoint(fmt.Sprintf("c%d", i), fmt.Sprintf("10.64.%d.%d fd00:64::%x", r.IntN(2), i, i+1), randomNames(r)...)
				if r.IntN(3) == 0 {
					z.Retract(ep.Key)
					mu.Lock()
					delete(all, ep.Key)
				} else {
					z.Publish(ep)
					mu.Lock()
					all[ep.Key] = ep
				}
				mu.Unlock()
				z.said(slices.Concat(ep.Aliases, []string{"web"})[0])
			}
		})
	}
	working.Wait()
	if z.Endpoints() != len(all) {
		t.Errorf("%d endpoints, want %d", z.Endpoints(), len(all))
	}
	z.compare(t, all)
	for _, key := range slices.Collect(maps.Keys(all)) {
		z.Retract(key)
		delete(all, key)
	}
	z.compare(t, all)
}

// compare also wants nothing to be there that the model does not have.
func (z *Zone) compare(t *testing.T, want model) {
	t.Helper()
	names := want.names()
	for name, list := range names {
		got, exists := z.said(name)
		if !exists || !slices.Equal(got, list) {
			t.Errorf("%s is %v, %v; want %v", name, got, exists, list)
		}
	}
	for name := range z.names.keys() {
		if _, ok := names[name]; !ok {
			t.Errorf("%s is there", name)
		}
	}
	reverse := want.reverse()
	for a, name := range reverse {
		if got, _ := z.Name(a); got != name {
			t.Errorf("%s is called %q, want %q", a, got, name)
		}
	}
	for a := range z.reverse.keys() {
		if _, ok := reverse[a]; !ok {
			t.Errorf("%s is called something", a)
		}
	}
}

func (s *shards[K, V]) keys() map[K]bool {
	all := map[K]bool{}
	for i := range s.all {
		for k := range s.all[i].of {
			all[k] = true
		}
	}
	return all
}

func randomNames(r *rand.Rand) []string {
	some := []string{"web", "WEB", "db", "www.shop", "shop", "a.b.shop", "c1", ""}
	r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:r.IntN(4)]
}

// TestSharedName: each address of a name comes first in its turn; of very many, all come in some answer.
func TestSharedName(t *testing.T) {
	s := newServer(t, nil)
	z := s.opts.Names
	for i := range 3 {
		z.Publish(endpoint(fmt.Sprintf("c%d", i), fmt.Sprintf("10.64.0.%d", 70+i), "web"))
	}
	first := map[string]int{}
	for range 6 {
		r := s.ask(t, question("web.r1h1.fabric.internal.", "A"), aContainer)
		if len(r.Answer) != 3 {
			t.Fatalf("%v", r)
		}
		first[r.Answer[0].String()]++
		s.ask(t, question("web.r1h1.fabric.internal.", "AAAA"), aContainer) // as programs ask for both
	}
	for a, n := range first {
		if n != 2 {
			t.Errorf("%s came first %d times of 6", a, n)
		}
	}
	for i := range 200 {
		z.Publish(endpoint(fmt.Sprintf("c%d", i), fmt.Sprintf("10.64.1.%d", i), "web"))
	}
	seen := map[string]bool{}
	for range 200 {
		r := s.ask(t, question("web.r1h1.fabric.internal.", "A"), aContainer)
		if len(r.Answer) > maxAnswers {
			t.Fatalf("%d addresses in one answer", len(r.Answer))
		}
		for _, rr := range r.Answer {
			seen[rr.String()] = true
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d addresses in 200 answers, want 200", len(seen))
	}
}

// TestUnsynced: until the endpoints of an earlier run are known, nobody is told that a name is not there, nor a name that is not yet complete.
func TestUnsynced(t *testing.T) {
	ready := make(chan struct{})
	s := newServer(t, func(o *Options) { o.Ready = ready })
	s.opts.Names.Publish(endpoint("web", "10.64.0.65"))
	ask := func() string {
		var all []string
		for _, q := range [][2]string{
			{"web.r1h1.fabric.internal.", "A"}, {"gone.r1h1.fabric.internal.", "A"}, {"65.0.64.10.in-addr.arpa.", "PTR"},
			{"66.0.64.10.in-addr.arpa.", "PTR"}, {"r1h1.fabric.internal.", "A"}, {"64.0.64.10.in-addr.arpa.", "PTR"},
		} {
			rcode, _, _ := strings.Cut(told(s.ask(t, question(q[0], q[1]), aContainer)), " ")
			all = append(all, rcode)
		}
		return strings.Join(all, " ")
	}
	if got, want := ask(), "SERVFAIL SERVFAIL SERVFAIL SERVFAIL NOERROR NOERROR"; got != want {
		t.Errorf("before: %s, want %s", got, want)
	}
	close(ready)
	if got, want := ask(), "NOERROR NXDOMAIN NOERROR NXDOMAIN NOERROR NOERROR"; got != want {
		t.Errorf("afterwards: %s, want %s", got, want)
	}
}

// TestQuota: who takes all it can get leaves half, and who has nothing gets something, however many there are.
func TestQuota(t *testing.T) {
	q := newQuota(100)
	takeAll := func(from netip.Addr) (n int) {
		for q.take(from) {
			n++
		}
		return n
	}
	first := addr("10.64.0.1")
	if n := takeAll(first); n != 50 {
		t.Errorf("the first one got %d of 100", n)
	}
	from := first
	for range 5 {
		from = from.Next()
		if n := takeAll(from); n == 0 {
			t.Errorf("%s got nothing", from)
		}
	}
	for range 50 {
		q.give(first)
	}
	if n, held := q.taken(), len(q.held); n != 100-q.free || held != 5 {
		t.Errorf("%d taken by %d, %d free", n, held, q.free)
	}
}

func TestRateLimit(t *testing.T) {
	s := newServer(t, func(o *Options) { o.Rate = 10 })
	s.opts.Names.Publish(endpoint("web", "10.64.0.65"))
	raw, err := question("web.r1h1.fabric.internal.", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	answered := func(from string, n int) (answers int) {
		for range n {
			if s.send(t, raw, from) != nil {
				answers++
			}
		}
		return answers
	}
	for _, c := range []struct {
		who, from string
		least     int
		most      int
	}{
		{"a container", aContainer, 10, 30}, {"another one", "10.64.0.71", 10, 30},
		{"another host", aStranger, 160, 200}, {"the host itself", "10.64.0.64", 400, 400}, {"the host itself", "127.0.0.1", 400, 400},
	} {
		if n := answered(c.from, 400); n < c.least || n > c.most {
			t.Errorf("%s got %d answers of 400, want %d to %d", c.who, n, c.least, c.most)
		}
	}
	if st := s.Stats(); st.Limited == 0 || st.Answers[Outcome{Own, "NOERROR"}]+st.Limited != 2000 {
		t.Errorf("%+v", st)
	}
	s.Set(settings())
	if n := answered(aContainer, 100); n != 100 {
		t.Errorf("without a bound %d of 100 are answered", n)
	}
}

// TestBusy: a container that has as many queries under way as it may is told so at once, and others are not.
func TestBusy(t *testing.T) {
	mute := newResolver(t, "127.0.0.1", freePort(t), func(*dns.Msg, bool) *dns.Msg { return nil })
	s := newForwarding(t, mute.at)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	var answers sync.Map
	send := func(i int, from string) {
		raw, err := question(fmt.Sprintf("n%d.example.com.", i), "A").Pack()
		if err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(addr(from), 4711)
		s.datagram(ctx, raw, at, addr("10.64.0.64"), make([]byte, udpSize), &tasks, func([]byte) { answers.Store(at.String()+fmt.Sprint(i), true) })
	}
	for i := range maxWaiting {
		send(i, aContainer)
	}
	st := s.Stats()
	if st.Waiting != maxWaiting/2 || st.Busy != maxWaiting/2 {
		t.Errorf("%d wait, %d were refused", st.Waiting, st.Busy)
	}
	for i := range 100 {
		send(i, "10.64.0.71")
	}
	if got := s.Stats().Waiting - st.Waiting; got != 100 {
		t.Errorf("of another container %d of 100 wait", got)
	}
	cancel()
	tasks.Wait()
	if n := s.Stats().Waiting; n != 0 {
		t.Errorf("%d wait when all is over", n)
	}
}
