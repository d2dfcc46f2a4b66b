// Package guard decides what a panic costs. Components share a process, often with the API server, and Go ends a
// process for a panic in any goroutine. So every goroutine of a component is started here, and each handler of an
// informer's events and each unit of work that strangers' objects can upset is called through here.
//
// A panic is logged with its stack and counted, and becomes an error of the unit of work: a sync is retried with
// back-off, an event is skipped, a request is answered 500. A loop that a component cannot do without ends the
// component with that error, see Group; whoever runs the component starts it anew, see Keep. The process lives.
//
// layout_test.go holds that no goroutine is started in another way. Package clientgo guards what client-go calls.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Panics counts panics by the part in which they happened.
var Panics = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "skiff_panics_total", Help: "Number of panics that were kept from ending the process, by the part in which they happened.",
}, []string{"part"})

// Panic is the error that a panic has become.
type Panic struct {
	Part  string
	Cause any
	Stack string
}

func (p *Panic) Error() string { return fmt.Sprintf("%s: panic: %v", p.Part, p.Cause) }

// Unwrap gives the cause if that was an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Cause.(error)
	return err
}

// Call runs a unit of work. If it panics, the error is a *Panic.
func Call(part string, work func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			p := &Panic{Part: part, Cause: cause, Stack: string(debug.Stack())}
			Panics.WithLabelValues(part).Inc()
			slog.Error("panic", "part", part, "panic", cause, "stack", p.Stack)
			err = p
		}
	}()
	return work()
}

// Do runs a unit of work that has nobody to tell of an error. If it panics, it has ended.
func Do(part string, work func()) {
	_ = Call(part, func() error { work(); return nil }) // Call has told of a panic
}

// Try is Call for groups that collect errors, as those of golang.org/x/sync/errgroup do.
func Try(part string, work func() error) func() error {
	return func() error { return Call(part, work) }
}

// Go runs work as Do does, in a goroutine of its own, for which nobody waits.
func Go(part string, work func()) {
	go Do(part, work)
}

// After runs work as Do does, in a goroutine of its own, when d has passed.
func After(d time.Duration, part string, work func()) *time.Timer {
	return time.AfterFunc(d, func() { Do(part, work) })
}

// Group is a number of goroutines that are waited for. The zero value is ready for use.
type Group struct {
	// Failed, if not nil, is called with each panic. A component sets it to what ends the component if it cannot
	// do without one of the goroutines.
	Failed func(error)

	running sync.WaitGroup
}

// Go runs work in a goroutine of its own.
func (g *Group) Go(part string, work func()) {
	g.running.Go(func() {
		err := Call(part, func() error { work(); return nil })
		if err != nil && g.Failed != nil {
			g.Failed(err)
		}
	})
}

// Wait returns when all have ended.
func (g *Group) Wait() { g.running.Wait() }

// Bounds of the pause before a component that panicked is started again: it doubles from the first to the second.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// Keep runs a component, and again after a pause whenever it ended by a panic, until it ends otherwise or ctx is
// done. The component must be fit to be started from new.
func Keep(ctx context.Context, part string, run func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := Call(part, func() error { return run(ctx) })
		if p := (*Panic)(nil); !errors.As(err, &p) {
			return err
		}
		slog.ErrorContext(ctx, "component ended by a panic, will start again", "component", part, "in", pause, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
