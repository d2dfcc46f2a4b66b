package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// A container that ends is started again at once, then after 10 s, 20 s, 40 s and so on up to 5 minutes.
// One that ran for 10 minutes begins anew.
const (
	crashStart = 10 * time.Second
	crashLimit = 5 * time.Minute
	crashReset = 10 * time.Minute
)

// retryStart is when a start that failed for its configuration is tried again.
const retryStart = 5 * time.Second

// attempt is how the starts of one container went.
type attempt struct {
	delay   time.Duration // before the next start after an end
	started time.Time     // last start
	failure status.Waiting
	retry   time.Time // when to try again after failure
	patient bool      // failure is a back-off: changes of the pod do not shorten it
}

// hurry has a failed start tried again now.
func (a *attempt) hurry() {
	if !a.patient {
		a.retry = time.Time{}
	}
}

// startError is why a container could not be started.
type startError struct {
	reason, message string
	retry           time.Time
}

func (e *startError) Error() string { return e.reason + ": " + e.message }

// task is a goroutine beside the worker.
type task struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (t *task) stop() {
	t.cancel()
	<-t.done
}

func (t *task) finished() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// forgive drops the container's back-off, as it is to start with a new definition.
func (w *worker) forgive(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attempts, name)
}

// waiting is why containers are not started, for the status.
func (w *worker) waiting() map[string]status.Waiting {
	all := map[string]status.Waiting{}
	for name, a := range w.attempts {
		if a.failure.Reason != "" {
			all[name] = a.failure
		}
	}
	return all
}

// attemptOf is the container's record; w.mu must be held.
func (w *worker) attemptOf(name string) *attempt {
	a := w.attempts[name]
	if a == nil {
		a = &attempt{}
		w.attempts[name] = a
	}
	return a
}

// startContainers has the plan's containers started by a goroutine, one after the other, except those
// that have to wait; it looks again when the first of them may.
func startContainers(ctx context.Context, p *pass) (outcome, error) {
	w := p.w
	if w.starting != nil {
		return proceed, nil // its end wakes the worker
	}
	sandbox := p.rt.ReadySandbox()
	var due []*v1.Container
	for _, c := range p.plan.Start {
		if latest := p.rt.Latest(c.Name); latest != nil && (latest.State == runtime.Running || w.killing[latest.ID] != nil) {
			continue // to be replaced when it is down
		}
		if hold := w.hold(p, c); hold > 0 {
			p.soon(hold)
			if isPlainInit(&p.pod.Spec, c) {
				break
			}
			continue
		}
		due = append(due, c)
	}
	if len(due) == 0 || sandbox == nil {
		return proceed, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &task{cancel: cancel, done: make(chan struct{})}
	w.starting = t
	guard.Go("starts of containers", func() {
		defer w.poke()
		defer close(t.done)
		defer cancel()
		w.startAll(ctx, p, *sandbox, due)
	})
	return proceed, nil
}

func isPlainInit(spec *v1.PodSpec, c *v1.Container) bool {
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == c.Name {
			return !status.IsSidecar(c)
		}
	}
	return false
}

// hold is how long the container's start still has to wait: for a failed start to be tried again, or
// because it keeps ending.
func (w *worker) hold(p *pass, c *v1.Container) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.attemptOf(c.Name)
	now := time.Now()
	if wait := a.retry.Sub(now); wait > 0 {
		return wait
	}
	latest := p.rt.Latest(c.Name)
	if latest == nil || latest.State != runtime.Exited {
		return 0
	}
	ran := latest.FinishedAt.Sub(a.started)
	if a.delay == 0 || ran > crashReset {
		a.delay = 0
		return 0
	}
	until := latest.FinishedAt.Add(a.delay)
	if !now.Before(until) {
		return 0
	}
	a.failure = status.Waiting{
		Reason:  "CrashLoopBackOff",
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", a.delay, c.Name, describe(p.pod)),
	}
	a.retry, a.patient = until, true
	p.m.event(p.pod, c.Name, v1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, describe(p.pod)))
	return until.Sub(now)
}

