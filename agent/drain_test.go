package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/routes"
)

// inBubble runs a test on an agent whose time is its own. again starts the next run of it, after stop.
func inBubble(t *testing.T, test func(t *testing.T, r *rig, again func() *rig)) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "leases")
		wirer := &fakeWirer{rates: map[string]uint64{}, sent: map[string]uint64{}}
		again := func() *rig { return newRig(t, file, wirer, "10.64.0.0/26") }
		r := again()
		synctest.Wait()
		r.story(t, "announce [10.64.0.0/26]")
		test(t, r, again)
	})
}

// story wants just this to have been done at the speaker since the last time.
func (r *rig) story(t *testing.T, want ...string) {
	t.Helper()
	if got := r.speaker.story(); !slices.Equal(got, want) {
		t.Errorf("done at the speaker\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// drain drains and returns what the caller saw on the way, and how long it took.
func (r *rig) drain(t *testing.T, req agent.DrainRequest) (agent.DrainStatus, []string, time.Duration) {
	t.Helper()
	var steps []string
	began := time.Now()
	end, err := r.Drain(t.Context(), req, func(s agent.DrainStatus) {
		if text := fmt.Sprintf("%s: %s", s.Stage, s.Step); !slices.Contains(steps, text) {
			steps = append(steps, text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return end, steps, time.Since(began)
}

func (w *fakeWirer) rate(link string, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rates[link] = n
}

var (
	leaving  = []string{`sessions 1 ""`, `sessions 2 ""`, `sessions 3 ""`}
	leaves   = []string{"announce []", `on drain true "memory"`, `sessions 3 "memory"`}
	drained  = slices.Concat(leaving, leaves)
	comeBack = []string{`on drain false ""`, `sessions 0 ""`, "announce [10.64.0.0/26]"}
)

func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		a, b := r.attach(t, "a"), r.attach(t, "b")
		r.wirer.rate(a.HostInterface, 1000)
		r.wirer.rate(b.HostInterface, 3) // it says something now and then
		go func() {
			<-time.After(20 * time.Second)
			r.wirer.rate(a.HostInterface, 0)
		}()
		end, steps, took := r.drain(t, agent.DrainRequest{Reason: "memory", Deadline: time.Minute})
		if took < 20*time.Second || took > 26*time.Second {
			t.Errorf("it took %s, with traffic for 20 s", took)
		}
		if end.Stage != agent.Drained || end.Traffic.Busy != 0 || end.Traffic.Endpoints != 2 {
			t.Errorf("at the end: %+v", end)
		}
		// Steps that take no time may pass unseen.
		if !slices.Contains(steps, "draining: waiting for traffic to leave") {
			t.Errorf("steps %q", steps)
		}
		r.story(t, drained...)

		if _, err := r.Attach(t.Context(), request("c")); !errors.Is(err, agent.ErrDraining) || !strings.Contains(err.Error(), "drained since") || !strings.Contains(err.Error(), "(memory); hostfabric undrain") {
			t.Errorf("attach to a drained host: %v", err)
		}
		if err := r.Ready(t.Context()); !errors.Is(err, agent.ErrDraining) {
			t.Errorf("ready: %v", err)
		}
		if ep, err := r.Attach(t.Context(), request("b")); err != nil || !slices.Equal(ep.Addresses, b.Addresses) {
			t.Errorf("attach again of what is attached: %v, %v", ep, err)
		}
		if found, err := r.Detach(t.Context(), agent.Key{ContainerID: "a", Interface: "eth0"}); err != nil || !found {
			t.Errorf("detach: %v, %v", found, err)
		}
		if got := r.table.prefixes(routes.Blocks); !slices.Equal(got, []string{"10.64.0.0/26"}) {
			t.Errorf("discard routes of a drained host: %v", got)
		}
		if got := r.table.prefixes(routes.Endpoints); len(got) != 1 {
			t.Errorf("host routes of a drained host: %v", got)
		}
		s := r.Status(t.Context())
		if len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "host is drained since ") || !strings.HasSuffix(s.Problems[0], ": memory (hostfabric undrain)") {
			t.Errorf("problems %q", s.Problems)
		}

		end, err := r.Undrain(t.Context(), nil)
		if err != nil || end.Stage != agent.Serving {
			t.Errorf("undrain: %+v, %v", end, err)
		}
		r.story(t, comeBack...)
		r.attach(t, "c")
		if s := r.Status(t.Context()); len(s.Problems) > 0 {
			t.Errorf("problems %q", s.Problems)
		}
		if end, err := r.Undrain(t.Context(), nil); err != nil || end.Stage != agent.Serving {
			t.Errorf("undrain of a host that serves: %+v, %v", end, err)
		}
		r.story(t)
	})
}

func TestDrainDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		a := r.attach(t, "a")
		r.wirer.rate(a.HostInterface, 1000)
		end, _, took := r.drain(t, agent.DrainRequest{Reason: "memory", Deadline: 10 * time.Second})
		if took < 10*time.Second || took > 12*time.Second || end.Traffic.Busy != 1 || end.Traffic.Rate != 1000 {
			t.Errorf("after %s: %+v", took, end)
		}
		r.story(t, drained...)
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		r.story(t, comeBack...)
		if end, _, took = r.drain(t, agent.DrainRequest{Reason: "memory"}); took > 2*time.Second || end.Traffic.Endpoints != 1 {
			t.Errorf("without a wait, after %s: %+v", took, end)
		}
	})
}

