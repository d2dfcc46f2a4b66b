package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"
)

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in what the limit ranges of a namespace say containers use
// by default, and holds containers, pods and claims to their bounds.
func limitRanger() Plugin {
	return Plugin{Name: "LimitRanger",
		Mutate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			ranges, err := list[*corev1.LimitRange](ctx, a.Cluster, "", "limitranges", a.Namespace)
			if err != nil {
				return a.forbid("%w", err)
			}
			for _, r := range ranges {
				defaultResources(pod, r.Spec.Limits)
			}
			return nil
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			check := limitedBy(a)
			if check == nil {
				return nil
			}
			ranges, err := list[*corev1.LimitRange](ctx, a.Cluster, "", "limitranges", a.Namespace)
			if err != nil {
				return a.forbid("%w", err)
			}
			for _, r := range ranges {
				if err := utilerrors.NewAggregate(check(r.Spec.Limits)); err != nil {
					return a.forbid("%w", err)
				}
			}
			return nil
		},
	}
}

// limitedBy returns what checks the object of a against limits; nil if nothing
// of it is limited. Pods change their resources only by resize.
func limitedBy(a *Attributes) func([]corev1.LimitRangeItem) []error {
	if old := a.Old; old != nil {
		if o, ok := old.(interface{ GetDeletionTimestamp() *metav1.Time }); ok && o.GetDeletionTimestamp() != nil {
			return nil
		}
	}
	switch o := a.New.(type) {
	case *corev1.Pod:
		if a.newPod() != nil || a.Verb == update && a.Subresource == "resize" {
			return func(limits []corev1.LimitRangeItem) []error { return checkPod(o, limits) }
		}
	case *corev1.PersistentVolumeClaim:
		if a.Subresource == "" && (a.Verb == create || a.Verb == update) {
			return func(limits []corev1.LimitRangeItem) []error { return checkClaim(o, limits) }
		}
	}
	return nil
}

// defaultResources fills in requests and limits and tells in an annotation.
func defaultResources(pod *corev1.Pod, limits []corev1.LimitRangeItem) {
	requests, bounds := corev1.ResourceList{}, corev1.ResourceList{}
	for _, l := range limits {
		if l.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, l.DefaultRequest)
			maps.Copy(bounds, l.Default)
		}
	}
	var notes []string
	for i := range pod.Spec.Containers {
		notes = append(notes, fillContainer(&pod.Spec.Containers[i], "container", requests, bounds)...)
	}
	for i := range pod.Spec.InitContainers {
		notes = append(notes, fillContainer(&pod.Spec.InitContainers[i], "init container", requests, bounds)...)
	}
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = make(map[string]string)
	}
	pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

func fillContainer(c *corev1.Container, sort string, requests, limits corev1.ResourceList) (notes []string) {
	if set := fillList(&c.Resources.Requests, requests); len(set) > 0 {
		notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(set, ", "), sort, c.Name))
	}
	if set := fillList(&c.Resources.Limits, limits); len(set) > 0 {
		notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(set, ", "), sort, c.Name))
	}
	return notes
}

// fillList adds what is missing and returns the names, sorted.
func fillList(have *corev1.ResourceList, defaults corev1.ResourceList) (set []string) {
	for name, quantity := range defaults {
		if _, ok := (*have)[name]; ok {
			continue
		}
		if *have == nil {
			*have = corev1.ResourceList{}
		}
		(*have)[name] = quantity.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func checkPod(pod *corev1.Pod, limits []corev1.LimitRangeItem) (errs []error) {
	for _, l := range limits {
		switch l.Type {
		case corev1.LimitTypeContainer:
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				errs = append(errs, usage{c.Resources.Requests, c.Resources.Limits}.check(l)...)
			}
		case corev1.LimitTypePod:
			options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, usage{resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)}.check(l)...)
		}
	}
	return errs
}

func checkClaim(claim *corev1.PersistentVolumeClaim, limits []corev1.LimitRangeItem) (errs []error) {
	for _, l := range limits {
		if l.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		u := usage{requests: claim.Spec.Resources.Requests}
		for _, name := range slices.Sorted(maps.Keys(l.Min)) {
			errs = append(errs, u.atLeast(l.Type, name, l.Min[name]))
		}
		for _, name := range slices.Sorted(maps.Keys(l.Max)) {
			errs = append(errs, u.requestAtMost(l.Type, name, l.Max[name]))
		}
	}
	return errs
}

// usage is what something requests and is limited to.
type usage struct{ requests, limits corev1.ResourceList }

func (u usage) check(l corev1.LimitRangeItem) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(l.Min)) {
		errs = append(errs, u.atLeast(l.Type, name, l.Min[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Max)) {
		errs = append(errs, u.atMost(l.Type, name, l.Max[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(l.MaxLimitRequestRatio)) {
		errs = append(errs, u.ratio(l.Type, name, l.MaxLimitRequestRatio[name]))
	}
	return errs
}

func (u usage) atLeast(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity) error {
	request, requested := u.requests[name]
	limit, limited := u.limits[name]
	switch {
	case !requested:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, t, bound.String())
	case request.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())
	case limited && limit.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, t, bound.String(), limit.String())
	}
	return nil
}

func (u usage) atMost(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity) error {
	request, requested := u.requests[name]
	limit, limited := u.limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, t, bound.String())
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, t, bound.String(), limit.String())
	case requested && request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())
	}
	return nil
}

func (u usage) requestAtMost(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity) error {
	request, requested := u.requests[name]
	switch {
	case !requested:
		return fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, t, bound.String())
	case request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())
	}
	return nil
}

func (u usage) ratio(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity) error {
	request, limit := u.requests[name], u.limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, t, bound.String())
	case limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, t, bound.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, t, bound.String(), ratio)
	}
	return nil
}
