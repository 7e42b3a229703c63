package agent

import (
	"context"
	"errors"
	"time"
)

// undoTimeout bounds the clean-up of a failed attach, which runs even when its caller has gone.
const undoTimeout = 10 * time.Second

// undoStack holds the reversals of the steps taken so far. It runs them in reverse unless the work was kept.
type undoStack struct {
	steps []func(context.Context) error
}

func (u *undoStack) push(step func(context.Context) error) { u.steps = append(u.steps, step) }

// keep forgets every reversal: the work is done.
func (u *undoStack) keep() { u.steps = nil }

// run reverses what was not kept, on a context of its own.
func (u *undoStack) run(ctx context.Context) error {
	if len(u.steps) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for i := len(u.steps) - 1; i >= 0; i-- {
		errs = append(errs, u.steps[i](ctx))
	}
	u.steps = nil
	return errors.Join(errs...)
}
