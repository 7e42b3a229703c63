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
// permanent neighbours then, so for once something answers for the gateways: the host's end has their addresses.
//
//   - It answers at once. Proxy entries wait for up to proxy_delay (0.8 s), and to write the neighbours when the link has left is
//     to race with the container's first packet.
//   - Each host's end has them for itself, so that a host with arp_ignore=1 answers too.
//   - 169.254.1.1 has the scope of the host: the kernel prefers any other address for packets of its own to the container.

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
		err = w.answer(e, pair.index)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("host end: %w", err), w.remove(pair.index))
	}
	return nil
}

// answer gives the host's end the addresses of the gateways, and tells it where the container's are.
func (w *Wirer) answer(e *Endpoint, index int) error {
	var b rtnl.Batch
	var what []string
	for _, gateway := range gateways(families(e.Addrs)) {
		b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		b.ScopedAddress(family(gateway), uint8(gateway.BitLen()), unix.RT_SCOPE_HOST, index)
		b.IP(unix.IFA_LOCAL, gateway)
		b.IP(unix.IFA_ADDRESS, gateway)
		b.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		what = append(what, fmt.Sprintf("add address %v", gateway))
	}
	for _, a := range e.Addrs {
		neighbour(&b, index, a, e.ContainerMAC)
		what = append(what, fmt.Sprintf("add neighbour %v", a))
	}
	return failures(w.host.Do(&b, nil), what)
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
