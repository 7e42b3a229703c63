package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hostfabric/hostfabric/agent/history"
)

// Description is what a caller says of an endpoint. It is kept as long as the endpoint is, and changes nothing in the kernel.
type Description struct {
	Name    string            `json:"name,omitempty"`    // one or more DNS labels; empty: none
	Aliases []string          `json:"aliases,omitempty"` // other names, as Name is
	Labels  map[string]string `json:"labels,omitempty"`
}

// Notes keeps descriptions for the next run of the agent, by host link; notes.Store is the real one.
type Notes interface {
	Put(link string, d Description) error
	Delete(link string) error
	All() map[string]Description
}

// noNotes keeps nothing.
type noNotes struct{}

func (noNotes) Put(string, Description) error { return nil }
func (noNotes) Delete(string) error           { return nil }
func (noNotes) All() map[string]Description   { return nil }

// Limits of a description: a name fits a DNS name with the host's behind it (RFC 1035 section 2.3.4), labels are as Kubernetes has
// them or somewhat longer.
const (
	maxName       = 128
	MaxAliases    = 32
	maxLabels     = 64
	maxLabelKey   = 317
	maxLabelValue = 1024
	maxLabelBytes = 16 << 10 // all of an endpoint
)

// nameLabel is a DNS label (RFC 1123 section 2.1), and underscores, which container names have.
var nameLabel = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?$`)

// Validate reports everything that is wrong with it, as ErrInvalid.
func (d Description) Validate() error {
	var errs []error
	if d.Name != "" {
		errs = append(errs, validName("name", d.Name))
	}
	if len(d.Aliases) > MaxAliases {
		return fmt.Errorf("%w: %d aliases: want at most %d", ErrInvalid, len(d.Aliases), MaxAliases)
	}
	for _, alias := range d.Aliases {
		errs = append(errs, validName("alias", alias))
	}
	if len(d.Labels) > maxLabels {
		return errors.Join(append(errs, fmt.Errorf("%w: %d labels: want at most %d", ErrInvalid, len(d.Labels), maxLabels))...)
	}
	size := 0
	for key, value := range d.Labels {
		size += len(key) + len(value)
		switch {
		case key == "" || len(key) > maxLabelKey || !printable(key) || strings.ContainsAny(key, "= "):
			errs = append(errs, fmt.Errorf("%w: label %.64q: want a key of 1 to %d printable bytes without '=' and space", ErrInvalid, key, maxLabelKey))
		case len(value) > maxLabelValue || !printable(value):
			errs = append(errs, fmt.Errorf("%w: label %s: want a value of at most %d printable bytes", ErrInvalid, key, maxLabelValue))
		}
	}
	if size > maxLabelBytes {
		errs = append(errs, fmt.Errorf("%w: labels have %d bytes: want at most %d", ErrInvalid, size, maxLabelBytes))
	}
	return errors.Join(errs...)
}

// ValidName tells whether an endpoint can be called so.
func ValidName(name string) bool {
	if len(name) > maxName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !nameLabel.MatchString(label) {
			return false
		}
	}
	return true
}

func validName(what, name string) error {
	if ValidName(name) {
		return nil
	}
	return fmt.Errorf("%w: %s %.64q: want DNS labels of 1 to 63 of a-z A-Z 0-9 _ - joined by dots, at most %d bytes", ErrInvalid, what, name, maxName)
}

// clone keeps what is put on record apart from what its giver still has.
func (d Description) clone() Description {
	d.Aliases, d.Labels = slices.Clone(d.Aliases), maps.Clone(d.Labels)
	return d
}

func (d Description) equal(o Description) bool {
	return d.Name == o.Name && slices.Equal(d.Aliases, o.Aliases) && maps.Equal(d.Labels, o.Labels)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Empty reports whether nothing is said.
func (d Description) Empty() bool {
	return d.Name == "" && len(d.Aliases) == 0 && len(d.Labels) == 0
}

// Describe sets what is said of an endpoint in place of what was said before.
func (a *Agent) Describe(ctx context.Context, key Key, d Description) error {
	if err := errors.Join(key.Validate(), d.Validate()); err != nil {
		return err
	}
	if err := a.awaitReady(ctx); err != nil {
		return err
	}
	unlock, err := a.keys.Lock(ctx, key)
	if err != nil {
		return fmt.Errorf("describe %s: waiting for another request on it: %w", key, err)
	}
	defer unlock()
	ep, ok := a.Endpoint(key)
	if !ok {
		return fmt.Errorf("describe %s: %w", key, ErrNotFound)
	}
	return a.describe(ep, d)
}

// describe is Describe for who holds the key's lock.
func (a *Agent) describe(ep Endpoint, d Description) error {
	if d.equal(ep.Description) {
		return nil
	}
	d = d.clone()
	var err error
	if d.Empty() {
		err = a.opts.Notes.Delete(ep.HostInterface)
	} else {
		err = a.opts.Notes.Put(ep.HostInterface, d)
	}
	if err != nil {
		return fmt.Errorf("describe %s: %w: %w", ep.Key, ErrStorage, err)
	}
	ep.Description = d
	a.record(ep)
	a.tell(eventOf(history.Describe, ep))
	return nil
}

// dropNote forgets what was said of an endpoint. A note that stays is dropped when the agent starts anew.
func (a *Agent) dropNote(ep Endpoint) {
	if ep.Empty() {
		return
	}
	if err := a.opts.Notes.Delete(ep.HostInterface); err != nil {
		a.log.Warn("what was said of a detached container is not removed", "container", ep.ContainerID, "interface", ep.Interface, "err", err)
	}
}

// recall gives the endpoints of an earlier run back what was said of them, and drops what was said of those that are gone.
func (a *Agent) recall() error {
	all := a.opts.Notes.All()
	for _, ep := range a.Endpoints() {
		if d, ok := all[ep.HostInterface]; ok {
			ep.Description = d
			a.record(ep)
			delete(all, ep.HostInterface)
		}
	}
	for link := range all {
		if err := a.opts.Notes.Delete(link); err != nil {
			return err
		}
	}
	return nil
}
