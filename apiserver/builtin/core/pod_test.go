package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodGrace(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	running := func(grace *int64) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: grace}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	}
	ended := running(seconds(30))
	ended.Status.Phase = corev1.PodFailed
	unscheduled := running(seconds(30))
	unscheduled.Spec.NodeName = ""
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		options *int64
		want    int64
	}{
		{"the pod's own", running(seconds(30)), nil, 30},
		{"the request's", running(seconds(30)), seconds(5), 5},
		{"at once", running(seconds(30)), seconds(0), 0},
		{"negative", running(seconds(30)), seconds(-1), 1},
		{"none given", running(nil), nil, 0},
		{"ended", ended, seconds(5), 0},
		{"unscheduled", unscheduled, seconds(5), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := podGrace(c.pod, &metav1.DeleteOptions{GracePeriodSeconds: c.options}); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	container := func(requests, limits corev1.ResourceList) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
	}
	full := container(list("1", "1Gi"), list("1", "1Gi"))
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want corev1.PodQOSClass
	}{
		{"nothing", corev1.PodSpec{Containers: []corev1.Container{{}}}, corev1.PodQOSBestEffort},
		{"zero", corev1.PodSpec{Containers: []corev1.Container{container(list("0", ""), nil)}}, corev1.PodQOSBestEffort},
		{"all", corev1.PodSpec{Containers: []corev1.Container{full}, InitContainers: []corev1.Container{full}}, corev1.PodQOSGuaranteed},
		{"one without", corev1.PodSpec{Containers: []corev1.Container{full, {}}}, corev1.PodQOSBurstable},
		{"init without", corev1.PodSpec{Containers: []corev1.Container{full}, InitContainers: []corev1.Container{{}}}, corev1.PodQOSBurstable},
		{"less than limit", corev1.PodSpec{Containers: []corev1.Container{container(list("500m", "1Gi"), list("1", "1Gi"))}}, corev1.PodQOSBurstable},
		{"cpu alone", corev1.PodSpec{Containers: []corev1.Container{container(list("1", ""), list("1", ""))}}, corev1.PodQOSBurstable},
		{"of the pod", corev1.PodSpec{Containers: []corev1.Container{{}}, Resources: &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}}, corev1.PodQOSGuaranteed},
		{"of the pod in part", corev1.PodSpec{Containers: []corev1.Container{full}, Resources: &corev1.ResourceRequirements{Requests: list("1", "")}}, corev1.PodQOSBurstable},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := qosClass(&c.spec); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
