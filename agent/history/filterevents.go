package history

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Filter says which events are wanted: those for which all that is set holds.
type Filter struct {
	Address   netip.Addr // among the event's addresses
	Container string     // its ID. Of one of 64 digits, 12 or more of the first will do
	Name      string     // its name, or an alias
	Subject   string     // its container or its name, as above
	Kinds     []Kind     // one of these
	Since     time.Time  // at or after
	Until     time.Time  // before
	After     uint64     // numbers above this one
}

// wants tells whether an event is wanted.
func (f *Filter) wants(e *Entry) bool {
	if e.Number <= f.After || !f.wantsTime(micros(e.Time)) || !f.wantsKind(e.Kind) {
		return false
	}
	if f.Address.IsValid() && !slices.ContainsFunc(e.Addresses, f.isAddress) {
		return false
	}
	named := func(name string) bool { return e.Name == name || slices.Contains(e.Aliases, name) }
	if f.Container != "" && !isContainer(e.Container, f.Container) || f.Name != "" && !named(f.Name) {
		return false
	}
	return f.Subject == "" || isContainer(e.Container, f.Subject) || named(f.Subject)
}

func (f *Filter) wantsTime(us int64) bool {
	return (f.Since.IsZero() || us >= micros(f.Since)) && (f.Until.IsZero() || us < micros(f.Until))
}

func (f *Filter) wantsKind(k Kind) bool { return len(f.Kinds) == 0 || slices.Contains(f.Kinds, k) }

func (f *Filter) isAddress(a netip.Addr) bool { return a.Unmap() == f.Address.Unmap() }

const fullContainer = 64 // digits of the IDs that are given in short

// isContainer tells an ID by what somebody calls it.
func isContainer(id, wanted string) bool {
	return id == wanted || len(wanted) >= containerKey && len(id) == fullContainer && strings.HasPrefix(id, wanted)
}

// may tells whether there can be such events in a span; false is certain.
func (f *Filter) may(s span) bool {
	return s.count > 0 && s.end()-1 > f.After && (f.Since.IsZero() || s.max >= micros(f.Since)) && (f.Until.IsZero() || s.min < micros(f.Until))
}

// mayIn is may of a block.
func (f *Filter) mayIn(e *entry) bool {
	return f.may(e.span) &&
		(!f.Address.IsValid() || e.filter.may(addressSubject(f.Address))) &&
		(f.Container == "" || e.filter.may(containerSubject(f.Container))) &&
		(f.Name == "" || e.filter.may(nameSubject(f.Name))) &&
		(f.Subject == "" || e.filter.may(containerSubject(f.Subject)) || e.filter.may(nameSubject(f.Subject)))
}

// aboutSubject tells that only events with a subject are wanted.
func (f *Filter) aboutSubject() bool {
	return f.Address.IsValid() || f.Container != "" || f.Name != "" || f.Subject != ""
}

// matching reads as much of a block as it takes to find the wanted events.
func (b *block) matching(f *Filter) ([]Entry, error) {
	var wanted []bool // by subject; nil: all
	if f.aboutSubject() {
		if wanted = b.candidates(f); !slices.Contains(wanted, true) {
			return nil, nil
		}
	}
	if err := b.readEvents(); err != nil {
		return nil, err
	}
	kinds := make([]bool, len(b.kinds))
	for i, k := range b.kinds {
		kinds[i] = f.wantsKind(k)
	}
	var out []Entry
	for i, t := range b.times {
		s := b.subjects[i]
		if !kinds[b.shapes.at[i]] || !f.wantsTime(t) || wanted != nil && (s < 0 || !wanted[s]) {
			continue
		}
		if err := b.readLabels(); err != nil {
			return nil, err
		}
		// A subject has what any of its events had: whether this one did is for the event itself to say.
		if e := (Entry{b.first + uint64(i), b.event(i)}); f.wants(&e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// candidates are the subjects that a wanted event may be about.
func (b *block) candidates(f *Filter) []bool {
	container := func(id string) []bool {
		return b.container.matches(func(text string) bool { return isContainer(text, id) })
	}
	name := func(name string) []bool {
		return or(b.name.matches(func(text string) bool { return text == name }),
			b.aliases.matches(func(list string) bool { return slices.Contains(splitTexts(list), name) }))
	}
	wanted := make([]bool, len(b.has))
	for i := range wanted {
		wanted[i] = !f.Address.IsValid() || slices.ContainsFunc(b.addrs[i], f.isAddress)
	}
	if f.Container != "" {
		wanted = and(wanted, container(f.Container))
	}
	if f.Name != "" {
		wanted = and(wanted, name(f.Name))
	}
	if f.Subject != "" {
		wanted = and(wanted, or(container(f.Subject), name(f.Subject)))
	}
	return wanted
}

// matches tells for each subject or event whether its text is one of those.
func (f *textField) matches(is func(string) bool) []bool {
	texts := make([]bool, len(f.texts))
	for i, text := range f.texts {
		texts[i] = is(text)
	}
	out := make([]bool, len(f.at))
	for i, at := range f.at {
		out[i] = at >= 0 && texts[at]
	}
	return out
}

func and(x, y []bool) []bool {
	for i := range x {
		x[i] = x[i] && y[i]
	}
	return x
}

func or(x, y []bool) []bool {
	for i := range x {
		x[i] = x[i] || y[i]
	}
	return x
}
