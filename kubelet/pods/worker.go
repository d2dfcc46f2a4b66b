package pods

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// Between two looks at a pod when nothing wakes its worker, and after an error.
const (
	lookEvery = time.Minute
	retryMin  = time.Second
	retryMax  = 20 * time.Second
)

// worker is the life of one pod on this node. Its run goroutine does all there is to do; the other
// methods hand it news.
type worker struct {
	m    *Manager
	uid  types.UID
	wake chan struct{}

	mu        sync.Mutex
	pod       *v1.Pod // as last seen in the API, or made up for an orphan
	gone      bool    // the API does not have it
	failure   *status.Failure
	override  *time.Duration // grace of an eviction
	failed    map[string]probe.Kind
	grace     map[string]*int64 // of failed probes, by container id
	attempts  map[string]*attempt
	status    v1.PodStatus
	allocated sizes                              // nil before the first look
	actuated  map[string]v1.ResourceRequirements // by container id
	busy      string                             // container whose start is under way
	hidden    map[string]bool                    // containers by id that are not to be reported yet

	// Of the run goroutine alone:
	admitted bool
	over     bool // nothing is started any more
	settled  bool
	cleared  bool // volumes and control groups are gone
	deleted  bool // the API was asked to delete it
	replace  map[string]bool
	starting *task
	killing  map[string]*killing
	order    *order // of the killing of all
	probing  map[string]bool
	pending  *v1.PodCondition // PodResizePending
	progress *v1.PodCondition // PodResizeInProgress
	retry    time.Duration
	lastErr  string
}

func newWorker(m *Manager, pod *v1.Pod) *worker {
	return &worker{
		m: m, uid: pod.UID, pod: pod, status: *pod.Status.DeepCopy(),
		wake:     make(chan struct{}, 1),
		failed:   map[string]probe.Kind{},
		grace:    map[string]*int64{},
		attempts: map[string]*attempt{},
		hidden:   map[string]bool{},
		actuated: map[string]v1.ResourceRequirements{},
		replace:  map[string]bool{},
		killing:  map[string]*killing{},
		probing:  map[string]bool{},
	}
}

// poke makes the worker look again, once however often it is called meanwhile.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	changed := w.pod.Generation != pod.Generation || !sameMeta(w.pod, pod)
	w.pod, w.gone = pod, false
	if changed {
		for _, a := range w.attempts {
			a.hurry()
		}
	}
	w.mu.Unlock()
	w.m.status.Saw(pod)
	w.poke()
}

func sameMeta(a, b *v1.Pod) bool {
	if len(a.Annotations) != len(b.Annotations) || len(a.Labels) != len(b.Labels) {
		return false
	}
	for _, maps := range [][2]map[string]string{{a.Annotations, b.Annotations}, {a.Labels, b.Labels}} {
		for k, v := range maps[0] {
			if maps[1][k] != v {
				return false
			}
		}
	}
	return true
}

func (w *worker) lose() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.m.status.Forget(w.uid)
	w.poke()
}

func (w *worker) evict(failure status.Failure, grace time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil || w.gone || status.Terminal(w.status.Phase) {
		return false
	}
	w.failure, w.override = &failure, &grace
	w.poke()
	return true
}

// probed takes a probe's changed result.
func (w *worker) probed(c probe.Change) {
	w.mu.Lock()
	if c.Kind != probe.Readiness {
		delete(w.failed, c.ContainerID)
		if !c.Success {
			w.failed[c.ContainerID], w.grace[c.ContainerID] = c.Kind, c.Grace
		}
	}
	w.mu.Unlock()
	w.poke()
}

// published is the pod with its newest status, nil if the API does not have it.
func (w *worker) published() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return nil
	}
	pod := *w.pod
	pod.Status = w.status
	return &pod
}

