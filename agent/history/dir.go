package history

import (
	"context"
	"time"
)

// Dir reads a ledger's directory without writing, also while an agent writes it. What is recorded later shows in the next answer.
type Dir struct{ path string }

// OpenDir looks at a directory.
func OpenDir(path string) (*Dir, error) {
	v, err := viewDir(path)
	if err != nil {
		return nil, err
	}
	v.close()
	return &Dir{path}, nil
}

// Events implements Reader.
func (d *Dir) Events(ctx context.Context, f Filter, visit Visit) error {
	v, err := viewDir(d.path)
	if err != nil {
		return err
	}
	return v.events(ctx, f, visit)
}

// Last implements Reader.
func (d *Dir) Last(ctx context.Context, n int, f Filter) ([]Entry, error) {
	v, err := viewDir(d.path)
	if err != nil {
		return nil, err
	}
	return v.last(ctx, n, f)
}

// At implements Reader.
func (d *Dir) At(ctx context.Context, at time.Time, f Filter) ([]Episode, error) {
	v, err := viewDir(d.path)
	if err != nil {
		return nil, err
	}
	return v.at(ctx, at, f)
}

// Stats tells what is on disk; what only a writer knows is zero.
func (d *Dir) Stats() (Stats, error) {
	v, err := viewDir(d.path)
	if err != nil {
		return Stats{}, err
	}
	defer v.close()
	var s Stats
	all := span{}
	for _, p := range v.parts {
		all = all.add(p.span)
		if p.path != "" {
			s.Segments++
			s.Size += p.size
		} else {
			s.Size += int64(len(p.records))
		}
	}
	s.setRange(all)
	return s, v.err()
}
