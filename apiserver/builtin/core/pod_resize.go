package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// validateResize lets cpu and memory of containers and pods change, and nothing
// else (KEP 1287).
func validateResize(obj, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	errs := validatePodSpec(obj, old)
	if class := qosOf(old); class != qosClass(&obj.Spec) {
		errs = append(errs, field.Invalid(podSpecPath, obj.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(old) {
		errs = append(errs, field.Forbidden(podSpecPath, "Pod running on node without support for resize"))
	}
	rest := obj.Spec.DeepCopy()
	if hasPodResources(obj) || hasPodResources(old) {
		errs = append(errs, resizePod(obj, old, rest)...)
	}
	if order := sameContainers(obj, old); len(order) > 0 {
		return append(errs, order...)
	}
	for _, list := range []struct {
		name     string
		now, was []corev1.Container
	}{{"initContainers", obj.Spec.InitContainers, old.Spec.InitContainers}, {"containers", obj.Spec.Containers, old.Spec.Containers}} {
		for i := range list.was {
			path := podSpecPath.Child(list.name).Index(i).Child("resources")
			errs = append(errs, notRemoved(&list.now[i].Resources, &list.was[i].Resources, path)...)
		}
	}
	errs = append(errs, onlyCompute(rest, &old.Spec)...)
	if len(errs) == 0 && !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(podSpecPath, "only cpu and memory resources are mutable"))
	}
	return errs
}

// qosOf is the class a pod was given, computed for pods from before it was kept.
func qosOf(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	return qosClass(&p.Spec)
}

// resizable reports whether the node of a pod can resize: those that can report
// resources of running containers.
func resizable(p *corev1.Pod) bool {
	for i := range p.Status.ContainerStatuses {
		if c := &p.Status.ContainerStatuses[i]; c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

func hasPodResources(p *corev1.Pod) bool {
	return p.Spec.Resources != nil && len(p.Spec.Resources.Requests)+len(p.Spec.Resources.Limits) > 0
}

// resizePod checks the resources of the pod as a whole, and puts cpu and memory
// of rest back.
func resizePod(obj, old *corev1.Pod, rest *corev1.PodSpec) field.ErrorList {
	path, was := podSpecPath.Child("resources"), old.Spec.Resources
	var errs field.ErrorList
	if was != nil {
		if obj.Spec.Resources == nil {
			return field.ErrorList{field.Forbidden(path, "pod-level resources cannot be removed")}
		}
		if removed(obj.Spec.Resources.Requests, was.Requests) {
			errs = append(errs, field.Forbidden(path.Child("requests"), "pod-level resource requests cannot be removed"))
		}
		if removed(obj.Spec.Resources.Limits, was.Limits) {
			errs = append(errs, field.Forbidden(path.Child("limits"), "pod-level resource limits cannot be removed"))
		}
	} else {
		was = &corev1.ResourceRequirements{}
	}
	if rest.Resources != nil {
		rest.Resources.Requests = computeOf(rest.Resources.Requests, was.Requests)
		rest.Resources.Limits = computeOf(rest.Resources.Limits, was.Limits)
		if old.Spec.Resources == nil && equality.Semantic.DeepEqual(*rest.Resources, corev1.ResourceRequirements{}) {
			rest.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(rest.Resources, old.Spec.Resources) {
		errs = append(errs, field.Forbidden(podSpecPath, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

func sameContainers(obj, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	check := func(name string, now, was []corev1.Container) {
		path := podSpecPath.Child(name)
		if len(now) != len(was) {
			errs = append(errs, field.Forbidden(path, name+" may not be added or removed on resize"))
			return
		}
		for i := range was {
			if now[i].Name != was[i].Name {
				errs = append(errs, field.Forbidden(path.Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
			}
		}
	}
	check("containers", obj.Spec.Containers, old.Spec.Containers)
	check("initContainers", obj.Spec.InitContainers, old.Spec.InitContainers)
	return errs
}

func notRemoved(now, was *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if removed(now.Requests, was.Requests) {
		errs = append(errs, field.Forbidden(path.Child("requests"), "resource requests cannot be removed"))
	}
	if removed(now.Limits, was.Limits) {
		errs = append(errs, field.Forbidden(path.Child("limits"), "resource limits cannot be removed"))
	}
	return errs
}

func removed(now, was corev1.ResourceList) bool {
	for name := range was {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}

// onlyCompute puts cpu and memory of the containers of rest back and blames
// what still differs.
func onlyCompute(rest, was *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for i := range rest.Containers {
		putBack(&rest.Containers[i], &was.Containers[i])
		if !equality.Semantic.DeepEqual(rest.Containers[i], was.Containers[i]) {
			errs = append(errs, field.Forbidden(podSpecPath, "only cpu and memory resources are mutable"))
		}
	}
	for i := range rest.InitContainers {
		c, path := &rest.InitContainers[i], podSpecPath.Child("initContainers").Index(i)
		touched := !equality.Semantic.DeepEqual(*c, was.InitContainers[i])
		putBack(c, &was.InitContainers[i])
		if !equality.Semantic.DeepEqual(*c, was.InitContainers[i]) {
			errs = append(errs, field.Forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		if !touched || podspec.IsSidecar(c) {
			continue
		}
		for _, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Forbidden(path, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
			}
		}
	}
	return errs
}

// putBack gives c the cpu and memory of was. Claims go: a container with claims
// cannot be resized.
func putBack(c, was *corev1.Container) {
	c.Resources = corev1.ResourceRequirements{
		Limits:   computeOf(c.Resources.Limits, was.Resources.Limits),
		Requests: computeOf(c.Resources.Requests, was.Resources.Requests),
	}
}

// computeOf is list with the cpu and memory of was.
func computeOf(list, was corev1.ResourceList) corev1.ResourceList {
	if list == nil && was == nil {
		return nil
	}
	mixed := corev1.ResourceList{}
	for name, q := range list {
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
			mixed[name] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := was[name]; ok {
			mixed[name] = q
		}
	}
	return mixed
}
