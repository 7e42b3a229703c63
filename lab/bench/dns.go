package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// dnsAnswers counts the answers that the agent of a host with many endpoints gives in a second beside CoreDNS with the same names, and times
// them at a rate that both keep up with. Each server has a core to itself, the same one in turns, and the generator another.
func dnsAnswers(ctx context.Context, o Options) (_ []Result, err error) {
	if o.Rounds < 1 {
		return nil, fmt.Errorf("%d rounds: want at least 1", o.Rounds)
	}
	race := &dnsRace{o: o, close: func() error { return nil }}
	if race.generating, race.serving, err = twoCores(); err != nil {
		return nil, err
	}
	if race.dir, err = os.MkdirTemp("", "hfbench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(race.dir)) }()
	if o.Agent, err = race.pinned(o.Agent); err != nil {
		return nil, err
	}
	var results []Result
	err = inShape(ctx, o, fabric.Shape{Hosts: 1, Containers: o.Endpoints, IPv6: true}, func(lab *fabric.Lab, w *workload.Hosts) (err error) {
		race.host = lab.Plan.AllHosts()[0]
		if err := race.attach(ctx, w); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, race.close()) }()
		if race.ours.pid, err = lab.AgentPID(race.host.Name); err != nil {
			return err
		}
		if err := race.enter(ctx); err != nil {
			return err
		}
		if err := race.run(ctx); err != nil {
			return err
		}
		results, err = race.results()
		return err
	})
	return results, err
}

// dnsRace is everybody who takes part.
type dnsRace struct {
	o                   Options
	generating, serving int // cores
	dir                 string
	host                fabric.Host
	names               []named
	queries             string // file
	ours                dnsServer
	coreDNS             *dnsServer   // nil: we race alone
	close               func() error // ends what enter has started
}

// twoCores picks two of the processors that we may use.
func twoCores() (first, second int, err error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return 0, 0, fmt.Errorf("processors: %w", err)
	}
	var cores []int
	for core := range 64 * len(allowed) {
		if allowed.IsSet(core) {
			cores = append(cores, core)
		}
	}
	if len(cores) < 2 {
		return 0, 0, errors.New("generator and server need a processor each, and there is one")
	}
	return cores[0], cores[1], nil
}

// pinned is a program that runs another on the servers' core from its start, for that is when Go programs count their processors.
func (r *dnsRace) pinned(program string) (string, error) {
	path := filepath.Join(r.dir, "pinned-"+filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexec taskset -c %d '%s' \"$@\"\n", r.serving, program)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// attach attaches the host's containers by name.
func (r *dnsRace) attach(ctx context.Context, w *workload.Hosts) error {
	client, err := w.Client(r.host.Name)
	if err != nil {
		return err
	}
	r.names = make([]named, len(r.host.Containers))
	var g errgroup.Group
	g.SetLimit(parallelCallers)
	for i, c := range r.host.Containers {
		g.Go(func() error {
			resp, err := client.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.Name, Interface: containerLink, Netns: c.NS.Path(), Name: c.Name})
			if err != nil {
				return err
			}
			r.names[i].name = fmt.Sprintf("%s.%s.%s.", c.Name, r.host.Name, zone)
			for _, text := range resp.GetEndpoint().GetAddresses() {
				r.names[i].addresses = append(r.names[i].addresses, netip.MustParseAddr(text))
			}
			return nil
		})
	}
	return g.Wait()
}

// zone is the agent's default.
const zone = "fabric.internal"

// The agent answers on port 53 of the host's address, and CoreDNS beside it.
const dnsPort, coreDNSPort = 53, 5300

