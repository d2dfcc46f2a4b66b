package plugin

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// container requests so many GPUs, and cpu so that these are the second request.
func container(name string, gpus string) corev1.Container {
	c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}
	if gpus != "" {
		c.Resources.Requests["example.com/gpu"] = resource.MustParse(gpus)
	}
	return c
}

func sidecar(c corev1.Container) corev1.Container {
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	return c
}

// TestExtendedRequests: containers that run at the same time have devices of their own, those that run before others
// use theirs.
func TestExtendedRequests(t *testing.T) {
	for _, c := range []struct {
		name             string
		init, containers []corev1.Container
		requests         []string // name×count
		mappings         []string // container:request
	}{
		{"one container", nil, []corev1.Container{container("a", "2")}, []string{"container-0-request-1×2"}, []string{"a:container-0-request-1"}},
		{"one of two", nil, []corev1.Container{container("a", ""), container("b", "1")}, []string{"container-1-request-1×1"}, []string{"b:container-1-request-1"}},
		{"two at once", nil, []corev1.Container{container("a", "1"), container("b", "2")},
			[]string{"container-0-request-1×1", "container-1-request-1×2"}, []string{"a:container-0-request-1", "b:container-1-request-1"}},
		{"zero is none", nil, []corev1.Container{container("a", "0"), container("b", "1")}, []string{"container-1-request-1×1"}, []string{"b:container-1-request-1"}},
		{"one before uses what comes after", []corev1.Container{container("i", "2")}, []corev1.Container{container("a", "1"), container("b", "2")},
			[]string{"container-1-request-1×1", "container-2-request-1×2"},
			[]string{"a:container-1-request-1", "b:container-2-request-1", "i:container-1-request-1", "i:container-2-request-1"}},
		{"one before needs more", []corev1.Container{container("i", "3")}, []corev1.Container{container("a", "1")},
			[]string{"container-0-request-1×2", "container-1-request-1×1"},
			[]string{"a:container-1-request-1", "i:container-1-request-1", "i:container-0-request-1"}},
		{"two before share", []corev1.Container{container("i", "1"), container("j", "3")}, []corev1.Container{container("a", "")},
			[]string{"container-1-request-1×3"}, []string{"i:container-1-request-1", "j:container-1-request-1"}},
		{"a sidecar keeps its own", []corev1.Container{sidecar(container("s", "1")), container("i", "1")}, []corev1.Container{container("a", "")},
			[]string{"container-0-request-1×1", "container-1-request-1×1"}, []string{"s:container-0-request-1", "i:container-1-request-1"}},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: c.init, Containers: c.containers}}
		requests, mappings := extendedRequests(pod, map[corev1.ResourceName]string{"example.com/gpu": "gpu"})
		var got, uses []string
		for _, r := range requests {
			got = append(got, fmt.Sprintf("%s×%d", r.Name, r.Exactly.Count))
			if r.Exactly.DeviceClassName != "gpu" || r.Exactly.AllocationMode != resourcev1.DeviceAllocationModeExactCount {
				t.Errorf("%s: request is %+v", c.name, r.Exactly)
			}
		}
		for _, m := range mappings {
			uses = append(uses, m.ContainerName+":"+m.RequestName)
			if m.ResourceName != "example.com/gpu" {
				t.Errorf("%s: mapping is %+v", c.name, m)
			}
		}
		if !slices.Equal(got, c.requests) || !slices.Equal(uses, c.mappings) {
			t.Errorf("%s: requests %v for %v, want %v for %v", c.name, got, uses, c.requests, c.mappings)
		}
	}
}
