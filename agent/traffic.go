package agent

import (
	"context"
	"time"
)

// Traffic is what crosses the host links of containers.
type Traffic struct {
	Endpoints int     // attached
	Busy      int     // of these, with more than chatter
	Rate      float64 // packets per second of the busy ones, in both directions
}

// Traffic has left when no endpoint was busy for some looks in a row. What a container says unasked (router solicitations,
// multicast listener reports, keepalives now and then) stays below the threshold.
const (
	trafficLook = time.Second
	quietLooks  = 3
	busyRate    = 5 // packets per second
)

// awaitQuiet waits until traffic has left or the deadline has passed. What it sees is in the status.
func (a *Agent) awaitQuiet(ctx context.Context, deadline time.Time) error {
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	tick := time.NewTicker(trafficLook)
	defer tick.Stop()
	before, err := a.wirer.Packets(ctx)
	if err != nil {
		return err
	}
	last := time.Now()
	a.drain.update(func(s *DrainStatus) { s.Traffic = Traffic{Endpoints: len(before)} })
	for quiet := 0; quiet < quietLooks && len(before) > 0; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			a.log.Warn("drain: the deadline has passed before traffic has left", "traffic", a.DrainStatus().Traffic)
			return nil
		case <-tick.C:
		}
		now, err := a.wirer.Packets(ctx)
		if err != nil {
			return err
		}
		t := traffic(before, now, time.Since(last))
		before, last = now, time.Now()
		a.drain.update(func(s *DrainStatus) { s.Traffic = t })
		if t.Busy > 0 {
			quiet = 0
		} else {
			quiet++
		}
	}
	return nil
}

// traffic compares two counts that lie so far apart. A link that came in between has nothing to compare with yet.
func traffic(before, now map[string]uint64, apart time.Duration) Traffic {
	t := Traffic{Endpoints: len(now)}
	for link, n := range now {
		was, ok := before[link]
		if !ok || n < was {
			continue
		}
		if rate := float64(n-was) / apart.Seconds(); rate > busyRate {
			t.Busy++
			t.Rate += rate
		}
	}
	return t
}
