package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// eventBuffer is the receive buffer of the event socket. An overflow is a hint like any other.
const eventBuffer = 4 << 20

// subscribe opens a socket for notifications. Those of our own changes, which come through the port, and of what is in
// other tables are dropped by a filter in the kernel: a hundred thousand of them are written at a time. The library's
// own subscriptions would read and parse each.
func subscribe(port uint32, protocol uint8, table int) (*nl.NetlinkSocket, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to rtnetlink events: %w", err)
	}
	err = errors.Join(rtnl.ReceiveBuffer(events, eventBuffer), attach(events.GetFd(), eventFilter(port, protocol, table)))
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("set up rtnetlink event socket: %w", err)
	}
	return events, nil
}

func attach(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		program[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// Offsets in a struct rtmsg.
const offRouteTable, offRouteProtocol = 4, 5

// tableByte is what a struct rtmsg has of a table, whose whole number is in an attribute.
func tableByte(table int) uint8 {
	if table > 255 {
		return unix.RT_TABLE_COMPAT
	}
	return uint8(table)
}

// eventFilter accepts a message unless its port is ours, or it is a route of another protocol in another table. Loads are
// big-endian, the fields are not.
func eventFilter(port uint32, protocol uint8, table int) []bpf.Instruction {
	own := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	typ := func(t uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, t)))
	}
	const offType, offPort = 4, 12
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offPort, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: own, SkipTrue: 8},
		bpf.LoadAbsolute{Off: offType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typ(unix.RTM_NEWROUTE), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typ(unix.RTM_DELROUTE), SkipTrue: 4},
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr + offRouteProtocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(protocol), SkipTrue: 2},
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr + offRouteTable, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(tableByte(table)), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	}
}

// Watch implements routes.FIB. One Watch at a time. Links that none of our routes uses give no hints, however many
// come and go, nor do containers whose routes are deleted before their links go down or right after; when a link that
// next hops are on changes, the nexthop groups follow before the hint is given.
func (f *FIB) Watch(ctx context.Context) (routes.Hints, error) {
	var events *nl.NetlinkSocket
	err := rtnl.Within(int(f.home.Fd()), func() (err error) {
		events, err = subscribe(f.conn.Port(), uint8(f.opts.Protocol), f.opts.Table)
		return err
	})
	if err != nil {
		return routes.Hints{}, err
	}
	f.foreignLost(true) // what was listed before has no event
	context.AfterFunc(ctx, events.Close)
	go f.watch(ctx, events)
	return routes.Hints{Own: f.hints, Foreign: f.foreign.hints}, nil
}

// watch ends with the context, which closes the socket.
func (f *FIB) watch(ctx context.Context, events *nl.NetlinkSocket) {
	defer f.foreignLost(false)
	for {
		messages, _, err := events.Receive()
		relevant := errors.Is(err, unix.ENOBUFS) // events were lost
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !relevant:
			f.log.Error("cannot read rtnetlink events; changes are found at the next full listing", "error", err)
			return
		}
		if relevant {
			f.foreignLost(true)
		}
		for _, m := range messages {
			relevant = f.relevant(rtnl.Message{Type: m.Header.Type, Port: m.Header.Pid, Payload: m.Data}) || relevant
		}
		if !relevant {
			continue
		}
		f.mu.Lock()
		err = f.hops.sync()
		f.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			f.log.Warn("cannot bring nexthops in line", "error", err)
		}
		f.hint()
	}
}

func (f *FIB) hint() {
	select {
	case f.hints <- struct{}{}:
	default:
	}
}

// relevant reports whether a message may mean that a route of ours is gone or can come back.
func (f *FIB) relevant(m rtnl.Message) bool {
	switch m.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Payload) > offRouteProtocol && m.Payload[offRouteProtocol] != uint8(f.opts.Protocol) {
			f.foreignEvent(m)
			return false
		}
		// What the kernel itself removes (port 0) goes with a link, and that is heard of below. With thousands of
		// containers coming and going this must not cause a listing each.
		return m.Port != 0
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		id, _, ok := parseNextHop(m)
		return ok && id >= firstID && id <= lastID
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true // the kernel drops routes with their preferred source, or can resolve a next hop now
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return f.linkChanged(m)
	}
	return false
}

// linkChanged reports whether a link that next hops are on began or ceased to run, or one that our routes are directly
// onto came up.
func (f *FIB) linkChanged(m rtnl.Message) bool {
	if len(m.Payload) < unix.SizeofIfInfomsg {
		return false
	}
	deleted := m.Type == unix.RTM_DELLINK
	info := nl.DeserializeIfInfomsg(m.Payload)
	flags := info.Flags
	if deleted {
		flags = 0
	}
	if flags&unix.IFF_UP == 0 {
		f.foreignLink(int(info.Index))
	}
	var name string
	rtnl.Attributes(m.Payload[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_IFNAME {
			name = rtnl.CString(v)
		}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hops.onLink(name) {
		const up = unix.IFF_UP | unix.IFF_RUNNING
		before, known := f.running[name]
		f.running[name] = flags&up == up
		return !known || before != f.running[name]
	}
	delete(f.running, name)
	return f.uses.links[name] > 0 && f.deviceChanged(name, flags&unix.IFF_UP != 0, deleted)
}
