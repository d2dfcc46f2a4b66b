package fairness

import (
	"math"
	"time"
)

// demand is how many seats a level uses and waits for, over the time since it was asked last.
type demand struct {
	seats           float64 // now
	high            float64
	since, changed  time.Time
	sum, sumSquares float64 // of seats, times seconds
	smoothed        float64
}

// set notes that there are so many from now on.
func (d *demand) set(now time.Time, seats int) {
	d.count(now)
	d.seats, d.high = float64(seats), max(d.high, float64(seats))
}

func (d *demand) count(now time.Time) {
	if d.since.IsZero() {
		d.since, d.changed = now, now
	}
	t := now.Sub(d.changed).Seconds()
	d.sum, d.sumSquares, d.changed = d.sum+d.seats*t, d.sumSquares+d.seats*d.seats*t, now
}

// summary is what there was in a period.
type summary struct{ high, average, deviation, smoothed float64 }

// remembers is how much of the demand of a period is left in the next one that has less.
const remembers = 0.977

// next ends a period and begins another.
func (d *demand) next(now time.Time) summary {
	d.count(now)
	s := summary{high: d.high, average: d.seats}
	if t := now.Sub(d.since).Seconds(); t > 0 {
		s.average = d.sum / t
		s.deviation = math.Sqrt(max(0, d.sumSquares/t-s.average*s.average))
	}
	envelope := min(s.average+s.deviation, s.high)
	d.smoothed = max(envelope, remembers*d.smoothed+(1-remembers)*envelope)
	s.smoothed = d.smoothed
	*d = demand{seats: d.seats, high: d.seats, since: now, changed: now, smoothed: d.smoothed}
	return s
}
