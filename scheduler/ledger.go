package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// ledger says which devices are taken: by the claims as the informer has them, by what the scheduler wrote into
// claims since, and by what it found for claims and has yet to write.
type ledger struct {
	claims resourcelisters.ResourceClaimLister

	mu      sync.Mutex
	written map[types.UID]*resourcev1.ResourceClaim
	found   map[types.UID]finding
	changed chan struct{} // closed and replaced when a claim changes
}

// finding are devices found for a claim of a pod.
type finding struct {
	pod        types.UID
	allocation *resourcev1.AllocationResult
}

func newLedger(claims resourcelisters.ResourceClaimLister) *ledger {
	return &ledger{
		claims: claims, written: make(map[types.UID]*resourcev1.ResourceClaim), found: make(map[types.UID]finding), changed: make(chan struct{}),
	}
}

// claim is the newest state of a claim.
func (l *ledger) claim(namespace, name string) (*resourcev1.ResourceClaim, error) {
	claim, err := l.claims.ResourceClaims(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest(claim), nil
}

// newest is what the scheduler wrote, until the informer has that or more.
func (l *ledger) newest(cached *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	written, ok := l.written[cached.UID]
	if !ok {
		return cached
	}
	if order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, written.ResourceVersion); err != nil || order >= 0 {
		delete(l.written, cached.UID)
		return cached
	}
	return written
}

func (l *ledger) allocating(claim types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.found[claim]
	return ok
}

// find notes the devices found for a claim of a pod.
func (l *ledger) find(claim, pod types.UID, allocation *resourcev1.AllocationResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found[claim] = finding{pod, allocation}
}

// finding is what was found for a claim of a pod, or nil.
func (l *ledger) finding(claim, pod types.UID) *resourcev1.AllocationResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.found[claim]; f.pod == pod {
		return f.allocation
	}
	return nil
}

// made notes that a claim, for which something was found under another UID, has one of its own now.
func (l *ledger) made(before, now types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found[now] = l.found[before]
	delete(l.found, before)
}

// extended is the claim that was made for the extended resources of a pod, or nil.
func (l *ledger) extended(pod *corev1.Pod) *resourcev1.ResourceClaim {
	claims, err := l.claims.ResourceClaims(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil // lists of informers have no errors
	}
	return plugin.ExtendedClaimOf(pod, claims)
}

// write notes a claim as the server has it now.
func (l *ledger) write(claim *resourcev1.ResourceClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[claim.UID] = claim
	delete(l.found, claim.UID)
}

// drop forgets what was found for a pod.
func (l *ledger) drop(pod types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for claim, f := range l.found {
		if f.pod == pod {
			delete(l.found, claim)
		}
	}
}

// stir wakes whoever waits for a claim.
func (l *ledger) stir() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// next is closed when a claim changes after the call.
func (l *ledger) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// allocated counts all that is taken.
func (l *ledger) allocated() (structured.AllocatedState, error) {
	state := structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	claims, err := l.claims.List(labels.Everything())
	if err != nil {
		return state, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	there := sets.New[types.UID]()
	for _, claim := range claims {
		there.Insert(claim.UID)
		take(&state, l.newest(claim).Status.Allocation)
	}
	for uid := range l.written {
		if !there.Has(uid) {
			delete(l.written, uid) // it is gone
		}
	}
	for _, f := range l.found {
		take(&state, f.allocation)
	}
	return state, nil
}

// take counts the devices of an allocation. Administrators look at devices without taking them.
func take(state *structured.AllocatedState, a *resourcev1.AllocationResult) {
	if a == nil {
		return
	}
	for _, r := range a.Devices.Results {
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		switch {
		case r.AdminAccess != nil && *r.AdminAccess:
		case r.ShareID == nil:
			state.AllocatedDevices.Insert(id)
		default:
			state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
			if r.ConsumedCapacity != nil {
				state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
			}
		}
	}
}
