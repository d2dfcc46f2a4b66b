package apiserver_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestResizeNeedsDeclaredFeatures: a pod is resized only in ways that its node declares. The answers are those of
// kube-apiserver 1.36.3.
func TestResizeNeedsDeclaredFeatures(t *testing.T) {
	admin := clientset(t, apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	_, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const (
		pods  = "InPlacePodLevelResourcesVerticalScaling"
		inits = "InPlacePodVerticalScalingInitContainers"
	)
	declaringNode(t, admin, "bare")
	declaringNode(t, admin, "able", pods, inits, "SomethingNewer")
	declaringNode(t, admin, "half", pods)

	container := func(p *corev1.PodSpec) { setCPU(&p.Containers[0].Resources, "2") }
	whole := func(p *corev1.PodSpec) { setCPU(p.Resources, "5") }
	setup := func(p *corev1.PodSpec) { setCPU(&p.InitContainers[0].Resources, "2") }
	sidecar := func(p *corev1.PodSpec) { setCPU(&p.InitContainers[1].Resources, "2") }
	both := func(p *corev1.PodSpec) { whole(p); setup(p) }
	refused := func(features, node string) string {
		return fmt.Sprintf("pod update requires features %s which are not available on node %q", features, node)
	}
	for i, c := range []struct {
		name, node string
		change     func(*corev1.PodSpec)
		problem    string
	}{
		{"a container needs nothing", "bare", container, ""},
		{"a sidecar needs nothing", "bare", sidecar, ""},
		{"an init container", "bare", setup, refused(inits, "bare")},
		{"the whole pod", "bare", whole, refused(pods, "bare")},
		{"both", "bare", both, refused(pods+", "+inits, "bare")},
		{"one of both", "half", both, refused(inits, "half")},
		{"the whole pod, declared", "half", whole, ""},
		{"all, declared", "able", both, ""},
		{"no node", "gone", setup, `node "gone" not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := sizedPod(t, admin, fmt.Sprint("r", i), c.node)
			c.change(&pod.Spec)
			_, err := admin.CoreV1().Pods("default").UpdateResize(t.Context(), pod.Name, pod, metav1.UpdateOptions{})
			want := ""
			if c.problem != "" {
				want = fmt.Sprintf("pods %q is forbidden: %s", pod.Name, c.problem)
			}
			if got := text(err); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func setCPU(r *corev1.ResourceRequirements, cpu string) {
	r.Requests = corev1.ResourceList{"cpu": apiresource.MustParse(cpu)}
}

func declaringNode(t *testing.T, admin *kubernetes.Clientset, name string, features ...string) {
	t.Helper()
	node, err := admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Allocatable = corev1.ResourceList{"cpu": apiresource.MustParse("100"), "memory": apiresource.MustParse("1Gi"), "pods": apiresource.MustParse("100")}
	node.Status.DeclaredFeatures = features
	if _, err := admin.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func sizedPod(t *testing.T, admin *kubernetes.Clientset, name, node string) *corev1.Pod {
	t.Helper()
	one, always := corev1.ResourceRequirements{}, corev1.ContainerRestartPolicyAlways
	setCPU(&one, "1")
	all := corev1.ResourceRequirements{}
	setCPU(&all, "4")
	pod, err := admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeName: node, Resources: &all,
		InitContainers: []corev1.Container{
			{Name: "setup", Image: "i", Resources: one},
			{Name: "sidecar", Image: "i", Resources: *one.DeepCopy(), RestartPolicy: &always},
		},
		Containers: []corev1.Container{{Name: "c", Image: "i", Resources: *one.DeepCopy()}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}
