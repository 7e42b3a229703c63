package scenes_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/scenes"
	"github.com/hostfabric/hostfabric/lab/tor"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// set builds a stage that goes with the test.
func set(t *testing.T, o scenes.Options) *scenes.Stage {
	t.Helper()
	nstest.RequireRoot(t)
	o.Dir = filepath.Join(fabric.DefaultDir, "s") // short: unix sockets live below it
	o.Agent, o.Lab = programs.agent, programs.lab
	s, err := scenes.Set(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestScenes plays the table of events under 1,000 packets a second each way, on two stages a router: one whose routers only
// help hosts to restart, FRR's default, and one whose routers restart gracefully too.
func TestScenes(t *testing.T) {
	upgrade, cleanup, err := binaries.Build(t.Context(), "hostfabric", "next")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cleanup)
	helper := []scenes.Scene{
		scenes.AgentEnds(syscall.SIGKILL), scenes.AgentEnds(syscall.SIGTERM), scenes.SpeakerKilled(), scenes.BothKilled(), scenes.Upgrade(),
		scenes.LinkDown(), scenes.RouterSilent(),
	}
	graceful := []scenes.Scene{scenes.RouterRestarts()}
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		for _, stage := range []struct {
			name     string
			graceful bool
			scenes   []scenes.Scene
		}{{"helper", false, helper}, {"graceful", true, graceful}} {
			t.Run(string(kind)+"/"+stage.name, func(t *testing.T) {
				s := set(t, scenes.Options{Shape: fabric.Shape{Name: "sc" + string(kind), Tor: kind, Graceful: stage.graceful}, Upgrade: upgrade})
				for _, sc := range stage.scenes {
					t.Run(strings.ReplaceAll(sc.Name, " ", "-"), func(t *testing.T) {
						report, err := s.Play(t.Context(), sc)
						t.Log(report)
						if err != nil {
							t.Fatal(err)
						}
						if err := sc.Judge(report, s.Lab.Plan.BFD); err != nil {
							t.Error(err)
						}
					})
				}
			})
		}
	}
}

// TestUplinkGetsItsAddressLate takes the IPv6 addresses of the uplinks away while an agent starts: the status says that
// the IPv6 block reaches nobody, and it is announced once they are back.
func TestUplinkGetsItsAddressLate(t *testing.T) {
	s := set(t, scenes.Options{Shape: fabric.Shape{Name: "scv6", Tor: tor.FRR, IPv6: true}})
	block := s.Victim.Blocks[1]
	addresses := func(verb string) {
		for _, l := range s.Victim.Links {
			if out, err := s.Victim.NS.Output(t.Context(), "ip", "address", verb, l.Addr6.String(), "dev", l.Name, "nodad"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	present := func() bool {
		for _, router := range s.Lab.Plan.Racks[0].ToRs {
			have, err := s.Lab.Tor(router.Name).KernelPrefixes(t.Context(), block)
			if err != nil || !slices.Contains(have, block) {
				return false
			}
		}
		return true
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		if err := s.Await(t.Context(), what, ok); err != nil {
			t.Fatal(err)
		}
	}
	addresses("del")
	if err := s.EndAgent(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgent(); err != nil {
		t.Fatal(err)
	}
	await("the status says that the IPv6 block reaches nobody", func() bool {
		return strings.Contains(strings.Join(s.Status(t.Context(), s.Victim).GetProblems(), "\n"), block.String()+" is announced to no peer")
	})
	addresses("add")
	await("the IPv6 block is in the ToRs' kernels", present)
	await("nothing is wrong", func() bool { st := s.Status(t.Context(), s.Victim); return st != nil && len(st.GetProblems()) == 0 })
}
