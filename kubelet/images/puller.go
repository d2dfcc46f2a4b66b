// Package images brings container images to the node (Puller) and removes those that nothing uses when
// the disk fills up (Collector).
package images

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// A failed pull is tried again after backoffStart, and each time twice as late up to backoffLimit.
const (
	backoffStart = 10 * time.Second
	backoffLimit = 5 * time.Minute
)

// Runtime is the image service of the runtime.
type Runtime interface {
	Image(ctx context.Context, spec *cri.ImageSpec) (*cri.Image, error)
	PullImage(ctx context.Context, spec *cri.ImageSpec, auth *cri.AuthConfig, sandbox *cri.PodSandboxConfig) (string, error)
}

// Request asks for the image of one container.
type Request struct {
	Pod     types.UID
	Image   string
	Policy  v1.PullPolicy
	Secrets []*v1.Secret // the pod's imagePullSecrets, those that exist
	Handler string       // the runtime class's handler
	Sandbox *cri.PodSandboxConfig
	// Annotations of the pod are handed to the runtime, whose snapshotters may want them.
	Annotations map[string]string
	// Event reports on the container.
	Event func(eventType, reason, message string)
}

// Error is why an image is not there: Reason and Message as the waiting container shows them.
type Error struct {
	Reason, Message string
	// Retry is when to ask again.
	Retry time.Time
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Puller makes images present. It is safe for concurrent use; pulls run in parallel.
type Puller struct {
	runtime Runtime
	now     func() time.Time

	mu       sync.Mutex
	failures map[failureKey]failure
}

type failureKey struct {
	pod   types.UID
	image string
}

type failure struct {
	at      time.Time
	delay   time.Duration
	message string
}

// NewPuller makes a Puller.
func NewPuller(r Runtime) *Puller {
	return &Puller{runtime: r, now: time.Now, failures: map[failureKey]failure{}}
}

// Ensure makes the image present, as the pull policy says, and returns its reference in the runtime.
// The error is an *Error unless ctx ended.
func (p *Puller) Ensure(ctx context.Context, r Request) (string, error) {
	name, err := ParseName(r.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", r.Image, err)
		r.Event(v1.EventTypeWarning, "InspectFailed", message)
		return "", &Error{Reason: "InvalidImageName", Message: message, Retry: p.now().Add(time.Minute)}
	}
	spec := &cri.ImageSpec{Image: name.String(), UserSpecifiedImage: r.Image, Annotations: r.Annotations, RuntimeHandler: r.Handler}

	if r.Policy != v1.PullAlways {
		ref, err := p.present(ctx, r, spec)
		if ref != "" || err != nil {
			return ref, err
		}
	}
	return p.pull(ctx, r, name, spec)
}

// present returns the reference of an image that is there and may be used, or "" to have it pulled.
func (p *Puller) present(ctx context.Context, r Request, spec *cri.ImageSpec) (string, error) {
	image, err := p.runtime.Image(ctx, spec)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		message := fmt.Sprintf("Failed to inspect image %q: %v", spec.Image, err)
		r.Event(v1.EventTypeWarning, "InspectFailed", message)
		return "", &Error{Reason: "ImageInspectError", Message: message, Retry: p.now().Add(backoffStart)}
	case image != nil:
		r.Event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return image.Id, nil
	case r.Policy == v1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		r.Event(v1.EventTypeWarning, "ErrImageNeverPull", message)
		return "", &Error{Reason: "ErrImageNeverPull", Message: message, Retry: p.now().Add(backoffStart)}
	}
	return "", nil
}

func (p *Puller) pull(ctx context.Context, r Request, name Name, spec *cri.ImageSpec) (string, error) {
	key := failureKey{r.Pod, name.String()}
	if f, held := p.held(key); held {
		message := fmt.Sprintf("Back-off pulling image %q", r.Image)
		r.Event(v1.EventTypeNormal, "BackOff", message)
		return "", &Error{Reason: "ImagePullBackOff", Message: message + ": " + f.message, Retry: f.at.Add(f.delay)}
	}

	r.Event(v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	began := p.now()
	ref, err := p.fetch(ctx, r, name, spec)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		r.Event(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, err))
		p.failed(key, "ErrImagePull: "+err.Error())
		return "", &Error{Reason: "ErrImagePull", Message: err.Error(), Retry: p.now().Add(2 * time.Second)}
	}
	p.succeeded(key)
	took := p.now().Sub(began).Truncate(time.Millisecond)
	r.Event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		r.Image, took, took, p.size(ctx, ref)))
	return ref, nil
}

// fetch pulls with each matching credential in turn, or without any if none matches.
func (p *Puller) fetch(ctx context.Context, r Request, name Name, spec *cri.ImageSpec) (string, error) {
	found, err := credentials(r.Secrets, name)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return p.runtime.PullImage(ctx, spec, nil, r.Sandbox)
	}
	var ref string
	for _, auth := range found {
		if ref, err = p.runtime.PullImage(ctx, spec, auth, r.Sandbox); err == nil {
			return ref, nil
		}
	}
	return "", err
}

func (p *Puller) size(ctx context.Context, ref string) uint64 {
	image, err := p.runtime.Image(ctx, &cri.ImageSpec{Image: ref})
	if err != nil {
		return 0 // only for the event's text
	}
	return image.GetSize()
}

func (p *Puller) held(key failureKey) (failure, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, found := p.failures[key]
	return f, found && p.now().Before(f.at.Add(f.delay))
}

func (p *Puller) failed(key failureKey, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, found := p.failures[key]
	delay := backoffStart
	if found && p.now().Sub(f.at) < 2*backoffLimit {
		delay = min(2*f.delay, backoffLimit)
	}
	p.failures[key] = failure{at: p.now(), delay: delay, message: message}
}

func (p *Puller) succeeded(key failureKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failures, key)
}

// Forget drops the back-off of a pod that is gone.
func (p *Puller) Forget(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.failures {
		if key.pod == pod {
			delete(p.failures, key)
		}
	}
}

var _ Runtime = (*runtime.Client)(nil)
