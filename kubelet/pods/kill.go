package pods

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// minGrace is what a container gets between its stop signal and SIGKILL however short the grace is.
const minGrace = 2 * time.Second

// killing is a container being stopped.
type killing struct {
	task
	grace time.Duration // it was given
	err   error         // valid when done
}

// order makes containers of one pod stop in turn: sidecars after the main containers, the last one
// defined first.
type order struct {
	wait map[string][]string // whom a container waits for

	mu   sync.Mutex
	done map[string]chan struct{} // of those that run, by name; closed when it has stopped
}

// newOrder plans the order for the containers that run.
func newOrder(spec *v1.PodSpec, live []runtime.Container) *order {
	o := &order{done: map[string]chan struct{}{}, wait: map[string][]string{}}
	for _, c := range live {
		o.done[c.Name] = make(chan struct{})
	}
	var before []string
	for i := range spec.Containers {
		before = append(before, spec.Containers[i].Name)
	}
	for i := len(spec.InitContainers) - 1; i >= 0; i-- {
		if c := &spec.InitContainers[i]; status.IsSidecar(c) {
			o.wait[c.Name] = slices.Clone(before)
			before = append(before, c.Name)
		}
	}
	return o
}

// turn waits until the container may be stopped, at most for grace.
func (o *order) turn(ctx context.Context, name string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, other := range o.wait[name] {
		o.mu.Lock()
		stopped, runs := o.done[other]
		o.mu.Unlock()
		if !runs {
			continue
		}
		select {
		case <-stopped:
		case <-ctx.Done():
			return
		}
	}
}

// stopped lets those go on that wait for the container.
func (o *order) stopped(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if stopped, found := o.done[name]; found {
		delete(o.done, name)
		close(stopped)
	}
}

// victim is one container to stop.
type victim struct {
	container runtime.Container
	spec      *v1.Container
	grace     time.Duration
	message   string
	order     *order // nil: at once
}

// kill stops a container beside the worker, which wakes when that is done.
func (w *worker) kill(ctx context.Context, pod *v1.Pod, podIP string, v victim) {
	ctx, cancel := context.WithCancel(ctx)
	k := &killing{task: task{cancel: cancel, done: make(chan struct{})}, grace: v.grace}
	w.killing[v.container.ID] = k
	w.m.event(pod, v.container.Name, v1.EventTypeNormal, "Killing", v.message)
	guard.Go("ends of containers", func() {
		defer w.poke()
		defer close(k.done)
		defer cancel()
		k.err = guard.Call("ends of containers", func() error { return w.m.stop(ctx, pod, podIP, v) })
	})
}

