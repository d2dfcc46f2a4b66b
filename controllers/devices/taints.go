package devices

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// The indexes by which a device leads to the claims that have it, and a claim to the slices of its pools.
const (
	claimsByDevice = "device"
	slicesByPool   = "pool"
)

const tainter = "device-taint-eviction-controller"

// TaintEviction deletes pods on nodes whose devices have a NoExecute taint that their claims do not tolerate, or not
// for longer (KEP-5055). It is woken by a pod that is bound or told of its claims, by a claim that gets or loses
// devices or pods, and by a slice in which such taints change, and sleeps until a toleration ends.
func TaintEviction(d Deps) (reconcile.Controller, error) {
	pods, claims, slices := d.Informers.Core().V1().Pods(), d.Informers.Resource().V1().ResourceClaims(), d.Informers.Resource().V1().ResourceSlices()
	if _, err := indexPods(pods.Informer()); err != nil {
		return reconcile.Controller{}, err
	}
	index := claims.Informer().GetIndexer()
	if err := claims.Informer().AddIndexers(cache.Indexers{claimsByDevice: devicesOf}); err != nil {
		return reconcile.Controller{}, err
	}
	if err := slices.Informer().AddIndexers(cache.Indexers{slicesByPool: func(obj any) ([]string, error) {
		s, ok := obj.(*resourcev1.ResourceSlice)
		if !ok {
			return nil, nil
		}
		return []string{s.Spec.Driver + "/" + s.Spec.Pool.Name}, nil
	}}); err != nil {
		return reconcile.Controller{}, err
	}
	e := &taintEviction{
		client: d.Client, pods: pods.Lister(), claims: claims.Lister(), slices: slices.Informer().GetIndexer(),
		events: d.Recorder(tainter), planned: map[types.UID]bool{},
	}
	return reconcile.Controller{
		Name:    "DeviceTaintEviction",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(pods.Informer(), e.podChanged),
			reconcile.On(claims.Informer(), func(old, claim *resourcev1.ResourceClaim) []reconcile.Key {
				if claim == nil || old != nil && equality.Semantic.DeepEqual(old.Status, claim.Status) {
					return nil
				}
				return consumers(claim)
			}),
			reconcile.On(slices.Informer(), func(old, slice *resourcev1.ResourceSlice) []reconcile.Key {
				return users(index, changedTaints(old, slice))
			}),
		},
		Sync: e.sync,
	}, nil
}

type taintEviction struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	claims resourcelisters.ResourceClaimLister
	slices cache.Indexer
	events record.EventRecorder

	mu      sync.Mutex
	planned map[types.UID]bool // pods that are to go later
}

func deviceKey(driver, pool, device string) string { return driver + "/" + pool + "/" + device }

// devicesOf are the keys of the devices that a claim has.
func devicesOf(obj any) ([]string, error) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok || claim.Status.Allocation == nil {
		return nil, nil
	}
	var keys []string
	for _, r := range claim.Status.Allocation.Devices.Results {
		keys = append(keys, deviceKey(r.Driver, r.Pool, r.Device))
	}
	return keys, nil
}

// changedTaints are the keys of the devices of a slice that drive pods away in another way than before.
func changedTaints(old, slice *resourcev1.ResourceSlice) []string {
	before, now := evicting(old), evicting(slice)
	var keys []string
	for key, taints := range now {
		if !equality.Semantic.DeepEqual(before[key], taints) {
			keys = append(keys, key)
		}
		delete(before, key)
	}
	for key := range before {
		keys = append(keys, key)
	}
	return keys
}

// evicting are the NoExecute taints of the devices of a slice that have any.
func evicting(slice *resourcev1.ResourceSlice) map[string][]resourcev1.DeviceTaint {
	taints := map[string][]resourcev1.DeviceTaint{}
	if slice == nil {
		return taints
	}
	for _, d := range slice.Spec.Devices {
		key := deviceKey(slice.Spec.Driver, slice.Spec.Pool.Name, d.Name)
		for _, t := range d.Taints {
			if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
				taints[key] = append(taints[key], t)
			}
		}
	}
	return taints
}

// users are the pods for which devices are reserved.
func users(claims cache.Indexer, devices []string) []reconcile.Key {
	var keys []reconcile.Key
	for _, device := range devices {
		objects, err := claims.ByIndex(claimsByDevice, device)
		if err != nil {
			continue
		}
		for _, obj := range objects {
			if claim, ok := obj.(*resourcev1.ResourceClaim); ok {
				keys = append(keys, consumers(claim)...)
			}
		}
	}
	return keys
}

