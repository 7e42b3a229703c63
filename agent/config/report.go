package config

import "errors"

// problem is what a parser of one value says is wrong with it.
type problem struct{ text, hint string }

func (p *problem) Error() string { return p.text }

// report gathers mistakes, and where in the file the keys are.
type report struct {
	errs  Errors
	lines map[string]int
	bad   map[string]bool
}

func newReport() *report {
	return &report{lines: map[string]int{}, bad: map[string]bool{}}
}

func (r *report) add(path, text, hint string) {
	r.bad[path] = true
	r.errs = append(r.errs, &KeyError{Path: path, Line: r.lines[path], Problem: text, Hint: hint})
}

// addErr is add for what a parser returned; source is what set the value if not the file.
func (r *report) addErr(path, source string, err error) {
	text, hint := err.Error(), ""
	if p := (*problem)(nil); errors.As(err, &p) {
		hint = p.hint
	}
	if source == "" {
		r.add(path, text, hint)
		return
	}
	r.bad[path] = true
	r.errs = append(r.errs, &KeyError{Path: path, Problem: text + ", set by " + source, Hint: hint})
}

// good says that nothing is wrong yet with any of these keys, so that comparing them makes sense.
func (r *report) good(paths ...string) bool {
	for _, p := range paths {
		if r.bad[p] {
			return false
		}
	}
	return true
}

func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	r.errs.sort()
	return r.errs
}
