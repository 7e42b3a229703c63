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

// TestScenes plays the table of events under 1,000 packets a second each way: with routers that only help hosts to restart, which
// is FRR's default, without and with BFD; and with routers that restart gracefully themselves.
func TestScenes(t *testing.T) {
	upgrade, cleanup, err := binaries.Build(t.Context(), "hostfabric", "next")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cleanup)
	hosts := []scenes.Scene{
		scenes.AgentEnds(syscall.SIGKILL), scenes.AgentEnds(syscall.SIGTERM), scenes.SpeakerKilled(), scenes.BothKilled(), scenes.Upgrade(), scenes.Reload(),
	}
	bfd := []scenes.Scene{
		scenes.AgentEnds(syscall.SIGKILL), scenes.SpeakerKilled(), scenes.BothKilled(), scenes.Upgrade(), scenes.LinkDown(), scenes.RouterSilent(),
	}
	routers := []scenes.Scene{scenes.LinkDown(), scenes.RouterRestarts()}
	for _, stage := range []struct {
		name   string
		shape  fabric.Shape
		scenes []scenes.Scene
	}{
		{"frr", fabric.Shape{Tor: tor.FRR}, hosts},
		{"bird", fabric.Shape{Tor: tor.BIRD}, hosts},
		{"frr bfd", fabric.Shape{Tor: tor.FRR, BFD: true}, bfd},
		{"bird bfd on", fabric.Shape{Tor: tor.BIRD, BFD: true}, bfd},
		{"bird bfd graceful", fabric.Shape{Tor: tor.BIRD, BFD: true, BFDGraceful: true}, bfd},
		{"frr graceful", fabric.Shape{Tor: tor.FRR, Graceful: true}, routers},
		{"bird graceful", fabric.Shape{Tor: tor.BIRD, Graceful: true}, routers},
	} {
		t.Run(strings.ReplaceAll(stage.name, " ", "-"), func(t *testing.T) {
			stage.shape.Name = "sc" + string(stage.shape.Tor)
			s := set(t, scenes.Options{Shape: stage.shape, Upgrade: upgrade})
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