func (r *dnsRace) enter(ctx context.Context) error {
	addr := r.host.Blocks[0].Addr()
	r.ours.name, r.ours.at = "the agent", netip.AddrPortFrom(addr, dnsPort)
	r.queries = filepath.Join(r.dir, "queries")
	if err := writeQueries(r.queries, r.names); err != nil {
		return err
	}
	if r.o.CoreDNS != "" {
		version, err := moduleVersion(r.o.CoreDNS)
		if err != nil {
			return err
		}
		r.coreDNS = &dnsServer{name: "CoreDNS " + version + ", plugin hosts", at: netip.AddrPortFrom(addr, coreDNSPort)}
		if r.close, err = r.startCoreDNS(ctx); err != nil {
			return err
		}
	}
	if err := await(ctx, "the agent answers", soon, func() (bool, error) { return r.ours.verify(ctx, r.host.NS, r.names[:1]) == nil, nil }); err != nil {
		return err
	}
	for _, s := range r.all() {
		if err := s.verify(ctx, r.host.NS, r.names); err != nil {
			return err
		}
	}
	return nil
}

func (r *dnsRace) all() []*dnsServer {
	if r.coreDNS == nil {
		return []*dnsServer{&r.ours}
	}
	return []*dnsServer{&r.ours, r.coreDNS}
}

// steadyRate is of the queries that are timed one by one, far from what either server can do.
const steadyRate = 5000

func (r *dnsRace) run(ctx context.Context) error {
	servers := r.all()
	for i := range r.o.Rounds {
		for range servers {
			s := servers[0]
			servers = append(servers[1:], s)
			if err := r.turn(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		slices.Reverse(servers) // whose turn is first changes
		r.o.step("rounds of DNS queries")(i+1, r.o.Rounds)
	}
	return nil
}

func (r *dnsRace) turn(ctx context.Context, s *dnsServer) error {
	before, err := cpuTime(s.pid)
	if err != nil {
		return err
	}
	full, err := r.generate(ctx, s.at)
	if err != nil {
		return err
	}
	after, err := cpuTime(s.pid)
	if err != nil {
		return err
	}
	steady, err := r.generate(ctx, s.at, "-Q", fmt.Sprint(steadyRate), "-v")
	if err != nil {
		return err
	}
	s.rates = append(s.rates, full.rate)
	s.cpu = append(s.cpu, milliseconds(after-before)*1000/float64(full.answers.sent-full.answers.lost))
	s.took = append(s.took, steady.took...)
	s.answers.add(full.answers)
	s.answers.add(steady.answers)
	return nil
}

func (r *dnsRace) results() ([]Result, error) {
	where, err := machine(r.dir)
	if err != nil {
		return nil, err
	}
	conditions := fmt.Sprintf("%d names, A and AAAA in random order, by UDP on the loopback; dnsperf on one core, the server on another; %d rounds of %s in turns; %s",
		len(r.names), r.o.Rounds, r.o.Turn, where)
	for _, s := range r.all() {
		conditions += fmt.Sprintf("; %s: %s", s.name, s.answers)
	}
	rate := Result{Name: "dns.answers", Unit: "answers/s", Value: quantile(r.ours.rates, 0.5), Target: "ratio >= 1", Conditions: "median; " + conditions}
	cpu := Result{
		Name: "dns.answers.cpu", Unit: "us", Value: quantile(r.ours.cpu, 0.5), Target: "ratio <= 1",
		Conditions: "processor time of the whole server an answer, its kernel's included, median; " + conditions,
	}
	latency := medianOf(Result{
		Name: "dns.answers.latency", Unit: "ms", Target: "ratio <= 1", Conditions: fmt.Sprintf("p50 at %d queries/s; %s", steadyRate, conditions),
	}, r.ours.took)
	if theirs := r.coreDNS; theirs != nil {
		rate = rate.against(theirs.name, quantile(theirs.rates, 0.5))
		cpu = cpu.against(theirs.name, quantile(theirs.cpu, 0.5))
		latency = latency.against(fmt.Sprintf("%s, p50 (p99 %.3g)", theirs.name, quantile(theirs.took, 0.99)), quantile(theirs.took, 0.5))
	}
	return []Result{rate, cpu, latency}, nil
}