// startAll starts containers one after the other. A plain init container that cannot be started ends it.
func (w *worker) startAll(ctx context.Context, p *pass, sandbox runtime.Sandbox, list []*v1.Container) {
	for _, c := range list {
		err := w.start(ctx, p, sandbox, c)
		if ctx.Err() != nil {
			return
		}
		w.poke() // report it
		if err != nil && isPlainInit(&p.pod.Spec, c) {
			return
		}
	}
}

// start starts one container and keeps the books of its attempts.
func (w *worker) start(ctx context.Context, p *pass, sandbox runtime.Sandbox, c *v1.Container) error {
	w.mu.Lock()
	a := w.attemptOf(c.Name)
	a.started, a.patient = time.Now(), false
	if latest := p.rt.Latest(c.Name); latest != nil && latest.State == runtime.Exited {
		a.delay = min(max(2*a.delay, crashStart), crashLimit)
	}
	w.busy = c.Name
	w.mu.Unlock()

	err := w.bringUp(ctx, p, sandbox, c)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = ""
	clear(w.hidden)
	if err == nil {
		a.failure, a.retry = status.Waiting{}, time.Time{}
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	var failure *startError
	if !errors.As(err, &failure) {
		failure = &startError{reason: "CreateContainerError", message: err.Error(), retry: time.Now().Add(retryStart)}
	}
	a.failure = status.Waiting{Reason: failure.reason, Message: failure.message}
	a.retry = failure.retry
	slog.Debug("container not started", "pod", p.pod.Namespace+"/"+p.pod.Name, "container", c.Name, "error", err)
	return err
}

// bringUp is the way of one container from its image to a completed post-start hook.
func (w *worker) bringUp(ctx context.Context, p *pass, sandbox runtime.Sandbox, c *v1.Container) error {
	m := w.m
	sandboxConfig, err := m.sandboxConfig(p.pod, sandbox.Attempt)
	if err != nil {
		return configError(p, c, err)
	}
	s := containerSpec{pod: p.pod, c: c, podIPs: podIPs(p, sandbox), restarts: w.restarts(p, c)}
	if s.imageRef, s.volumes, err = m.pullAll(ctx, p, c, sandboxConfig); err != nil {
		return err
	}
	if s.target, err = target(p, c); err != nil {
		return configError(p, c, err)
	}
	config, err := m.containerConfig(ctx, s)
	if err != nil {
		return configError(p, c, err)
	}

	id, err := m.cfg.Runtime.CreateContainer(ctx, sandbox.ID, config, sandboxConfig)
	if err != nil {
		return failed(p, c, "CreateContainerError", err)
	}
	hook := c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	w.mu.Lock()
	w.actuated[id] = *c.Resources.DeepCopy()
	w.hidden[id] = hook
	w.mu.Unlock()
	m.event(p.pod, c.Name, v1.EventTypeNormal, "Created", "Container created")
	if err := m.cfg.Runtime.StartContainer(ctx, id); err != nil {
		return failed(p, c, "RunContainerError", err)
	}
	m.event(p.pod, c.Name, v1.EventTypeNormal, "Started", "Container started")
	if hook {
		return w.postStart(ctx, p, c, id, s.podIPs)
	}
	return nil
}

func configError(p *pass, c *v1.Container, err error) error {
	return failed(p, c, "CreateContainerConfigError", err)
}

// failed reports a failed start as an event and makes it the container's waiting reason.
func failed(p *pass, c *v1.Container, reason string, err error) error {
	message := runtime.Message(err)
	p.m.event(p.pod, c.Name, v1.EventTypeWarning, "Failed", "Error: "+message)
	return &startError{reason: reason, message: message, retry: time.Now().Add(retryStart)}
}

// postStart runs the container's post-start hook and kills the container if it fails.
func (w *worker) postStart(ctx context.Context, p *pass, c *v1.Container, id string, podIPs []string) error {
	ip := ""
	if len(podIPs) > 0 {
		ip = podIPs[0]
	}
	err := w.m.cfg.Hooks.Run(ctx, c.Lifecycle.PostStart, c, id, ip)
	if err == nil || ctx.Err() != nil {
		return err
	}
	slog.Warn("post-start hook failed", "pod", p.pod.Namespace+"/"+p.pod.Name, "container", c.Name, "error", err)
	// The event does not show the hook's output, which may hold secrets.
	w.m.event(p.pod, c.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	w.m.event(p.pod, c.Name, v1.EventTypeNormal, "Killing", "FailedPostStartHook")
	if err := w.m.cfg.Runtime.StopContainer(ctx, id, specGrace(p.pod)); err != nil {
		slog.Warn("container not stopped after its post-start hook failed", "container", id, "error", err)
	}
	return &startError{reason: "PostStartHookError", message: err.Error()}
}

// podIPs are the addresses containers are told: the sandbox's, or the node's.
func podIPs(p *pass, sandbox runtime.Sandbox) []string {
	if p.pod.Spec.HostNetwork {
		return p.m.cfg.HostIPs
	}
	return sandbox.IPs
}

// restarts is the number of the run to start. When the runtime has forgotten, the status tells, which
// counts a run that vanished, or the log directory.
func (w *worker) restarts(p *pass, c *v1.Container) int {
	if latest := p.rt.Latest(c.Name); latest != nil {
		return latest.Restarts + 1
	}
	w.mu.Lock()
	next := 0
	for _, list := range [][]v1.ContainerStatus{w.status.InitContainerStatuses, w.status.ContainerStatuses} {
		for _, s := range list {
			if s.Name == c.Name {
				next = int(s.RestartCount)
			}
		}
	}
	w.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(w.m.logDir(p.pod), c.Name))
	if err != nil {
		return next // never started here
	}
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), ".")
		if n, err := strconv.Atoi(number); err == nil {
			next = max(next, n+1)
		}
	}
	return next
}

