// Package names has short-lived containers of one host looked up from another, right after they have come and right after they have
// gone.
package names

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/resolve"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// Zone is the zone of the names in a lab: the agent's default.
const Zone = "fabric.internal"

// FQDN is the whole name of a container.
func FQDN(name, host string) string { return name + "." + host + "." + Zone }

// Options say who lives where, and who asks.
type Options struct {
	Lab      *fabric.Lab
	Hosts    *workload.Hosts
	Of       fabric.Host           // whose containers live
	From     fabric.Host           // where is asked
	Lives    int                   // how many containers come and go, each within a second
	Standing string                // a name with an answer, asked for before each of them comes; empty: none
	Answer   string                // the one that it has
	Workers  int                   // at a time
	Progress func(done, total int) // may be nil
}

// Report is what came of it.
type Report struct {
	Lives, Queries int
	Long           int // containers that lived for longer than a second, and are not counted: the machine had something else to do
	Took           time.Duration
	First          []time.Duration // from asking to the answer, of the first query after each attach
	Before         []time.Duration // the same of the standing name
	Wrong          []string        // answers that were not true, the first few
	WrongCount     int
}

const (
	short          = time.Second
	boxesPerWorker = 16 // namespaces that a worker's containers take turns in: the links of those before have gone meanwhile
	namesPerWorker = 4  // that they take turns in having
	wrongShown     = 10
)

// firstBox is the first container number of the namespaces that Live makes: above every planned one's, and of the form that removing
// the lab finds.
const firstBox = 80001

// life is what the workers have in common.
type life struct {
	o      Options
	client apiv1.HostfabricClient

	mu     sync.Mutex // guards what follows
	next   int        // of the next container
	left   int        // how many are still to live
	report Report
}

// Live runs containers, each of which is looked up, by name and by address, when its attach has returned and when its detach has.
func Live(ctx context.Context, o Options) (Report, error) {
	client, err := o.Hosts.Client(o.Of.Name)
	if err != nil {
		return Report{}, err
	}
	l := &life{o: o, client: client, left: o.Lives}
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for w := range o.Workers {
		g.Go(func() error { return l.work(ctx, w) })
	}
	err = g.Wait()
	l.report.Took = time.Since(began)
	return l.report, err
}

// take is the number of the next container, or that there is none.
func (l *life) take() (k int, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return 0, false
	}
	l.left--
	l.next++
	if l.o.Progress != nil {
		l.o.Progress(l.o.Lives-l.left, l.o.Lives)
	}
	return l.next, true
}

func (l *life) work(ctx context.Context, worker int) (err error) {
	boxes := make([]netns.NS, 0, boxesPerWorker)
	defer func() {
		for _, ns := range boxes {
			err = errors.Join(err, ns.Delete())
		}
	}()
	for i := range boxesPerWorker {
		ns, err := netns.Create(fmt.Sprintf("%s-%s-c%d", l.o.Lab.Plan.Name, l.o.Of.Name, firstBox+worker*boxesPerWorker+i))
		if err != nil {
			return err
		}
		boxes = append(boxes, ns)
	}
	asker, err := resolve.Dial(l.o.From.NS, l.o.From.Blocks[0].Addr())
	if err != nil {
		return err
	}
	defer asker.Close()
	for i := 0; ; i++ {
		k, more := l.take()
		if !more {
			return nil
		}
		c := container{
			id: fmt.Sprintf("%s-%d", l.o.Of.Name, k), name: fmt.Sprintf("job-%d-%d", worker, i%namesPerWorker), netns: boxes[i%len(boxes)].Path(),
		}
		if err := l.live(ctx, asker, c); err != nil {
			return err
		}
	}
}

// container is one of those that live.
type container struct{ id, name, netns string }

func (l *life) live(ctx context.Context, asker *resolve.Client, c container) error {
	var before asked
	if l.o.Standing != "" {
		before = ask(asker, "all along", []question{{l.o.Standing, "A", l.o.Answer}})
	}
	born := time.Now()
	resp, err := l.client.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.id, Interface: "eth0", Netns: c.netns, Name: c.name})
	if err != nil {
		return fmt.Errorf("attach %s: %w", c.id, err)
	}
	addrs := resp.GetEndpoint().GetAddresses()
	name := FQDN(c.name, l.o.Of.Name)
	seen := ask(asker, "after its attach", questions(name, addrs, true))
	if _, err := l.client.Detach(ctx, &apiv1.DetachRequest{ContainerId: c.id, Interface: "eth0"}); err != nil {
		return fmt.Errorf("detach %s: %w", c.id, err)
	}
	lived := time.Since(born)
	gone := ask(asker, "after its detach", questions(name, addrs, false))
	return l.note(lived, before, seen, gone)
}

func (l *life) note(lived time.Duration, before, seen, gone asked) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.First = append(r.First, seen.first)
	if before.asked > 0 {
		r.Before = append(r.Before, before.first)
	}
	for _, a := range []asked{before, seen, gone} {
		r.Queries += a.asked
		r.WrongCount += len(a.wrong)
		r.Wrong = append(r.Wrong, a.wrong[:min(len(a.wrong), wrongShown-len(r.Wrong))]...)
	}
	if lived < short {
		r.Lives++
		return nil
	}
	r.Long++
	l.left++
	if r.Long > l.o.Lives/10 {
		return fmt.Errorf("%d containers have lived for longer than %s: this machine is too slow, or too busy", r.Long, short)
	}
	return nil
}

// question is one with its only right answer.
type question struct{ name, kind, answer string }

// questions are those about a container while it lives, or when it is gone.
func questions(name string, addrs []string, lives bool) []question {
	byKind := map[string][]string{}
	var all []question
	for _, a := range addrs {
		kind := "A"
		if strings.Contains(a, ":") {
			kind = "AAAA"
		}
		byKind[kind] = append(byKind[kind], a)
		all = append(all, question{a, "PTR", "NOERROR " + name + "."})
	}
	for _, kind := range []string{"A", "AAAA"} {
		slices.Sort(byKind[kind])
		all = append([]question{{name, kind, strings.TrimSpace("NOERROR " + strings.Join(byKind[kind], " "))}}, all...)
	}
	if !lives {
		for i := range all {
			all[i].answer = "NXDOMAIN"
		}
	}
	return all
}

// asked is what came of some questions.
type asked struct {
	asked int
	first time.Duration // that the first answer took
	wrong []string
}

func ask(c *resolve.Client, when string, questions []question) (a asked) {
	for i, q := range questions {
		answer, err := c.Ask(q.name, q.kind)
		if i == 0 {
			a.first = answer.Took
		}
		a.asked++
		got := answer.String()
		if err != nil {
			got = err.Error()
		}
		if got != q.answer {
			a.wrong = append(a.wrong, fmt.Sprintf("%s %s %s: %s after %s, want %s", q.name, q.kind, when, got, answer.Took, q.answer))
		}
	}
	return a
}
