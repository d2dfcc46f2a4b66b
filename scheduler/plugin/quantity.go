package plugin

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func milliCPU(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func bytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

// Resources are amounts: milli-units of cpu, units of everything else. Those that every node has are fields, since
// they are compared for each node of each placement. Resources must not be changed.
type Resources struct {
	cpu, memory, storage, pods int64
	// other is nil if there are no others.
	other map[corev1.ResourceName]int64
}

// amounts turns a resource list into Resources.
func amounts(list corev1.ResourceList) (r Resources) {
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.cpu = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.storage = quantity.Value()
		case corev1.ResourcePods:
			r.pods = quantity.Value()
		default:
			if r.other == nil {
				r.other = make(map[corev1.ResourceName]int64)
			}
			r.other[name] = quantity.Value()
		}
	}
	return r
}

// of is the amount of one resource.
func (r *Resources) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.cpu
	case corev1.ResourceMemory:
		return r.memory
	case corev1.ResourceEphemeralStorage:
		return r.storage
	case corev1.ResourcePods:
		return r.pods
	}
	return r.other[name]
}

func (r *Resources) plus(more *Resources, sign int64) Resources {
	sum := *r
	sum.cpu += sign * more.cpu
	sum.memory += sign * more.memory
	sum.storage += sign * more.storage
	sum.pods += sign * more.pods
	if len(more.other) == 0 {
		return sum
	}
	sum.other = make(map[corev1.ResourceName]int64, len(r.other)+len(more.other))
	for name, amount := range r.other {
		sum.other[name] = amount
	}
	for name, amount := range more.other {
		sum.other[name] += sign * amount
	}
	return sum
}
