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

// zoneOf is the time zone of a CronJob: ours if it names none.
func zoneOf(c *batchv1.CronJob) (*time.Location, *scheduleProblem) {
	if c.Spec.TimeZone == nil {
		return time.Local, nil
	}
	location, err := time.LoadLocation(*c.Spec.TimeZone)
	if err != nil {
		return nil, &scheduleProblem{"UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %s", *c.Spec.TimeZone, err)}
	}
	return location, nil
}

// scheduleOf reads the schedule of a CronJob, five fields, or a macro, in a time zone.
func scheduleOf(c *batchv1.CronJob, location *time.Location) (schedule, *scheduleProblem) {
	text := c.Spec.Schedule
	if zone := c.Spec.TimeZone; zone != nil && !namesZone(c) {
		text = "TZ=" + *zone + " " + text
	}
	times, err := parseSchedule(text)
	if err != nil {
		return schedule{}, &scheduleProblem{"UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %s", c.Spec.Schedule, err)}
	}
	return schedule{times, location}, nil
}

// namesZone tells whether a schedule has a time zone in its text, which was never meant to work.
func namesZone(c *batchv1.CronJob) bool { return strings.Contains(c.Spec.Schedule, "TZ") }

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
// than the starting deadline are not looked at. It is a problem if the schedule comes to an end, or has no time at
// all: 31 February does parse.
func (s schedule) due(c *batchv1.CronJob, now time.Time) (last time.Time, missed int64, problem *scheduleProblem) {
	since := lastScheduled(c)
	if deadline := c.Spec.StartingDeadlineSeconds; deadline != nil {
		if start := now.Add(-time.Duration(*deadline) * time.Second); start.After(since) {
			since = start
		}
	}
	first := s.times.Next(since)
	if first.After(now) {
		return time.Time{}, 0, nil
	}
	second := s.times.Next(first)
	if first.IsZero() || second.IsZero() {
		return time.Time{}, 0, &scheduleProblem{"InvalidSchedule", fmt.Sprintf("invalid schedule: %s : time difference between two schedules is less than 1 second", c.Spec.Schedule)}
	}
	if second.After(now) {
		return first, 1, nil
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
		return last, missed, nil
	}
	return s.lastBefore(first, now), missed, nil
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
