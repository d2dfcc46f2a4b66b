// Package quota says what objects use of the resources a ResourceQuota limits.
// It only computes: the API server charges new objects with it, a controller
// counts existing ones.
package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kinds whose objects use more than their count.
var (
	Pods     = schema.GroupResource{Resource: "pods"}
	Services = schema.GroupResource{Resource: "services"}
	Claims   = schema.GroupResource{Resource: "persistentvolumeclaims"}
	// DeviceClaims ask for devices of classes.
	DeviceClaims = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"}
)

// oldCounts are the names by which a few kinds were counted before any kind
// could be, by count/<plural>.<group>.
var oldCounts = map[schema.GroupResource]corev1.ResourceName{
	{Resource: "configmaps"}:             corev1.ResourceConfigMaps,
	{Resource: "resourcequotas"}:         corev1.ResourceQuotas,
	{Resource: "replicationcontrollers"}: corev1.ResourceReplicationControllers,
	{Resource: "secrets"}:                corev1.ResourceSecrets,
}

// countName is the name by which objects of a kind are counted.
func countName(kind schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + kind.String())
}

// Usage is what obj, of a kind, uses at a time.
func Usage(kind schema.GroupResource, obj runtime.Object, now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{countName(kind): *one()}
	if old, ok := oldCounts[kind]; ok {
		used[old] = *one()
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		addPod(used, o, now)
	case *corev1.Service:
		addService(used, o)
	case *corev1.PersistentVolumeClaim:
		addClaim(used, o)
	case *resourcev1.ResourceClaim:
		addDevices(used, o)
	}
	return used
}

func one() *resource.Quantity { return count(1) }

func count(n int) *resource.Quantity { return resource.NewQuantity(int64(n), resource.DecimalSI) }

// Counts reports whether objects of a kind can use the resource of a name.
func Counts(kind schema.GroupResource, name corev1.ResourceName) bool {
	if name == countName(kind) || name == oldCounts[kind] {
		return true
	}
	switch kind {
	case Pods:
		return slices.Contains(podNames, name) || isHugePages(name) || isExtended(name)
	case Services:
		return slices.Contains(serviceNames, name)
	case Claims:
		_, ofClass, found := strings.Cut(string(name), classInfix)
		return slices.Contains(claimNames, name) || found && slices.Contains(claimNames, corev1.ResourceName(ofClass))
	case DeviceClaims:
		return strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
	}
	return false
}

// Kind is the kind whose objects use the resource of a name; false if nothing
// does.
func Kind(name corev1.ResourceName) (schema.GroupResource, bool) {
	if counted, ok := strings.CutPrefix(string(name), "count/"); ok {
		return schema.ParseGroupResource(counted), true
	}
	for kind, old := range oldCounts {
		if name == old {
			return kind, true
		}
	}
	for _, kind := range []schema.GroupResource{Services, Claims, DeviceClaims, Pods} {
		if Counts(kind, name) {
			return kind, true
		}
	}
	return schema.GroupResource{}, false
}

// Matches reports whether a quota with these limits is about obj: it limits
// something objects of the kind use, and obj is in all its scopes.
func Matches(q *corev1.ResourceQuota, limits corev1.ResourceList, kind schema.GroupResource, obj runtime.Object) bool {
	return len(Limited(limits, kind)) > 0 && inScopes(&q.Spec, obj)
}

// Limited are the names of limits that objects of a kind can use, sorted.
func Limited(limits corev1.ResourceList, kind schema.GroupResource) []corev1.ResourceName {
	var names []corev1.ResourceName
	for name := range limits {
		if Counts(kind, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Used sums up what objects of a kind use of what a quota limits. The result
// has all names of spec.hard that the kind can use.
func Used(q *corev1.ResourceQuota, kind schema.GroupResource, objects []runtime.Object, now time.Time) corev1.ResourceList {
	names := Limited(q.Spec.Hard, kind)
	sum := make(corev1.ResourceList, len(names))
	for _, name := range names {
		sum[name] = resource.Quantity{Format: resource.DecimalSI}
	}
	for _, obj := range objects {
		if inScopes(&q.Spec, obj) {
			sum = Add(sum, Mask(Usage(kind, obj, now), names))
		}
	}
	return sum
}

// Add returns the sum of two lists, name by name.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	sum := a.DeepCopy()
	if sum == nil {
		sum = corev1.ResourceList{}
	}
	for name, more := range b {
		quantity, ok := sum[name]
		if !ok {
			sum[name] = more.DeepCopy()
			continue
		}
		quantity.Add(more)
		sum[name] = quantity
	}
	return sum
}

// Growth returns by how much the usage rises from before to now; what falls is
// zero.
func Growth(before, now corev1.ResourceList) corev1.ResourceList {
	growth := corev1.ResourceList{}
	for name, quantity := range now {
		quantity = quantity.DeepCopy()
		if old, ok := before[name]; ok {
			quantity.Sub(old)
		}
		if quantity.Sign() > 0 {
			growth[name] = quantity
		}
	}
	return growth
}

// Mask returns the part of a list that has the given names.
func Mask(list corev1.ResourceList, names []corev1.ResourceName) corev1.ResourceList {
	part := corev1.ResourceList{}
	for _, name := range names {
		if quantity, ok := list[name]; ok {
			part[name] = quantity.DeepCopy()
		}
	}
	return part
}

// Exceeded returns the names of used that are greater than their limit, sorted.
func Exceeded(used, limits corev1.ResourceList) []corev1.ResourceName {
	var names []corev1.ResourceName
	for name, quantity := range used {
		if limit, ok := limits[name]; ok && quantity.Cmp(limit) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
