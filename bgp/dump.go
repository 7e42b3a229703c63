package bgp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// Dump is a file that the table is written to from time to time (MRT, RFC 6396). The speaker can do the same, but it
// appends to one file for ever, cannot be told to end that, and would need to write where its user may.
type Dump struct {
	File     string        // replaced as a whole; empty: none
	Interval time.Duration // from one dump to the next; the first comes when the routes are complete
}

// dumpPoll is how soon a change of the configuration is noticed.
const dumpPoll = time.Second

// dumps writes the table when it is due, until ctx ends.
func (s *Speaker) dumps(ctx context.Context, c conn) {
	tick := time.NewTicker(dumpPoll)
	defer tick.Stop()
	var file string
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cfg := s.desired().config
		if cfg == nil || cfg.Dump.File == "" || !s.Status().Synced {
			continue
		}
		if cfg.Dump.File == file && time.Since(last) < cfg.Dump.Interval {
			continue
		}
		file, last = cfg.Dump.File, time.Now()
		if err := c.dump(ctx, *cfg, last); err != nil && ctx.Err() == nil {
			s.log.Error("table not dumped, next try after the interval", "file", file, "interval", cfg.Dump.Interval, "error", err)
		}
	}
}

// dump replaces the file by the table as it is now.
func (c conn) dump(ctx context.Context, cfg Config, now time.Time) error {
	next := cfg.Dump.File + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err // it names the file
	}
	buffered := bufio.NewWriterSize(f, 1<<16)
	err = c.writeTable(ctx, cfg, mrtWriter{w: buffered, now: uint32(now.Unix())})
	err = errors.Join(err, buffered.Flush(), f.Close())
	if err == nil {
		err = os.Rename(next, cfg.Dump.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("dump to %s: %w", cfg.Dump.File, err), os.Remove(next))
	}
	return nil
}

func (c conn) writeTable(ctx context.Context, cfg Config, w mrtWriter) error {
	list, _, err := c.peers(ctx, false)
	if err != nil {
		return err
	}
	w.index = map[netip.Addr]uint16{}
	peers := []mrtPeer{{id: cfg.RouterID, addr: netip.IPv4Unspecified(), asn: cfg.ASN}} // ourselves
	for _, a := range slices.SortedFunc(maps.Keys(list), netip.Addr.Compare) {
		id, err := netip.ParseAddr(list[a].GetState().GetRouterId())
		if err != nil {
			id = netip.IPv4Unspecified() // it never said
		}
		w.index[a.WithZone("")] = uint16(len(peers))
		peers = append(peers, mrtPeer{id: id, addr: a.WithZone(""), asn: list[a].GetState().GetPeerAsn()})
	}
	if err := w.peers(cfg.RouterID, peers); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	for _, f := range []Family{IPv4, IPv6} {
		req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f.api(), EnableOnlyBinary: true, BatchSize: 512}
		stream, err := c.api.ListPath(ctx, req)
		var failed error
		err = collect(stream, err, func(r *api.ListPathResponse) {
			if failed == nil {
				failed = w.route(r.GetDestination())
			}
		})
		if err := errors.Join(err, failed); err != nil {
			return fmt.Errorf("list the speaker's routes: %w", err)
		}
	}
	return nil
}

// Types of RFC 6396 sections 4 and 4.3.
const (
	mrtTableDumpV2  = 13
	mrtPeerIndex    = 1
	mrtIPv4Unicast  = 2
	mrtIPv6Unicast  = 4
	mrtPeerTypeIPv6 = 1 << 0
	mrtPeerTypeAS4  = 1 << 1
)

type mrtPeer struct {
	id, addr netip.Addr
	asn      uint32
}

// mrtWriter writes records. The attributes are copied as the speaker tells them: nobody but the speaker parses what the
// network sent.
type mrtWriter struct {
	w     io.Writer
	now   uint32
	index map[netip.Addr]uint16 // of peers, by address without zone; 0 is ourselves
	seq   uint32
}

func (m *mrtWriter) record(subtype uint16, body []byte) error {
	head := binary.BigEndian.AppendUint32(nil, m.now)
	head = binary.BigEndian.AppendUint16(head, mrtTableDumpV2)
	head = binary.BigEndian.AppendUint16(head, subtype)
	head = binary.BigEndian.AppendUint32(head, uint32(len(body)))
	if _, err := m.w.Write(head); err != nil {
		return err
	}
	_, err := m.w.Write(body)
	return err
}

func (m *mrtWriter) peers(collector netip.Addr, peers []mrtPeer) error {
	body := append(collector.AsSlice(), 0, 0) // no view name
	body = binary.BigEndian.AppendUint16(body, uint16(len(peers)))
	for _, p := range peers {
		kind := byte(mrtPeerTypeAS4)
		if p.addr.Is6() {
			kind |= mrtPeerTypeIPv6
		}
		body = append(body, kind)
		body = append(body, p.id.AsSlice()...)
		body = append(body, p.addr.AsSlice()...)
		body = binary.BigEndian.AppendUint32(body, p.asn)
	}
	return m.record(mrtPeerIndex, body)
}

// route writes one prefix with all its paths.
func (m *mrtWriter) route(d *api.Destination) error {
	p, err := netip.ParsePrefix(d.GetPrefix())
	if err != nil || len(d.GetPaths()) == 0 {
		return err
	}
	subtype := uint16(mrtIPv4Unicast)
	if p.Addr().Is6() {
		subtype = mrtIPv6Unicast
	}
	body := binary.BigEndian.AppendUint32(nil, m.seq)
	m.seq++
	body = append(body, byte(p.Bits()))
	body = append(body, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(d.GetPaths())))
	for _, path := range d.GetPaths() {
		var attrs []byte
		for _, a := range path.GetPattrsBinary() {
			attrs = append(attrs, abbreviated(a)...)
		}
		from, _ := netip.ParseAddr(path.GetNeighborIp()) // none: our own
		body = binary.BigEndian.AppendUint16(body, m.index[from.WithZone("")])
		body = binary.BigEndian.AppendUint32(body, uint32(path.GetAge().GetSeconds()))
		body = binary.BigEndian.AppendUint16(body, uint16(len(attrs)))
		body = append(body, attrs...)
	}
	return m.record(subtype, body)
}

// abbreviated cuts an MP_REACH_NLRI down to its next hop (RFC 6396 section 4.3.4); other attributes stay as they are.
func abbreviated(attr []byte) []byte {
	const mpReach, extendedLength = 14, 0x10
	if len(attr) < 3 || attr[1] != mpReach {
		return attr
	}
	value := attr[3:]
	if attr[0]&extendedLength != 0 && len(attr) >= 4 {
		value = attr[4:]
	}
	if len(value) < 4 || len(value) < 4+int(value[3]) {
		return attr
	}
	hop := value[3 : 4+int(value[3])] // after family and subsequent family, with its length
	return append([]byte{attr[0] &^ extendedLength, mpReach, byte(len(hop))}, hop...)
}