func TestDrainWithoutEndpoints(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		if _, _, took := r.drain(t, agent.DrainRequest{Deadline: time.Hour}); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		r.story(t, append(leaving, "announce []", `on drain true "host drained"`, `sessions 3 "host drained"`)...)
	})
}

// TestDrainLastsOverRestarts stops the agent in the middle of a drain, and again when it is over.
func TestDrainLastsOverRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, again func() *rig) {
		a := r.attach(t, "a")
		r.wirer.rate(a.HostInterface, 1000)
		ended := make(chan error, 1)
		go func() {
			_, err := r.Drain(context.Background(), agent.DrainRequest{Reason: "memory", Deadline: 30 * time.Second}, nil)
			ended <- err
		}()
		<-time.After(10 * time.Second)
		r.story(t, leaving...)
		r.stop()
		if err := <-ended; !errors.Is(err, agent.ErrNotReady) {
			t.Errorf("who follows a drain is told %v", err)
		}
		r = again()
		<-time.After(15 * time.Second)
		r.story(t, "announce [10.64.0.0/26]") // the sessions are so from the start
		if s := r.DrainStatus(); s.Stage != agent.Draining || s.Traffic.Busy != 1 {
			t.Errorf("25 s of 30 s later: %+v", s)
		}
		<-time.After(10 * time.Second)
		r.story(t, leaves...)
		since := r.DrainStatus().Since

		r.stop()
		r = again()
		<-time.After(time.Second)
		r.story(t, leaves...)
		if s := r.DrainStatus(); s.Stage != agent.Drained || s.Reason != "memory" || !s.Since.Equal(since) {
			t.Errorf("after a restart: %+v", s)
		}
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		r.stop()
		r = again()
		<-time.After(time.Second)
		r.story(t, "announce [10.64.0.0/26]")
	})
}

func TestSecondDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		a := r.attach(t, "a")
		r.wirer.rate(a.HostInterface, 1000)
		first := make(chan agent.DrainStatus, 1)
		go func() {
			end, err := r.Drain(t.Context(), agent.DrainRequest{Reason: "disk", Deadline: time.Hour}, nil)
			if err != nil {
				t.Error(err)
			}
			first <- end
		}()
		<-time.After(10 * time.Second)
		second, _, _ := r.drain(t, agent.DrainRequest{Reason: "memory", Deadline: 5 * time.Second})
		if end := <-first; end.Stage != agent.Drained || end.Reason != "memory" || second.Reason != "memory" {
			t.Errorf("first %+v, second %+v", end, second)
		}
		r.story(t, drained...)
		// And of a host that is drained.
		if end, _, took := r.drain(t, agent.DrainRequest{Reason: "fan", Deadline: time.Hour}); took > 2*time.Second || end.Reason != "fan" || end.Since != second.Since {
			t.Errorf("after %s: %+v", took, end)
		}
		r.story(t, `on drain true "fan"`, `sessions 3 "fan"`)
	})
}

