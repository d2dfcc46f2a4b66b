package builtin_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// pods is a namespace in which pods can be made.
func pods(t *testing.T) (client kubernetes.Interface, create func(name string, change func(*corev1.Pod)) *corev1.Pod) {
	t.Helper()
	client, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return client, func(name string, change func(*corev1.Pod)) *corev1.Pod {
		t.Helper()
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: ptr.To(false)},
		}
		if change != nil {
			change(pod)
		}
		pod, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
}

// expect checks the code and the text of an error; 0 means there is none.
func expect(t *testing.T, err error, code int32, message string) {
	t.Helper()
	if code == 0 {
		if err != nil {
			t.Errorf("got %v, want success", err)
		}
		return
	}
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != code || !strings.Contains(err.Error(), message) {
		t.Errorf("got %v, want %d %s", err, code, message)
	}
}

func TestBinding(t *testing.T) {
	client, create := pods(t)
	free := create("free", nil)
	create("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x.y/z"}} })
	for _, c := range []struct {
		name    string
		binding corev1.Binding
		code    int32
		message string
	}{
		{"no target", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free"}, Target: corev1.ObjectReference{Kind: "X"}}, 500,
			`[target.kind: Unsupported value: "X": supported values: "Node", "<empty>", target.name: Required value]`},
		{"another pod", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free", UID: "x"}, Target: corev1.ObjectReference{Name: "n"}}, 409,
			"Precondition failed: UID in precondition: x, UID in object meta: " + string(free.UID)},
		{"gated", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "gated"}, Target: corev1.ObjectReference{Name: "n"}}, 409,
			`Operation cannot be fulfilled on pods/binding "gated": pod gated has non-empty .spec.schedulingGates`},
		{"missing", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "zz"}, Target: corev1.ObjectReference{Name: "n"}}, 404, `pods "zz" not found`},
		{"free", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free", Annotations: map[string]string{"x": "y"}, Labels: map[string]string{"l": "m"}},
			Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, 0, ""},
		{"bound", corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free"}, Target: corev1.ObjectReference{Name: "n"}}, 409,
			`Operation cannot be fulfilled on pods/binding "free": pod free is already assigned to node "n"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, client.CoreV1().Pods("default").Bind(t.Context(), &c.binding, metav1.CreateOptions{}), c.code, c.message)
		})
	}
	pod, err := client.CoreV1().Pods("default").Get(t.Context(), "free", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.NodeName != "n" || pod.Annotations["x"] != "y" || pod.Labels["l"] != "m" || pod.Labels["app"] != "free" {
		t.Errorf("got node %q, annotations %v, labels %v", pod.Spec.NodeName, pod.Annotations, pod.Labels)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Status != corev1.ConditionTrue {
		t.Errorf("got conditions %v, want PodScheduled", c)
	}
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "free", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = client.CoreV1().Pods("default").Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free"}, Target: corev1.ObjectReference{Name: "n"}}, metav1.CreateOptions{})
	expect(t, err, http.StatusConflict, "pod free is being deleted, cannot be assigned to a host")
}

// TestEvictionInBothVersions: clients from before policy/v1 send v1beta1, which is made a v1 of before admission and
// the budget see it.
func TestEvictionInBothVersions(t *testing.T) {
	client, create := pods(t)
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf} {
		create("old", nil)
		eviction := &policyv1beta1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "default"}}
		eviction.SetGroupVersionKind(policyv1beta1.SchemeGroupVersion.WithKind("Eviction"))
		info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), contentType)
		body, err := runtime.Encode(info.Serializer, eviction)
		if err != nil {
			t.Fatal(err)
		}
		err = client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("old").SubResource("eviction").
			SetHeader("Content-Type", contentType).Body(body).Do(t.Context()).Error()
		expect(t, err, 0, "")
		_, err = client.CoreV1().Pods("default").Get(t.Context(), "old", metav1.GetOptions{})
		expect(t, err, http.StatusNotFound, `pods "old" not found`)
	}
}

func TestEviction(t *testing.T) {
	client, create := pods(t)
	ctx := t.Context()
	evict := func(name string, options *metav1.DeleteOptions) error {
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, DeleteOptions: options}
		// The typed client would wait and ask again.
		return client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(name).SubResource("eviction").
			MaxRetries(0).Body(eviction).Do(ctx).Error()
	}
	expect(t, evict("zz", nil), http.StatusNotFound, `pods "zz" not found`)
	create("pending", nil)
	expect(t, evict("pending", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To[types.UID]("x")}}), http.StatusConflict,
		"the UID in the precondition (x) does not match the UID in record (")
	expect(t, evict("pending", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), 0, "")
	expect(t, evict("pending", nil), 0, "")
	_, err := client.CoreV1().Pods("default").Get(ctx, "pending", metav1.GetOptions{})
	expect(t, err, http.StatusNotFound, `pods "pending" not found`)

	running(t, ctx, client, create("web", func(p *corev1.Pod) { p.Spec.NodeName = "n" }))
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	budget, err = client.PolicyV1().PodDisruptionBudgets("default").Create(ctx, budget, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expectBudget(t, evict("web", nil), "The disruption budget b is still being processed by the server.")
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
	if budget, err = client.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expectBudget(t, evict("web", nil), "The disruption budget b needs 1 healthy pods and has 1 currently")
	budget.Status.DisruptionsAllowed = 1
	if _, err = client.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, evict("web", nil), 0, "")
	pod, err := client.CoreV1().Pods("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := pod.Status.Conditions[len(pod.Status.Conditions)-1]
	if pod.DeletionTimestamp == nil || last.Type != corev1.DisruptionTarget || last.Reason != "EvictionByEvictionAPI" {
		t.Errorf("got deletion %v and condition %v", pod.DeletionTimestamp, last)
	}
	budget, err = client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, noted := budget.Status.DisruptedPods["web"]; !noted || budget.Status.DisruptionsAllowed != 0 {
		t.Errorf("got budget %+v, want the pod noted and no disruption left", budget.Status)
	}
}

func running(t *testing.T, ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) {
	t.Helper()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func expectBudget(t *testing.T, err error, why string) {
	t.Helper()
	expect(t, err, http.StatusTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
	cause, ok := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause)
	if !ok || cause.Message != why {
		t.Errorf("got cause %q, want %q", cause.Message, why)
	}
}
