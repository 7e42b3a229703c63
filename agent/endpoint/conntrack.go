package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// An address outlives its containers, and so do the kernel's records of their connections, up to five days for TCP.
// One left behind would rewrite the next container's packets, or let in what a firewall took for an answer. So they go
// before the address is given again.

// trackedCount has the number of connections tracked in the calling thread's network namespace. Without conntrack in
// the kernel it is not there, and to ask by netlink could load the module.
const trackedCount = sysctlDir + "netfilter/nf_conntrack_count"

// tracking reports whether the calling thread's network namespace has a connection on record.
func tracking() (bool, error) {
	n, err := os.ReadFile(trackedCount)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return string(n) != "0\n", err
}

// tracks is tracking for the host's namespace. What cannot be read is taken for a yes.
func (w *Wirer) tracks() bool {
	yes := true
	err := rtnl.Within(int(w.home.Fd()), func() (err error) {
		yes, err = tracking()
		return err
	})
	return yes || err != nil
}

// forget has the kernel forget the connections of the addresses. It tells of each kind of failure once: an address must
// not be lost for it, and it would come again with every container.
func (w *Wirer) forget(addrs []netip.Addr) {
	err := w.flush(addrs)
	if err == nil {
		return
	}
	var kind unix.Errno
	errors.As(err, &kind) // else 0, which stands for all others
	if !w.unforgotten[kind] {
		w.unforgotten[kind] = true
		w.log.Warn("connections of retired addresses stay on record; further failures of this kind are not logged", "error", err)
	}
}

// flush removes the records of connections that have one of the addresses at either end, before or after translation.
// One listing serves them all, at some 11 ms for the 262,144 buckets of a large host and 2 us a record. Linux 6.11 and
// later can remove by a filter too, but look at every record four times an address for that.
func (w *Wirer) flush(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	var conn *rtnl.Conn
	err := rtnl.Within(int(w.home.Fd()), func() error {
		yes, err := tracking()
		if yes && err == nil {
			conn, err = rtnl.OpenNetfilter()
		}
		return err
	})
	if conn == nil {
		return err
	}
	defer conn.Close()
	stale, err := connectionsOf(conn, addrs)
	return errors.Join(err, removeConnections(conn, stale))
}

// connection names one record: the address family, and what of the kernel's attributes makes up its identity.
type connection struct {
	family             uint8
	original, zone, id []byte
}

const (
	getConnections   = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET
	deleteConnection = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE
	nested           = unix.NLA_F_NESTED
)

// connectionsOf lists the records with one of the addresses in them. The kernel goes on where it was when records come
// and go meanwhile, so that none is passed over.
func connectionsOf(conn *rtnl.Conn, addrs []netip.Addr) ([]connection, error) {
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a] = true
	}
	only := uint8(unix.AF_UNSPEC)
	if v4, v6 := families(addrs); v4 != v6 {
		only = family(addrs[0])
	}
	var b rtnl.Batch
	b.Begin(getConnections, 0)
	b.Netfilter(only)
	var found []connection
	err := conn.Dump(&b, func() { found = nil }, func(m rtnl.Message) {
		if c, ok := parseConnection(m, wanted); ok {
			c.original, c.zone, c.id = bytes.Clone(c.original), bytes.Clone(c.zone), bytes.Clone(c.id)
			found = append(found, c)
		}
	})
	if err != nil {
		return found, fmt.Errorf("list tracked connections: %w", err)
	}
	return found, nil
}

// parseConnection reads a record and reports whether one of the addresses is in it.
func parseConnection(m rtnl.Message, wanted map[netip.Addr]bool) (c connection, match bool) {
	if len(m.Payload) < nl.SizeofNfgenmsg {
		return c, false
	}
	c.family = m.Payload[0]
	rtnl.Attributes(m.Payload[nl.SizeofNfgenmsg:], func(typ uint16, v []byte) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			c.original = v
			match = match || tupleHas(v, wanted)
		case nl.CTA_TUPLE_REPLY:
			match = match || tupleHas(v, wanted)
		case nl.CTA_ZONE:
			c.zone = v
		case nl.CTA_ID:
			c.id = v
		}
	})
	return c, match
}

// tupleHas reports whether one direction's source or destination is among the addresses.
func tupleHas(tuple []byte, wanted map[netip.Addr]bool) (has bool) {
	rtnl.Attributes(tuple, func(typ uint16, v []byte) {
		if typ != nl.CTA_TUPLE_IP {
			return
		}
		rtnl.Attributes(v, func(_ uint16, v []byte) { has = has || wanted[rtnl.Addr(v)] })
	})
	return has
}

// removeConnections removes the records. One that has ended by itself, or made way for another, is success.
func removeConnections(conn *rtnl.Conn, all []connection) error {
	var b rtnl.Batch
	for _, c := range all {
		b.Begin(deleteConnection, 0)
		b.Netfilter(c.family)
		b.Bytes(nl.CTA_TUPLE_ORIG|nested, c.original)
		if c.zone != nil {
			b.Bytes(nl.CTA_ZONE, c.zone)
		}
		b.Bytes(nl.CTA_ID, c.id)
	}
	var first error
	failed := 0
	for _, err := range conn.Do(&b, nil) {
		if err == nil || errors.Is(err, unix.ENOENT) {
			continue
		}
		if failed++; first == nil {
			first = err
		}
	}
	if failed > 0 {
		return fmt.Errorf("remove %d of %d tracked connections: %w", failed, len(all), first)
	}
	return nil
}
