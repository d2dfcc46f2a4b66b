package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
)

// BindingTimeout is how long a pod waits for its devices to be ready for its node.
const BindingTimeout = 600 * time.Second

// allocationTimeout is how long the search for devices of one node may take.
const allocationTimeout = 10 * time.Second

// deviceFeatures are those on by default in Kubernetes 1.36.
var deviceFeatures = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, DeviceBindingAndStatus: true, ConsumableCapacity: true,
}

// NewExpressions keeps what CEL expressions about devices compile to.
func NewExpressions() *cel.Cache {
	const most = 10
	return cel.NewCache(most, cel.Features{EnableConsumableCapacity: true})
}

// Devices reads the claims of pods for devices, and what they are allocated from.
type Devices struct {
	// Claim says NotFound as the API does.
	Claim func(namespace, name string) (*resourcev1.ResourceClaim, error)
	// Allocating reports whether devices were found for a claim, and are not written into it yet.
	Allocating func(claim types.UID) bool
	// Allocated is what all claims have, including those that Allocating reports. The result is the caller's.
	Allocated func() (structured.AllocatedState, error)
	Slices    func() ([]*resourcev1.ResourceSlice, error)
	Classes   structured.DeviceClassLister
	// ClassOf is the class of devices that stand for an extended resource, nil: none do. A nil function knows of none.
	ClassOf func(corev1.ResourceName) *resourcev1.DeviceClass
	// Extended is the claim that was made for the extended resources of a pod, nil: none was.
	Extended    func(*corev1.Pod) *resourcev1.ResourceClaim
	Expressions *cel.Cache
}

// DeviceClaims are the claims of a pod for devices, ready to be held against nodes.
type DeviceClaims struct {
	// All are the claims; Open are those without devices.
	All, Open []*resourcev1.ResourceClaim
	// Stale is a claim for extended resources of an attempt that has ended; nil: there is none. What it has need not
	// be right any more, so that it has to go before the pod is placed.
	Stale *resourcev1.ResourceClaim

	pod       *corev1.Pod
	extended  map[corev1.ResourceName]string // resources for which devices stand, with the class of those
	where     []*nodeaffinity.NodeSelector   // of All; nil: the devices are everywhere
	allocator structured.Allocator
}

// Allocation are the devices found for a pod on a node.
type Allocation struct {
	Open     []resourcev1.AllocationResult // of DeviceClaims.Open
	Extended *ExtendedClaim                // nil: the pod needs no devices but those of its claims
}

// none reports whether there is nothing to hold against nodes.
func (c DeviceClaims) none() bool { return len(c.All) == 0 && len(c.extended) == 0 }

// ClaimsForDevices are the claims of a pod. The error says which there is not yet: until all are there nobody looks
// for a node.
func ClaimsForDevices(pod *corev1.Pod, d Devices) ([]*resourcev1.ResourceClaim, error) {
	var claims []*resourcev1.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, made, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // none is needed
		}
		claim, err := d.Claim(pod.Namespace, *name)
		if err != nil {
			return nil, err
		}
		if claim.DeletionTimestamp != nil {
			return nil, fmt.Errorf("resourceclaim %q is being deleted", claim.Name)
		}
		if made {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err
			}
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

// DeviceClaimsOf prepares the claims of a pod, or says why it can run nowhere yet.
func DeviceClaimsOf(pod *Pod, d Devices) (c DeviceClaims, why string, err error) {
	if c.All, err = ClaimsForDevices(pod.Pod, d); err != nil {
		return DeviceClaims{}, err.Error(), nil
	}
	c.pod, c.extended = pod.Pod, d.extended(pod)
	if len(c.extended) > 0 {
		c.Stale = d.Extended(pod.Pod)
	}
	c.where = make([]*nodeaffinity.NodeSelector, len(c.All))
	for i, claim := range c.All {
		if a := claim.Status.Allocation; a != nil {
			if a.NodeSelector == nil {
				continue
			}
			if c.where[i], err = nodeaffinity.NewNodeSelector(a.NodeSelector); err != nil {
				return DeviceClaims{}, "", err
			}
			continue
		}
		if d.Allocating(claim.UID) {
			return DeviceClaims{}, fmt.Sprintf("resource claim %s/%s is in the process of being allocated", claim.Namespace, claim.Name), nil
		}
		if why := missingClass(claim, d.Classes); why != "" {
			return DeviceClaims{}, why, nil
		}
		c.Open = append(c.Open, claim)
	}
	if len(c.Open)+len(c.extended) == 0 {
		return c, "", nil
	}
	c.allocator, err = allocator(d)
	return c, "", err
}

func allocator(d Devices) (structured.Allocator, error) {
	allocated, err := d.Allocated()
	if err != nil {
		return nil, fmt.Errorf("gather allocation state: %w", err)
	}
	list, err := d.Slices()
	if err != nil {
		return nil, err
	}
	return structured.NewAllocator(context.Background(), deviceFeatures, allocated, d.Classes, list, d.Expressions)
}

func missingClass(claim *resourcev1.ResourceClaim, classes structured.DeviceClassLister) string {
	missing := func(class, request string) string {
		if _, err := classes.Get(class); apierrors.IsNotFound(err) {
			return fmt.Sprintf("request %s: device class %s does not exist", request, class)
		}
		return ""
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if why := missing(r.Exactly.DeviceClassName, r.Name); why != "" {
				return why
			}
		}
		for _, sub := range r.FirstAvailable {
			if why := missing(sub.DeviceClassName, resourceclaim.CreateSubRequestRef(r.Name, sub.Name)); why != "" {
				return why
			}
		}
	}
	return ""
}

