package unnumbered

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
)

// recall reads which router each interface had when an earlier agent looked. Whoever forgets them has their sessions end, which
// the speaker kept up meanwhile.
func recall(file string) (map[string]netip.Addr, error) {
	out := map[string]netip.Addr{}
	if file == "" {
		return out, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return map[string]netip.Addr{}, fmt.Errorf("routers on the interfaces not remembered: %w", err)
	}
	maps.DeleteFunc(out, func(_ string, a netip.Addr) bool { return !a.Is6() || !a.IsLinkLocalUnicast() || a.Zone() != "" })
	return out, nil
}

// keep writes which router each interface has. Caller holds mu.
func (w *Watch) keep() error {
	if w.opts.File == "" {
		return nil
	}
	known := map[string]netip.Addr{}
	for link, r := range w.router {
		if r.Addr.IsValid() {
			known[link] = r.Addr.WithZone("")
		}
	}
	b, err := json.Marshal(known)
	if err != nil {
		return err
	}
	next := w.opts.File + ".new"
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, w.opts.File)
}

// remember takes a router for the one of the link until another is heard.
func (d *discovery) remember(a netip.Addr) {
	d.current = a
	d.routers[a] = &router{}
}
