package workloads

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

const (
	// manyMissed is the number of missed times from which on an event says so.
	manyMissed = 100
	// scheduleSlack is added to the sleep until the next time, so that it is surely past on waking.
	scheduleSlack = 100 * time.Millisecond
)

// schedule is when the jobs of a CronJob start.
type schedule struct {
	times    cron.Schedule
	location *time.Location
}

// scheduleProblem is why a schedule cannot be followed, as an event.
type scheduleProblem struct{ reason, message string }

// scheduleOf reads the schedule of a CronJob: five fields, or a macro, in its time zone, which is ours if it
// names none.
func scheduleOf(c *batchv1.CronJob) (schedule, *scheduleProblem) {
	location := time.Local
	text := c.Spec.Schedule
	if zone := c.Spec.TimeZone; zone != nil {
		var err error
		if location, err = time.LoadLocation(*zone); err != nil {
			return schedule{}, &scheduleProblem{"UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %s", *zone, err)}
		}
		if !strings.Contains(text, "TZ") {
			text = "TZ=" + *zone + " " + text
		}
	}
	times, err := parseSchedule(text)
	if err != nil {
		return schedule{}, &scheduleProblem{"UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %s", c.Spec.Schedule, err)}
	}
	return schedule{times, location}, nil
}

// parseSchedule turns a panic of the parser, which a lone "TZ=" causes, into an error.
func parseSchedule(text string) (times cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	return cron.ParseStandard(text)
}

// due returns the last time that has come since the last job, zero if none has, and about how many have. Times older
// than the starting deadline are not looked at.
func (s schedule) due(c *batchv1.CronJob, now time.Time) (last time.Time, missed int64) {
	since := lastScheduled(c)
	if deadline := c.Spec.StartingDeadlineSeconds; deadline != nil {
		if start := now.Add(-time.Duration(*deadline) * time.Second); start.After(since) {
			since = start
		}
	}
	first := s.times.Next(since)
	if first.IsZero() || first.After(now) {
		return time.Time{}, 0
	}
	second := s.times.Next(first)
	if second.IsZero() || second.After(now) {
		return first, 1
	}
	// Skip over most of a long gap by its average, rather than step through each time.
	interval := second.Sub(first)
	missed = int64(now.Sub(first)/interval) + 1
	last = first
	if from := first.Add(time.Duration(missed-2) * interval); from.After(last) {
		last = from
	}
	for t := s.times.Next(last); !t.IsZero() && !t.After(now); t = s.times.Next(t) {
		last = t
	}
	if s.times.Next(last.Add(-time.Second)).Equal(last) {
		return last, missed
	}
	return s.lastBefore(first, now), missed
}

// lastBefore steps from one time to the last that is not after now; it is for schedules with uneven gaps.
func (s schedule) lastBefore(from, now time.Time) time.Time {
	for t := s.times.Next(from); !t.IsZero() && !t.After(now); t = s.times.Next(t) {
		from = t
	}
	return from
}

// next is how long it is until the next time, 0 if there is none.
func (s schedule) next(now time.Time) time.Duration {
	t := s.times.Next(now)
	if t.IsZero() {
		return 0
	}
	return t.Sub(now) + scheduleSlack
}

// lastScheduled is from when on times count.
func lastScheduled(c *batchv1.CronJob) time.Time {
	if c.Status.LastScheduleTime != nil {
		return c.Status.LastScheduleTime.Time
	}
	return c.CreationTimestamp.Time
}