// stop runs the pre-stop hook, waits for the container's turn, and stops it, all within the grace.
func (m *Manager) stop(ctx context.Context, pod *v1.Pod, podIP string, v victim) error {
	began := time.Now()
	left := func() time.Duration { return v.grace - time.Since(began).Truncate(time.Second) }
	if v.spec.Lifecycle != nil && v.spec.Lifecycle.PreStop != nil && v.grace > 0 {
		m.preStop(ctx, pod, podIP, v)
	}
	if v.order != nil && left() > 0 {
		v.order.turn(ctx, v.container.Name, left())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := m.cfg.Runtime.StopContainer(ctx, v.container.ID, max(left(), minGrace)); err != nil {
		return err
	}
	if v.order != nil {
		v.order.stopped(v.container.Name)
	}
	return nil
}

func (m *Manager) preStop(ctx context.Context, pod *v1.Pod, podIP string, v victim) {
	ctx, cancel := context.WithTimeout(ctx, v.grace)
	defer cancel()
	if err := m.cfg.Hooks.Run(ctx, v.spec.Lifecycle.PreStop, v.spec, v.container.ID, podIP); err != nil {
		slog.Warn("pre-stop hook failed", "pod", pod.Namespace+"/"+pod.Name, "container", v.container.Name, "error", err)
		m.event(pod, v.container.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

// reapKills forgets the kills that are done and returns the first error among them.
func (w *worker) reapKills() error {
	var first error
	for id, k := range w.killing {
		if !k.finished() {
			continue
		}
		delete(w.killing, id)
		if k.err != nil && first == nil {
			first = fmt.Errorf("stop container %s: %w", id, k.err)
		}
	}
	return first
}

// killPlanned stops the containers the plan wants stopped while the pod goes on.
func killPlanned(ctx context.Context, p *pass) (outcome, error) {
	w := p.w
	for _, k := range p.plan.Kill {
		id := k.Container.ID
		if k.Replace {
			w.replace[id] = true
		}
		if w.killing[id] != nil {
			continue
		}
		if k.Probe == "" {
			w.forgive(k.Container.Name)
		}
		p.m.cfg.Probes.Stop(id)
		w.kill(ctx, p.pod, podIP(p), victim{container: k.Container, spec: k.Spec, grace: w.probeGrace(p.pod, k), message: k.Message})
	}
	if p.plan.Sandbox {
		return killAll(ctx, p, false)
	}
	return proceed, nil
}

// probeGrace is the grace for a container whose probe failed: the probe's own, else the pod's.
func (w *worker) probeGrace(pod *v1.Pod, k Kill) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if seconds := w.grace[k.Container.ID]; seconds != nil && k.Probe != probe.Kind("") {
		return time.Duration(*seconds) * time.Second
	}
	return specGrace(pod)
}

func specGrace(pod *v1.Pod) time.Duration {
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		return minGrace
	}
	return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
}

// podGrace is the grace of a pod that is being ended.
func (w *worker) podGrace(p *pass, c *runtime.Container) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.pod.DeletionGracePeriodSeconds != nil:
		grace := time.Duration(*p.pod.DeletionGracePeriodSeconds) * time.Second
		if w.override != nil {
			grace = min(grace, *w.override)
		}
		return grace
	case w.override != nil:
		return *w.override
	case p.pod.Spec.TerminationGracePeriodSeconds != nil:
		return specGrace(p.pod)
	case c.Grace != nil:
		return *c.Grace
	}
	return minGrace
}

// killAll stops every container of the pod in order and waits until they are down. A grace that got
// shorter meanwhile counts from then on.
func killAll(ctx context.Context, p *pass, final bool) (outcome, error) {
	w := p.w
	live := p.rt.Live()
	if len(live) == 0 && len(w.killing) == 0 {
		w.order = nil
		return proceed, nil
	}
	shorter := func(c *runtime.Container, k *killing) bool { return final && w.podGrace(p, c) < k.grace }
	if w.order == nil || slices.ContainsFunc(live, func(c runtime.Container) bool {
		k := w.killing[c.ID]
		return k != nil && shorter(&c, k)
	}) {
		w.order = newOrder(&p.pod.Spec, live)
	}
	for i := range live {
		c := &live[i]
		grace := w.podGrace(p, c)
		if k := w.killing[c.ID]; k != nil {
			if !shorter(c, k) {
				continue
			}
			k.stop()
		}
		spec := specOf(p.pod, c)
		w.kill(ctx, p.pod, podIP(p), victim{container: *c, spec: spec, grace: grace, message: "Stopping container " + c.Name, order: w.order})
	}
	return wait, nil
}

// specOf is the container's definition: the pod's, or what its annotations keep of it.
func specOf(pod *v1.Pod, c *runtime.Container) *v1.Container {
	if spec := findContainer(&pod.Spec, c.Name); spec != nil {
		return spec
	}
	return c.Spec
}

func findContainer(spec *v1.PodSpec, name string) *v1.Container {
	for _, c := range allContainers(spec) {
		if c.Name == name {
			return c
		}
	}
	for i := range spec.EphemeralContainers {
		if spec.EphemeralContainers[i].Name == name {
			return (*v1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

func podIP(p *pass) string {
	if p.pod.Spec.HostNetwork && len(p.m.cfg.HostIPs) > 0 {
		return p.m.cfg.HostIPs[0]
	}
	if s := p.rt.ReadySandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0]
	}
	return p.pod.Status.PodIP
}
