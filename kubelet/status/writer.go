package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/guard"
)

// writers is how many statuses are written at once.
const writers = 8

// Writer brings pod statuses to the API, only when they changed and only the newest. It keeps trying
// until a status is written or the pod is gone.
type Writer struct {
	client kubernetes.Interface
	queue  workqueue.TypedRateLimitingInterface[types.UID]
	// written is called after a status of the pod reached the API, with the object the API answered.
	written func(*v1.Pod)

	mu   sync.Mutex
	pods map[types.UID]*entry
}

type entry struct {
	wanted  v1.PodStatus
	base    *v1.Pod // as the API has it, to our knowledge
	dirty   bool    // wanted is not in the API
	writing bool    // a patch is on its way
}

// NewWriter makes a Writer; written may be nil.
func NewWriter(client kubernetes.Interface, written func(*v1.Pod)) *Writer {
	return &Writer{
		client:  client,
		written: written,
		pods:    map[types.UID]*entry{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](200*time.Millisecond, 30*time.Second)),
	}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	var group guard.Group
	for range writers {
		group.Go("pod status", func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	group.Wait()
	return nil
}

// Set makes status the pod's wanted one. pod is the pod as last seen in the API.
func (w *Writer) Set(pod *v1.Pod, status v1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{base: pod}
		w.pods[pod.UID] = e
	}
	e.wanted = status
	w.see(e, pod)
	w.compare(e)
}

// compare has the wanted status written if the API has another one.
func (w *Writer) compare(e *entry) {
	e.dirty = !equality.Semantic.DeepEqual(e.patched().Status, e.base.Status)
	if e.dirty {
		w.queue.Add(e.base.UID)
	}
}

// Saw tells the Writer of a newer version of the pod, which may differ from the wanted status.
func (w *Writer) Saw(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.pods[pod.UID]; e != nil && w.see(e, pod) {
		w.compare(e)
	}
}

// see keeps the newer of two versions of the pod, the given one if they are the same.
func (w *Writer) see(e *entry, pod *v1.Pod) bool {
	if newer(pod, e.base) {
		e.base = pod
		return true
	}
	return false
}

// newer says that a is not older than b.
func newer(a, b *v1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order >= 0
}

// Forget drops what is still to be written of a pod.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

// Settled says whether the API is known to have the newest status of the pod.
func (w *Writer) Settled(uid types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[uid]
	return e == nil || !e.dirty && !e.writing
}

func (w *Writer) next(ctx context.Context) bool {
	uid, stop := w.queue.Get()
	if stop {
		return false
	}
	defer w.queue.Done(uid)
	if err := guard.Call("pod status", func() error { return w.write(ctx, uid) }); err != nil {
		if ctx.Err() == nil {
			slog.Warn("pod status not written, will try again", "error", err)
		}
		w.queue.AddRateLimited(uid)
		return true
	}
	w.queue.Forget(uid)
	return true
}

func (w *Writer) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || !e.dirty {
		w.mu.Unlock()
		return nil
	}
	base, want := e.base, e.patched()
	e.dirty, e.writing = false, true
	w.mu.Unlock()

	result, err := w.patch(ctx, base, want)
	w.mu.Lock()
	e.writing = false
	w.mu.Unlock()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		// Gone, or another pod has taken the name.
		w.Forget(uid)
		result, err = nil, nil
	}
	if err != nil {
		w.mu.Lock()
		e.dirty = true
		w.mu.Unlock()
		return fmt.Errorf("write status of pod %s/%s: %w", base.Namespace, base.Name, err)
	}
	if result == nil {
		result = base
	} else {
		w.mu.Lock()
		w.see(e, result)
		w.mu.Unlock()
	}
	if w.written != nil {
		w.written(result)
	}
	return nil
}

// patched is the pod as it should be in the API: the wanted status, with the conditions that others own
// as they stand.
func (e *entry) patched() *v1.Pod {
	pod := *e.base
	pod.Status = *e.wanted.DeepCopy()
	pod.Status.Conditions = nil
	for _, c := range e.base.Status.Conditions {
		if !Owned(c.Type) && (c.Type != v1.DisruptionTarget || condition(e.wanted.Conditions, c.Type) == nil) {
			pod.Status.Conditions = append(pod.Status.Conditions, c)
		}
	}
	for _, c := range e.wanted.Conditions {
		if Owned(c.Type) || c.Type == v1.DisruptionTarget {
			pod.Status.Conditions = append(pod.Status.Conditions, c)
		}
	}
	return &pod
}

// patch writes the difference between two versions' statuses, bound to the pod's UID; nil means that
// there was none.
func (w *Writer) patch(ctx context.Context, base, want *v1.Pod) (*v1.Pod, error) {
	body, err := Patch(base, want)
	if err != nil || body == nil {
		return nil, err
	}
	return w.client.CoreV1().Pods(base.Namespace).Patch(ctx, base.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
}

// Patch is the strategic merge patch from base's status to want's, or nil when they are equal.
func Patch(base, want *v1.Pod) ([]byte, error) {
	if equality.Semantic.DeepEqual(base.Status, want.Status) {
		return nil, nil
	}
	before, err := json.Marshal(&v1.Pod{Status: base.Status})
	if err != nil {
		return nil, err
	}
	// The UID is in the new version only, so that it becomes part of the patch: a precondition.
	after, err := json.Marshal(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: want.Status})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
}