// run is the worker's goroutine. When ctx ends it stops what runs beside it and leaves the pod running.
func (w *worker) run(ctx context.Context) {
	defer w.abandon()
	for {
		again, done := w.look(ctx)
		if done {
			w.m.drop(w)
			return
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// abandon ends what runs beside the worker.
func (w *worker) abandon() {
	if w.starting != nil {
		w.starting.stop()
	}
	for _, k := range w.killing {
		k.stop()
	}
}

// look is one pass through the steps. It returns when to look again at the latest, and whether there is
// nothing left of the pod.
func (w *worker) look(ctx context.Context) (time.Duration, bool) {
	// What ended beside the worker must be noted before the runtime is read: a state from before its end
	// would have it done twice.
	if w.starting != nil && w.starting.finished() {
		w.starting = nil
	}
	if err := w.reapKills(); err != nil {
		return w.trouble(ctx, "stop containers", err), false
	}
	rt, err := w.m.cfg.Runtime.Pod(ctx, w.uid)
	if err != nil {
		return w.trouble(ctx, "read the runtime's state", err), false
	}
	p := w.pass(rt)
	steps := startSteps
	if w.isOver(p) {
		steps = stopSteps
	}
	for _, s := range steps {
		next, err := s.do(ctx, p)
		if err != nil {
			w.report(p)
			return w.trouble(ctx, s.name, err), false
		}
		if next == done {
			return 0, true
		}
		if next == wait {
			break
		}
	}
	w.retry, w.lastErr = 0, ""
	w.report(p)
	return p.again, false
}

// trouble notes an error and returns how long to wait; the wait grows as long as errors go on.
func (w *worker) trouble(ctx context.Context, step string, err error) time.Duration {
	if ctx.Err() == nil && err.Error() != w.lastErr {
		w.lastErr = err.Error()
		slog.Warn("pod step failed, will try again", "pod", w.name(), "step", step, "error", err)
	}
	w.retry = min(max(w.retry*3/2, retryMin), retryMax)
	return w.retry
}

func (w *worker) name() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod.Namespace + "/" + w.pod.Name
}

// pass is one look at a pod: what it is about does not change during it.
type pass struct {
	w     *worker
	m     *Manager
	pod   *v1.Pod
	gone  bool
	rt    *runtime.Pod
	plan  Plan
	again time.Duration
}

func (w *worker) pass(rt *runtime.Pod) *pass {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.pod
	if w.allocated != nil {
		pod = sized(pod, w.allocated)
	}
	w.forgetOld(rt)
	return &pass{w: w, m: w.m, pod: pod, gone: w.gone, rt: rt, again: lookEvery}
}

// soon brings the next look forward.
func (p *pass) soon(d time.Duration) { p.again = min(p.again, max(d, 10*time.Millisecond)) }

// isOver says whether the pod is to be ended, or has ended. A pod that is over stays so.
func (w *worker) isOver(p *pass) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = w.over || p.gone || p.pod.DeletionTimestamp != nil || w.failure != nil || status.Terminal(p.pod.Status.Phase)
	return w.over
}

// report computes the pod's status and has it written.
func (w *worker) report(p *pass) {
	if p.gone || !w.admitted && !w.over {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rejected() {
		return
	}
	s := status.Compute(status.Input{
		Pod: p.pod, Old: w.status, Runtime: w.visible(p.rt),
		ContainerID: w.m.cfg.Runtime.ContainerID,
		Waiting:     w.waiting(),
		Ready:       p.ready,
		Started:     p.started,
		Actuated:    w.given(p.pod, p.rt),
		Resize:      w.resizeConditions(),
		Over:        w.over,
		Settled:     w.settled,
		Failure:     w.failure,
		HostIPs:     w.m.cfg.HostIPs,
		Now:         time.Now(),
	})
	w.status = s
	w.m.status.Set(p.pod, s)
}

// specByID is the definition of a container by the id of one of its runs, or nil.
func (p *pass) specByID(id string) *v1.Container {
	for i := range p.rt.Containers {
		if p.rt.Containers[i].ID == id {
			return findContainer(&p.pod.Spec, p.rt.Containers[i].Name)
		}
	}
	return nil
}

// started says that a running container passed its startup probe or has none.
func (p *pass) started(id string) bool {
	c := p.specByID(id)
	return c != nil && c.StartupProbe == nil || p.m.cfg.Probes.Started(id)
}

// ready says that a started container passed its readiness probe or has none.
func (p *pass) ready(id string) bool {
	c := p.specByID(id)
	return c != nil && c.ReadinessProbe == nil || p.m.cfg.Probes.Ready(id)
}

// visible leaves out containers whose start is still under way, as the pod's status shows a container
// only when its start is complete.
func (w *worker) visible(rt *runtime.Pod) *runtime.Pod {
	shown := *rt
	shown.Containers = nil
	for _, c := range rt.Containers {
		if w.hidden[c.ID] || c.Name == w.busy && c.State == runtime.Created {
			continue
		}
		shown.Containers = append(shown.Containers, c)
	}
	return &shown
}

// rejected says that the pod was not admitted, which its status tells for good.
func (w *worker) rejected() bool {
	return w.over && !w.admitted && len(w.status.ContainerStatuses) == 0 && status.Terminal(w.status.Phase)
}
