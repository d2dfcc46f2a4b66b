package probe

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
)

// worker runs one probe of one container.
type worker struct {
	m      *Manager
	target *target
	kind   Kind
	spec   *v1.Probe
	tally  tally
}

// outcome is how one try went.
type outcome int

const (
	failure outcome = iota
	success
	warning // success that an event should tell of
	unknown // the probe itself did not work; it does not count
)

// run probes until ctx ends, or until there is nothing more to find out.
func (w *worker) run(ctx context.Context) {
	defer w.forget()
	period := seconds(w.spec.PeriodSeconds, 10)
	// After a restart of the kubelet the probes of all containers should not run at once.
	if period > time.Since(w.m.begun) && w.target.startedAt.Before(w.m.begun) && !sleep(ctx, rand.N(period)) {
		return
	}
	if w.kind != Startup {
		select {
		case <-ctx.Done():
			return
		case <-w.target.isStarted:
		}
	}
	initial := time.Duration(w.spec.InitialDelaySeconds) * time.Second
	if !sleep(ctx, time.Until(w.target.startedAt.Add(initial))) {
		return
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for w.probe(ctx) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe tries once and says whether to go on.
func (w *worker) probe(ctx context.Context) bool {
	result, text := w.try(ctx)
	if ctx.Err() != nil {
		return false // the container was stopped under the probe
	}
	w.count(result)
	w.report(result, text)
	if result == unknown {
		return true
	}
	turned, ok := w.tally.add(result != failure, w.spec)
	if !turned {
		return true
	}
	if !w.settle(ctx, ok) {
		return true
	}
	change := Change{
		PodUID: w.pod().UID, Container: w.target.container.Name, ContainerID: w.target.id,
		Kind: w.kind, Success: ok, Grace: w.spec.TerminationGracePeriodSeconds,
	}
	if !ok {
		change.Message = fmt.Sprintf("%s probe failed: %s", w.kind, text)
	}
	select {
	case w.m.changes <- change:
	case <-ctx.Done():
		return false
	}
	// A container that failed is restarted, and one that has started stays so.
	return w.kind == Readiness || w.kind == Liveness && ok
}

// settle keeps the result, and says whether it is another than before.
func (w *worker) settle(ctx context.Context, ok bool) bool {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	t := w.target
	switch w.kind {
	case Readiness:
		changed := t.ready != ok
		t.ready = ok
		return changed
	case Startup:
		if ok && !t.started && ctx.Err() == nil {
			t.started = true
			close(t.isStarted)
		}
		return true
	}
	return !ok // a container is alive until found otherwise
}

// try runs the probe, and again at once when the probe itself did not work.
func (w *worker) try(ctx context.Context) (outcome, string) {
	timeout := seconds(w.spec.TimeoutSeconds, 1)
	var result outcome
	var text string
	for range 3 {
		switch s := w.spec; {
		case s.Exec != nil:
			result, text = w.m.tryExec(ctx, w.target, s.Exec, timeout)
		case s.HTTPGet != nil:
			result, text = tryHTTP(ctx, w.target, s.HTTPGet, timeout)
		case s.TCPSocket != nil:
			result, text = tryTCP(ctx, w.target, s.TCPSocket, timeout)
		case s.GRPC != nil:
			result, text = tryGRPC(ctx, w.target, s.GRPC, timeout)
		default:
			return unknown, "missing probe handler for " + w.pod().Namespace + "/" + w.pod().Name + ":" + w.target.container.Name
		}
		if result != unknown || ctx.Err() != nil {
			break
		}
	}
	return result, text
}

// report makes the events that people see in kubectl describe.
func (w *worker) report(result outcome, text string) {
	event := func(reason, format string) {
		w.m.cfg.Event(w.pod(), w.target.container.Name, v1.EventTypeWarning, reason, fmt.Sprintf(format, w.kind, text))
	}
	switch result {
	case failure:
		event("Unhealthy", "%s probe failed: %s")
	case warning:
		event("ProbeWarning", "%s probe warning: %s")
	case unknown:
		event("Unhealthy", "%s probe errored and resulted in unknown state: %s")
	}
}

func (w *worker) pod() *v1.Pod {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.target.pod
}

// tally counts results of one sort in a row.
type tally struct {
	last bool
	run  int32
}

// add counts a result. When the threshold for its sort is reached, turned is true and ok is the result;
// it is so again for every further result of the sort.
func (t *tally) add(ok bool, spec *v1.Probe) (turned, result bool) {
	if t.run == 0 || t.last != ok {
		t.last, t.run = ok, 0
	}
	t.run++
	if ok {
		return t.run >= cmp.Or(spec.SuccessThreshold, 1), true
	}
	return t.run >= cmp.Or(spec.FailureThreshold, 3), false
}

func seconds(n int32, or time.Duration) time.Duration {
	if n <= 0 {
		return or * time.Second
	}
	return time.Duration(n) * time.Second
}

// sleep returns false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