func TestUndrainInTheMiddle(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		a := r.attach(t, "a")
		r.wirer.rate(a.HostInterface, 1000)
		ended := make(chan error, 1)
		go func() {
			_, err := r.Drain(t.Context(), agent.DrainRequest{Deadline: time.Hour}, nil)
			ended <- err
		}()
		<-time.After(10 * time.Second)
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, agent.ErrOvertaken) {
			t.Errorf("the drain: %v", err)
		}
		r.story(t, append(leaving, `on drain false ""`, `sessions 2 ""`, `sessions 1 ""`, `sessions 0 ""`)...)
		r.attach(t, "b")
	})
}

// TestUndrainOfAStuckDrain: the sessions may be going down, or not.
func TestUndrainOfAStuckDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		r.speaker.set(func() { r.speaker.stuck = true })
		ended := make(chan error, 1)
		go func() {
			_, err := r.Drain(t.Context(), agent.DrainRequest{Reason: "memory"}, nil)
			ended <- err
		}()
		<-time.After(10 * time.Second)
		r.story(t, drained...)
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, agent.ErrOvertaken) {
			t.Errorf("the drain: %v", err)
		}
		r.story(t, comeBack...)
	})
}

// TestUndrainDoesNotWaitForEver: with routers that do not come back, containers of this host can live all the same.
func TestUndrainDoesNotWaitForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		r.drain(t, agent.DrainRequest{})
		r.speaker.set(func() { r.speaker.late = true })
		began := time.Now()
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		r.attach(t, "a")
	})
}

// TestDrainTriesAgain: a speaker that refuses is said, and asked again.
func TestDrainTriesAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		r.speaker.set(func() { r.speaker.refuse = errors.New("table is full") })
		go func() {
			<-time.After(time.Minute)
			r.speaker.set(func() { r.speaker.refuse = nil })
		}()
		said := false
		if _, err := r.Drain(t.Context(), agent.DrainRequest{}, func(s agent.DrainStatus) {
			said = said || s.Err != nil && strings.Contains(s.Err.Error(), "the speaker does not follow")
		}); err != nil || !said {
			t.Errorf("said %v, %v", said, err)
		}
	})
}

func TestDrainRequests(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	for want, req := range map[string]agent.DrainRequest{
		"at most 255":            {Reason: strings.Repeat("x", 256)},
		"must be UTF-8":          {Reason: "\xff"},
		"control characters":     {Reason: "a\nb"},
		"deadline -1s: want":     {Deadline: -time.Second},
		"deadline 25h0m0s: want": {Deadline: 25 * time.Hour},
	} {
		if _, err := r.Drain(t.Context(), req, nil); !errors.Is(err, agent.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if s := r.DrainStatus(); s.Stage != agent.Serving {
		t.Errorf("refused requests leave %+v", s)
	}
}

func TestDrainRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "drain.json")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{"version":1,"stage":"drained","reason":"r"}`:                                                   "drained r",
		`{"version":1,"stage":"drained","reason":"r","until":"an earlier boot"}`:                         "",
		`{"version":1,"stage":"drained","reason":"r","until":"` + strings.TrimSpace(string(boot)) + `"}`: "drained r",
		`{"version":1,"stage":"draining","reason":"r","deadline":"2026-01-02T03:04:05Z"}`:                "draining r",
		`{"version":2,"stage":"drained"}`:                                                                "error",
		`{"version":1,"stage":"gone"}`:                                                                   "error",
		`{`:                                                                                              "error",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := agent.LoadDrain(file)
		got := strings.TrimSpace(string(r.Stage) + " " + r.Reason)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, %v, want %q", text, got, err, want)
		}
	}
	if r, err := agent.LoadDrain(file + ".none"); err != nil || r != (agent.DrainRecord{}) {
		t.Errorf("without a file: %+v, %v", r, err)
	}
}

// TestDrainAfterAReload gives ToRs the time that the configuration says now.
func TestDrainAfterAReload(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		r.settle.Store(int64(7 * time.Second))
		if _, _, took := r.drain(t, agent.DrainRequest{}); took < 21*time.Second {
			t.Errorf("three steps of 7 s took %s", took)
		}
	})
}
