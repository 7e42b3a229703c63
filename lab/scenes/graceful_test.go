package scenes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/scenes"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestDeadRouterThatSaidItRestarts: routers whose routes are kept while they restart are out of use as soon as their link or BFD
// says that they are dead, for all that they have promised: without that their routes would be kept for a minute and more.
func TestDeadRouterThatSaidItRestarts(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			s := set(t, scenes.Options{Shape: fabric.Shape{Name: "llgr" + string(kind), Tor: kind, Graceful: true, BFD: true}})
			for _, sc := range []scenes.Scene{scenes.LinkDown(), scenes.RouterSilent()} {
				sc.Outage = time.Second // TestScenes has the real bounds
				t.Run(strings.ReplaceAll(sc.Name, " ", "-"), func(t *testing.T) {
					report, err := s.Play(t.Context(), sc)
					t.Log(report)
					if err != nil {
						t.Fatal(err)
					}
					if err := sc.Judge(report, true); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}
