package core

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// pods is the row of pods. actions are the subresources that do something to a
// pod (binding, eviction); they are written elsewhere.
func pods(actions ...resource.Subresource[corev1.Pod]) *resource.Resource {
	return resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{
		Version: "v1", Kind: "Pod", Plural: "pods", ShortNames: []string{"po"}, Categories: []string{"all"},
		Default:      defaultPod,
		Prepare:      preparePod,
		Validate:     validatePod,
		Warn:         warnPod,
		Generation:   func(obj, old *corev1.Pod) bool { return !equality.Semantic.DeepEqual(obj.Spec, old.Spec) },
		Fields:       podFields,
		IndexBy:      "spec.nodeName",
		Columns:      podColumns(),
		Subresources: append(podSubresources(), actions...),
		Grace:        podGrace,

		AnswersDeleted: true,
	})
}

// podFields are the values field selectors of pods can name.
var podFields = map[string]func(*corev1.Pod) string{
	"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
	"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
	"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
	"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
	"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
	"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
	"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
	"status.podIP":             podIP,
	// The API takes this name and never gives it a value.
	"status.podIPs": func(*corev1.Pod) string { return "" },
}

func podIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) == 0 {
		return ""
	}
	return p.Status.PodIPs[0].IP
}

func podSubresources() []resource.Subresource[corev1.Pod] {
	options := func(kind string) resource.Subresource[corev1.Pod] {
		return resource.Subresource[corev1.Pod]{Kind: corev1.SchemeGroupVersion.WithKind(kind), Verbs: []string{"create", "get"}, Connect: true}
	}
	connect := func(name, kind string, verbs ...string) resource.Subresource[corev1.Pod] {
		s := options(kind)
		s.Name = name
		if len(verbs) > 0 {
			s.Verbs = verbs
		}
		return s
	}
	return []resource.Subresource[corev1.Pod]{
		connect("attach", "PodAttachOptions"),
		{Name: "ephemeralcontainers", View: true, Prepare: prepareEphemeralContainers, Validate: validateEphemeralContainersUpdate},
		connect("exec", "PodExecOptions"),
		{Name: "log", Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Verbs: []string{"get"}, Connect: true},
		connect("portforward", "PodPortForwardOptions"),
		connect("proxy", "PodProxyOptions", "create", "delete", "get", "patch", "update"),
		{Name: "resize", View: true, Prepare: prepareResize, Validate: validateResize},
		{Name: "status", View: true, Prepare: preparePodStatus, Reset: []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"}, Validate: validatePodStatus, Warn: warnPodStatus},
	}
}

// podGrace is the time a pod has to stop: none if no node runs it.
func podGrace(p *corev1.Pod, options *metav1.DeleteOptions) int64 {
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	var seconds int64
	switch {
	case options != nil && options.GracePeriodSeconds != nil:
		seconds = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

// allContainers lists init containers and containers, which alone have
// resources.
func allContainers(s *corev1.PodSpec) []corev1.Container {
	return slices.Concat(s.Containers, s.InitContainers)
}
