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
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

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
	access  access
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

// NewPuller makes a Puller that keeps its records in dir.
func NewPuller(r Runtime, dir string, v Verification) (*Puller, error) {
	if err := v.Validate(); err != nil {
		return nil, err
	}
	records, err := openRecords(dir)
	if err != nil {
		return nil, fmt.Errorf("open the records of image pulls: %w", err)
	}
	return &Puller{
		runtime: r, now: time.Now, failures: map[failureKey]failure{},
		access: access{Verification: v, records: records, running: map[string]int{}},
	}, nil
}

// Recover takes up what an earlier run left behind, given the images that are on the node. Call it before Ensure.
func (p *Puller) Recover(images []*cri.Image) { p.access.recover(images) }

// Prune forgets all images but these, which were there at the time listed.
func (p *Puller) Prune(images []*cri.Image, listed time.Time) { p.access.prune(images, listed) }

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
		ref, err := p.present(ctx, r, name, spec)
		if ref != "" || err != nil {
			return ref, err
		}
	}
	return p.pull(ctx, r, name, spec)
}

// present returns the reference of an image that is there and may be used, or "" to have it pulled.
func (p *Puller) present(ctx context.Context, r Request, name Name, spec *cri.ImageSpec) (string, error) {
	image, err := p.runtime.Image(ctx, spec)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		message := fmt.Sprintf("Failed to inspect image %q: %v", spec.Image, err)
		r.Event(v1.EventTypeWarning, "InspectFailed", message)
		return "", &Error{Reason: "ImageInspectError", Message: message, Retry: p.now().Add(backoffStart)}
	case image != nil && p.access.granted(name, image.Id, secretsFor(r, name)):
		r.Event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return image.Id, nil
	case r.Policy == v1.PullNever: // also of an image that is there for others: whose images are here is not told
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		r.Event(v1.EventTypeWarning, "ErrImageNeverPull", message)
		return "", &Error{Reason: "ErrImageNeverPull", Message: message, Retry: p.now().Add(backoffStart)}
	}
	return "", nil
}

// secretsFor are the pod's secrets that have something for the image.
func secretsFor(r Request, name Name) []kubeletconfig.ImagePullSecret {
	found, err := credentials(r.Secrets, name)
	if err != nil {
		return nil // the pull that follows reports it
	}
	secrets := make([]kubeletconfig.ImagePullSecret, len(found))
	for i, c := range found {
		secrets[i] = c.secret
	}
	return secrets
}

func (p *Puller) pull(ctx context.Context, r Request, name Name, spec *cri.ImageSpec) (string, error) {
	key := failureKey{r.Pod, name.String()}
	if f, held := p.held(key); held {
		message := fmt.Sprintf("Back-off pulling image %q", r.Image)
		r.Event(v1.EventTypeNormal, "BackOff", message)
		return "", &Error{Reason: "ImagePullBackOff", Message: message + ": " + f.message, Retry: f.at.Add(f.delay)}
	}

	if err := p.access.begin(r.Image); err != nil {
		message := fmt.Sprintf("Failed to record image pull intent for container image %q: %v", r.Image, err)
		return "", &Error{Reason: err.Error(), Message: message, Retry: p.now().Add(backoffStart)}
	}
	r.Event(v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	began := p.now()
	ref, secret, err := p.fetch(ctx, r, name, spec)
	if ctx.Err() != nil {
		p.access.abandon(r.Image) // the image may come nevertheless
		return "", ctx.Err()
	}
	if err != nil {
		p.access.end(r.Image)
		r.Event(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, err))
		p.failed(key, "ErrImagePull: "+err.Error())
		return "", &Error{Reason: "ErrImagePull", Message: err.Error(), Retry: p.now().Add(2 * time.Second)}
	}
	p.succeeded(key)
	took := p.now().Sub(began).Truncate(time.Millisecond)
	id, size := p.inspect(ctx, ref)
	p.access.completed(name, id, secret)
	r.Event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		r.Image, took, took, size))
	return ref, nil
}

// fetch pulls with each matching credential in turn, or without any if none matches. The secret is the one
// that it succeeded with.
func (p *Puller) fetch(ctx context.Context, r Request, name Name, spec *cri.ImageSpec) (string, *kubeletconfig.ImagePullSecret, error) {
	found, err := credentials(r.Secrets, name)
	if err != nil {
		return "", nil, err
	}
	if len(found) == 0 {
		ref, err := p.runtime.PullImage(ctx, spec, nil, r.Sandbox)
		return ref, nil, err
	}
	for _, c := range found {
		var ref string
		if ref, err = p.runtime.PullImage(ctx, spec, c.auth, r.Sandbox); err == nil {
			return ref, &c.secret, nil
		}
	}
	return "", nil, err
}

// inspect is the id, by which the image is found later, and the size of what was pulled.
func (p *Puller) inspect(ctx context.Context, ref string) (string, uint64) {
	image, err := p.runtime.Image(ctx, &cri.ImageSpec{Image: ref})
	if err != nil || image == nil {
		return ref, 0 // runtimes that are asked by id answer with the id
	}
	return image.Id, image.Size
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