// Unavailable are the claims whose devices the pod cannot use on n.
func (c DeviceClaims) Unavailable(n *Node) []*resourcev1.ResourceClaim {
	var list []*resourcev1.ResourceClaim
	for i, claim := range c.All {
		if c.where[i] != nil && !c.where[i].Match(n.Node) || claim.Status.Allocation != nil && DevicesFailed(claim, time.Now()) != nil {
			list = append(list, claim)
		}
	}
	return list
}

// Allocate finds devices that can be used on n, for the open claims and for extended resources that n does not have.
// The reason says why the claims keep the pod off n.
func (c DeviceClaims) Allocate(n *Node) (Allocation, *Reason) {
	if c.Stale != nil {
		return Allocation{}, because("cannot schedule extended resource claim")
	}
	wanted, extended := c.Open, c.extendedClaim(n)
	if extended != nil {
		wanted = append(slices.Clip(wanted), extended.Claim)
	}
	results, reason := c.allocate(n, wanted)
	if reason != nil {
		return Allocation{}, reason
	}
	if extended != nil {
		extended.Allocation = results[len(c.Open)]
	}
	return Allocation{Open: results[:len(c.Open)], Extended: extended}, nil
}

// allocate finds devices for claims, one result each.
func (c DeviceClaims) allocate(n *Node, claims []*resourcev1.ResourceClaim) ([]resourcev1.AllocationResult, *Reason) {
	if len(claims) == 0 {
		if len(c.Unavailable(n)) > 0 {
			return nil, finallyBecause("resourceclaim not available on the node")
		}
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), allocationTimeout)
	defer cancel()
	results, err := c.allocator.Allocate(ctx, n.Node, claims)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &Reason{Err: fmt.Errorf("running %q filter plugin: node %s: timed out trying to allocate devices", "DynamicResources", n.Name)}
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, finallyBecause(err.Error())
	case err != nil: // the claim or the class is wrong, whatever the node
		return nil, &Reason{Err: fmt.Errorf("running %q filter plugin: %w", "DynamicResources", err)}
	case len(results) < len(claims):
		return nil, finallyBecause("cannot allocate all claims")
	case len(c.Unavailable(n)) > 0:
		return nil, finallyBecause("resourceclaim not available on the node")
	}
	return results, nil
}

// devices keeps pods where their claims have, or can get, devices.
func devices(pod *Pod, s *Snapshot) Check {
	if !s.Devices.Wanted(pod) {
		return Check{}
	}
	c, why, err := DeviceClaimsOf(pod, s.Devices)
	switch {
	case err != nil:
		return Check{Err: fmt.Errorf("running PreFilter plugin %q: %w", "DynamicResources", err)}
	case why != "":
		return Check{Never: why}
	case c.none():
		return Check{}
	}
	found := make(map[string][]resourcev1.AllocationResult)
	return Check{
		Filter: func(n *Node) *Reason {
			allocation, reason := c.Allocate(n)
			if reason == nil {
				found[n.Name] = allocation.Open
			}
			return reason
		},
		Score:     func(n *Node) int64 { return c.score(found[n.Name]) },
		Normalize: normalize(false),
	}
}

// score prefers nodes where requests get what they would rather have.
func (c DeviceClaims) score(results []resourcev1.AllocationResult) (score int64) {
	next := 0
	for _, claim := range c.All {
		a := claim.Status.Allocation
		if a == nil {
			a, next = &results[next], next+1
		}
		for _, r := range claim.Spec.Devices.Requests {
			for i, sub := range r.FirstAvailable {
				name := resourceclaim.CreateSubRequestRef(r.Name, sub.Name)
				if slices.ContainsFunc(a.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == name }) {
					score += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - i)
				}
			}
		}
	}
	return score
}

// What becomes of devices that are made ready when it is known where their pod goes.
var (
	errBindingFailed  = errors.New("device binding failed")
	errBindingTimeout = errors.New("device binding timeout")
)

// DevicesReady reports whether the devices of a claim are ready for its node.
func DevicesReady(claim *resourcev1.ResourceClaim) bool {
	return claim.Status.Allocation != nil && !slices.ContainsFunc(claim.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
		conditions := conditionsOf(claim, &r)
		return slices.ContainsFunc(r.BindingConditions, func(c string) bool { return !meta.IsStatusConditionTrue(conditions, c) })
	})
}

// DevicesFailed says why the devices of a claim will not be ready for its node, or nil.
func DevicesFailed(claim *resourcev1.ResourceClaim, now time.Time) error {
	a := claim.Status.Allocation
	if a == nil {
		return nil
	}
	waits := false
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		waits = true
		conditions := conditionsOf(claim, r)
		for _, name := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(conditions, name); c != nil && c.Status == metav1.ConditionTrue {
				return fmt.Errorf("%w: claim=%s, reason=%s, message=%q", errBindingFailed, claim.Name, c.Reason, c.Message)
			}
		}
	}
	if waits && !DevicesReady(claim) && a.AllocationTimestamp != nil && a.AllocationTimestamp.Add(BindingTimeout).Before(now) {
		return fmt.Errorf("%w: claim=%s", errBindingTimeout, claim.Name)
	}
	return nil
}

// conditionsOf are what the driver says of a device.
func conditionsOf(claim *resourcev1.ResourceClaim, r *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for _, d := range claim.Status.Devices {
		if d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device {
			return d.Conditions
		}
	}
	return nil
}
