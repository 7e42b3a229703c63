package endpoint

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Some runtimes want to place the container's end themselves: Docker asks for the name of a link in the host's namespace before
// there is a container, and moves it in later, renames it, addresses it and writes its routes. Nobody can write the container's
// permanent neighbours then: to do it when the link has left is to race with the container's first packet, and to answer for
// the gateways from the host takes ARP and neighbour discovery on the host's end, by which a container can fill the host's
// neighbour table. So these links have nothing to resolve: the container's end does no ARP (the flag goes with it), for which
// the kernel sends everything to the link's own MAC address, and the host's end has the same one.

// OfferedLink returns the name by which the container's end waits in the host's namespace. It does not begin as host ends do.
func OfferedLink(hostLink string) string { return "hd" + hostLink[len(HostLinkPrefix):] }

// Offer makes the endpoint, or nothing, with the container's end down and unaddressed in the host's namespace, where somebody
// else takes it from: the spec has no namespace, and its ContainerLink is the name there. The host's end is ready to carry
// packets as soon as the other one is up, wherever that is by then. It takes the place of a leftover as Wire does.
func (w *Wirer) Offer(ctx context.Context, s Spec) (Endpoint, error) {
	err := s.validate()
	if s.Netns != "" {
		err = errors.Join(err, fmt.Errorf("%w: namespace %s for a link that is to be offered", ErrInvalid, s.Netns))
	}
	if err := errors.Join(err, ctx.Err()); err != nil {
		return Endpoint{}, err
	}
	e := s.endpoint()
	e.HostMAC = e.ContainerMAC
	if err := w.offer(&e); err != nil {
		return Endpoint{}, fmt.Errorf("offer %s with %s on the host: %w", s.ContainerLink, s.HostLink, err)
	}
	return e, nil
}

func (w *Wirer) offer(e *Endpoint) (err error) {
	pair, err := w.createPair(e, nil)
	if errors.Is(err, unix.EEXIST) {
		if err := w.makeWayOnHost(e); err != nil {
			return err
		}
		if pair, err = w.createPair(e, nil); errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%s: %w on the host", e.ContainerLink, ErrLinkExists)
		}
	}
	if err != nil {
		return err
	}
	e.MTU = pair.mtu
	if err = w.setupHost(e, pair.index); err == nil {
		var b rtnl.Batch // there is no carrier to wait for yet
		what := claimHost(&b, e, pair.index)
		err = failures(w.host.Do(&b, nil), what)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("host end: %w", err), w.remove(pair.index))
	}
	return nil
}

// makeWayOnHost removes a host link of the same name left by a crash, or not yet reaped, unless it is another container's.
func (w *Wirer) makeWayOnHost(e *Endpoint) error {
	old, err := getLink(w.host, e.HostLink)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s: %w on the host", e.ContainerLink, ErrLinkExists)
	}
	if err != nil {
		return err
	}
	if err := mayReplace(old, e); err != nil {
		return err
	}
	w.log.Info("removing a leftover host link", "link", e.HostLink, "alias", old.alias)
	return w.remove(old.index)
}