// pullAll brings the container's image and those of its image volumes to the node.
func (m *Manager) pullAll(ctx context.Context, p *pass, c *v1.Container, sandbox *cri.PodSandboxConfig) (string, map[string]string, error) {
	handler, err := m.runtimeHandler(ctx, p.pod)
	if err != nil {
		return "", nil, configError(p, c, err)
	}
	request := images.Request{
		Pod: p.pod.UID, Image: c.Image, Policy: c.ImagePullPolicy,
		Secrets: m.pullSecrets(ctx, p.pod), Handler: handler, Sandbox: sandbox, Annotations: p.pod.Annotations,
		Event: func(eventType, reason, message string) { m.event(p.pod, c.Name, eventType, reason, message) },
	}
	volumes := map[string]string{}
	for _, vm := range c.VolumeMounts {
		v := findVolume(&p.pod.Spec, vm.Name)
		if v == nil || v.Image == nil {
			continue
		}
		of := request
		of.Image, of.Policy = v.Image.Reference, v.Image.PullPolicy
		if volumes[v.Name], err = m.pull(ctx, p, c, of); err != nil {
			return "", nil, err
		}
	}
	ref, err := m.pull(ctx, p, c, request)
	return ref, volumes, err
}

func (m *Manager) pull(ctx context.Context, p *pass, c *v1.Container, r images.Request) (string, error) {
	ref, err := m.cfg.Images.Ensure(ctx, r)
	var missing *images.Error
	if errors.As(err, &missing) {
		m.event(p.pod, c.Name, v1.EventTypeWarning, "Failed", "Error: "+missing.Reason)
		return "", &startError{reason: missing.Reason, message: missing.Message, retry: missing.Retry}
	}
	return ref, err
}

// pullSecrets are the pod's pull secrets that exist; the others are ignored, as a public image may need
// none of them.
func (m *Manager) pullSecrets(ctx context.Context, pod *v1.Pod) []*v1.Secret {
	var secrets []*v1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := m.cfg.Client.CoreV1().Secrets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			m.event(pod, "", v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		secrets = append(secrets, secret)
	}
	return secrets
}

// target is the running container whose processes an ephemeral container asked to see.
func target(p *pass, c *v1.Container) (string, error) {
	for i := range p.pod.Spec.EphemeralContainers {
		e := &p.pod.Spec.EphemeralContainers[i]
		if e.Name != c.Name || e.TargetContainerName == "" {
			continue
		}
		latest := p.rt.Latest(e.TargetContainerName)
		if latest == nil || latest.State != runtime.Running {
			return "", fmt.Errorf("unable to find target container %s", e.TargetContainerName)
		}
		return latest.ID, nil
	}
	return "", nil
}
