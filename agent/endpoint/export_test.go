package endpoint

import "net/netip"

// Forget and Flush are parts of the reaper's round.
func (w *Wirer) Forget(addrs []netip.Addr)      { w.forget(addrs) }
func (w *Wirer) Flush(addrs []netip.Addr) error { return w.flush(addrs) }
