package probe

import "time"

// pacePeriod is how often what is due is sent.
const pacePeriod = time.Millisecond

// pacer says how many packets of a steady rate are due. What fell due while the machine was busy elsewhere is left out but
// for a hundredth of a second's worth: a burst would overflow the receiver's buffer, and the loss be taken for the network's.
type pacer struct {
	rate  int
	begin time.Time
	sent  int64
}

func newPacer(rate int, begin time.Time) *pacer { return &pacer{rate: rate, begin: begin} }

func (p *pacer) due(now time.Time) int {
	target := int64(now.Sub(p.begin).Seconds() * float64(p.rate))
	n := min(target-p.sent, max(int64(p.rate)/100, 1))
	p.sent = max(target, p.sent)
	return int(max(n, 0))
}
