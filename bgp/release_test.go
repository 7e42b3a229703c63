package bgp_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// TestRelease: a peer that is held down for what an earlier agent knew comes back when it is released, and stays so for the next
// agent.
func TestRelease(t *testing.T) {
	t.Parallel()
	host, _, conf, _ := pair(t, func(_, _ *bgp.Peer) {})
	host.established(t, "10.0.1.0")
	host.stop()
	host.blame = filepath.Join(t.TempDir(), "blame.json")
	now := time.Now()
	record := fmt.Sprintf(`{"crashes":3,"last":%q,"peers":{"10.0.1.0":{"deaths":3,"level":3,"last":%q,"until":%q}}}`,
		now.Format(time.RFC3339Nano), now.Format(time.RFC3339Nano), now.Add(10*time.Minute).Format(time.RFC3339Nano))
	if err := os.WriteFile(host.blame, []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	conf.Peers = append(conf.Peers, bgp.Peer{Address: addr("10.0.9.9"), ASN: 65009}) // a host is not left without a peer
	host.connect(t)
	host.configure(t, conf, "10.64.1.0/26")
	held := func(p bgp.PeerStatus) error {
		if p.State != bgp.StateHeld {
			return fmt.Errorf("not held: %+v", p)
		}
		return nil
	}
	eventually(t, 5*time.Second, func() error { return held(host.peer(t, "10.0.1.0")) })
	if err := host.Reset(t.Context(), addr("10.0.1.0"), ""); err != nil {
		t.Fatal(err)
	}
	if err := held(host.peer(t, "10.0.1.0")); err != nil {
		t.Error(err)
	}
	for _, other := range []string{"10.0.9.9", "10.0.1.0", "10.0.1.0"} {
		if err := host.Release(addr(other)); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.Release(addr("10.0.7.7")); !errors.Is(err, bgp.ErrNoPeer) {
		t.Errorf("release of a stranger: %v", err)
	}
	host.established(t, "10.0.1.0")
	host.stop()
	host.connect(t)
	host.configure(t, conf, "10.64.1.0/26")
	host.established(t, "10.0.1.0")
}
