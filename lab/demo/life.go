package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/resolve"
)

// Life is what was asked about a container that lived for a moment.
type Life struct {
	Name      string  `json:"name"`
	Host      string  `json:"host"`
	Container string  `json:"container"`
	Address   string  `json:"address"`
	AskedFrom string  `json:"asked_from"` // a container on a host of another rack
	Alive     string  `json:"dns_while_alive"`
	Afterward string  `json:"dns_afterwards"`
	AskMS     float64 `json:"dns_ms"` // the first answer took, on two hosts
	Ledger    string  `json:"ledger"` // who had the address while it lived, as its host's ledger has it afterwards
}

// wrong says what of the answers is not as it should be; empty: nothing.
func (l *Life) wrong() string {
	switch {
	case l.Alive != "NOERROR "+l.Address:
		return fmt.Sprintf("%s resolved to %q right after its attach, expected %s", l.Name, l.Alive, l.Address)
	case l.Afterward != "NXDOMAIN":
		return fmt.Sprintf("%s resolved to %q right after its detach, expected NXDOMAIN", l.Name, l.Afterward)
	case l.Ledger != l.Container:
		return fmt.Sprintf("the ledger of %s has %q for who had %s, expected %s", l.Host, l.Ledger, l.Address, l.Container)
	}
	return ""
}

// live has a container come and go on the last host, and asks about it: for its name, from a container on the first host, which is in
// another rack if there is one; and for who had its address, of the ledger.
func (d *demo) live(ctx context.Context) (err error) {
	hosts := d.lab.Plan.AllHosts()
	first, last := hosts[0].Name, hosts[len(hosts)-1].Name
	asker, ok := d.containerOn(first)
	if !ok {
		return nil
	}
	client, err := d.askFrom(ctx, first, asker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	agent, err := d.hosts.Client(last)
	if err != nil {
		return err
	}
	c, err := d.hosts.Scratch(last)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.NS.Delete()) }()
	l := &Life{Name: "web." + last + ".fabric.internal", Host: last, Container: c.Name, AskedFrom: asker.Name}
	d.report.Life = l

	resp, err := agent.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.Name, Interface: "eth0", Netns: c.NS.Path(), Name: "web"})
	if err != nil {
		return fmt.Errorf("attach %s on %s: %w", c.Name, last, err)
	}
	l.Address = resp.GetEndpoint().GetAddresses()[0]
	kind := "A"
	if addr, err := netip.ParseAddr(l.Address); err != nil || addr.Is6() {
		kind = "AAAA"
	}
	alive, err := client.Ask(l.Name, kind)
	if err != nil {
		return err
	}
	at := time.Now()
	if _, err := agent.Detach(ctx, &apiv1.DetachRequest{ContainerId: c.Name, Interface: "eth0"}); err != nil {
		return fmt.Errorf("detach %s on %s: %w", c.Name, last, err)
	}
	gone, err := client.Ask(l.Name, kind)
	if err != nil {
		return err
	}
	l.Alive, l.AskMS, l.Afterward = alive.String(), milliseconds(alive.Took), gone.String()
	then, err := agent.History(ctx, &apiv1.HistoryRequest{Subject: l.Address, At: timestamppb.New(at)})
	if err != nil {
		return fmt.Errorf("ledger of %s: %w", last, err)
	}
	for _, e := range then.GetEpisodes() {
		l.Ledger = e.GetContainerId()
	}
	return nil
}

func (d *demo) containerOn(host string) (probe.Endpoint, bool) {
	for _, c := range d.containers {
		if c.Host == host {
			return c.Endpoints[0], true
		}
	}
	return probe.Endpoint{}, false
}

// askFrom prepares to ask a host's DNS from a container of it.
func (d *demo) askFrom(ctx context.Context, host string, from probe.Endpoint) (*resolve.Client, error) {
	agent, err := d.hosts.Client(host)
	if err != nil {
		return nil, err
	}
	status, err := agent.GetStatus(ctx, &apiv1.GetStatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", host, err)
	}
	for _, l := range status.GetDns().GetListeners() {
		if at, err := netip.ParseAddrPort(l); err == nil && at.Addr().Is4() == from.Addr.Is4() {
			return resolve.Dial(from.NS, at.Addr())
		}
	}
	return nil, fmt.Errorf("%s answers DNS at %v, where a container with %s cannot ask", host, status.GetDns().GetListeners(), from.Addr)
}