func consumers(claim *resourcev1.ResourceClaim) []reconcile.Key {
	var keys []reconcile.Key
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" {
			keys = append(keys, reconcile.Key{Namespace: claim.Namespace, Name: r.Name})
		}
	}
	return keys
}

func (e *taintEviction) podChanged(old, pod *corev1.Pod) []reconcile.Key {
	switch {
	case pod == nil:
		e.settle(old)
		return nil
	case len(pod.Spec.ResourceClaims) == 0 || pod.Spec.NodeName == "":
		return nil
	case old != nil && old.Spec.NodeName == pod.Spec.NodeName && equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(pod)}
}

func (e *taintEviction) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	pod, err := e.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return 0, reconcile.IgnoreNotFound(err)
	}
	at := e.evictionTime(pod)
	if at == nil {
		if e.settle(pod) {
			e.events.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
		return 0, nil
	}
	if left := time.Until(*at); left > 0 {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.planned[pod.UID] = true
		return left, nil
	}
	e.events.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	return 0, reconcile.IgnoreNotFound(e.evict(ctx, pod))
}

// settle forgets a pod, and tells whether it was to go later.
func (e *taintEviction) settle(pod *corev1.Pod) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	planned := e.planned[pod.UID]
	delete(e.planned, pod.UID)
	return planned
}

// evictionTime is when the first of the devices of a pod drives it away, or nil.
func (e *taintEviction) evictionTime(pod *corev1.Pod) *time.Time {
	var first *time.Time
	for i := range pod.Spec.ResourceClaims {
		name, made, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		claim, err := e.claims.ResourceClaims(pod.Namespace).Get(*name)
		if err != nil || claim.Status.Allocation == nil || made && resourceclaim.IsForPod(pod, claim, false) != nil || !resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		for _, r := range claim.Status.Allocation.Devices.Results {
			for _, taint := range e.taintsOf(&r) {
				if at, stays := endures(taint, r.Tolerations); !stays && (first == nil || at.Before(*first)) {
					first = &at
				}
			}
		}
	}
	return first
}

// taintsOf are the NoExecute taints of a device, as the newest slices of its pool have them.
func (e *taintEviction) taintsOf(r *resourcev1.DeviceRequestAllocationResult) []resourcev1.DeviceTaint {
	objects, err := e.slices.ByIndex(slicesByPool, r.Driver+"/"+r.Pool)
	if err != nil {
		return nil
	}
	var newest int64
	var taints []resourcev1.DeviceTaint
	for _, obj := range objects {
		slice, ok := obj.(*resourcev1.ResourceSlice)
		if !ok || slice.Spec.Pool.Generation < newest {
			continue
		}
		if slice.Spec.Pool.Generation > newest {
			newest, taints = slice.Spec.Pool.Generation, nil
		}
		taints = append(taints, evicting(slice)[deviceKey(r.Driver, r.Pool, r.Device)]...)
	}
	return taints
}

// endures tells whether tolerations bear a taint for ever, and else until when: the shortest time they give, or the
// moment of the taint if there is none.
func endures(taint resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (until time.Time, stays bool) {
	if taint.TimeAdded != nil {
		until = taint.TimeAdded.Time
	}
	var shortest *int64
	for _, t := range tolerations {
		if t.Effect != resourcev1.DeviceTaintEffectNoExecute || !resourceclaim.ToleratesTaint(t, taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			return until, true
		}
		if seconds := max(*t.TolerationSeconds, 0); shortest == nil || seconds < *shortest {
			shortest = &seconds
		}
	}
	if shortest != nil {
		until = until.Add(time.Duration(*shortest) * time.Second)
	}
	return until, false
}

// evict says in the status of a pod why it is deleted, and deletes it.
func (e *taintEviction) evict(ctx context.Context, pod *corev1.Pod) error {
	condition := corev1apply.PodCondition().WithType(corev1.DisruptionTarget).WithStatus(corev1.ConditionTrue).
		WithReason("DeletionByDeviceTaintManager").WithMessage("Device Taint manager: deleting due to NoExecute taint").
		WithLastTransitionTime(metav1.Now()).WithObservedGeneration(pod.Generation)
	change := corev1apply.Pod(pod.Name, pod.Namespace).WithUID(pod.UID).WithStatus(corev1apply.PodStatus().WithConditions(condition))
	if _, err := e.client.CoreV1().Pods(pod.Namespace).ApplyStatus(ctx, change, metav1.ApplyOptions{FieldManager: tainter, Force: true}); err != nil {
		return fmt.Errorf("tell why the pod is evicted: %w", err)
	}
	return e.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
}
