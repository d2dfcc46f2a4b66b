package webhook_test

import (
	"fmt"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/webhook"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// unmatched are the webhooks of a server with configurations that are not about ConfigMaps, and the creation of one.
func unmatched(t testing.TB, configurations int) (*webhook.Webhooks, *admission.Attributes) {
	s := apiservertest.Start(t, nil)
	c, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range configurations {
		rule := rules()
		rule[0].APIGroups = []string{"elsewhere.example.com"}
		_, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d", i)}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "m.example.com", Rules: rule, ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1")},
				AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	w := webhook.New(webhook.Config{Served: s.Resources, Changed: s.Store().Changed})
	w.Use(s.Cluster())
	return w, &admission.Attributes{
		Verb: "create", Resource: s.Cluster().Resource("", "configmaps"), Namespace: "default", Name: "a", User: &user.DefaultInfo{Name: "u"},
		New: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}, Cluster: s.Cluster(),
	}
}

func run(t testing.TB, w *webhook.Webhooks, a *admission.Attributes) {
	if err := w.Mutating().Mutate(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := w.Validating().Validate(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// A write pays nothing for webhooks that nobody has configured.
func TestNoneAllocateNothing(t *testing.T) {
	w, a := unmatched(t, 0)
	mutate, validate := w.Mutating().Mutate, w.Validating().Validate
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if mutate(ctx, a) != nil || validate(ctx, a) != nil {
			t.Error("refused")
		}
	}); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkUnmatched(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprintf("configurations=%d", n), func(b *testing.B) {
			w, a := unmatched(b, n)
			b.ReportAllocs()
			for b.Loop() {
				run(b, w, a)
			}
		})
	}
}

// BenchmarkChanged is a write right after one of many configurations has changed.
func BenchmarkChanged(b *testing.B) {
	w, a := unmatched(b, 1000)
	row := a.Cluster.Resource(admissionregistrationv1.GroupName, "mutatingwebhookconfigurations")
	run(b, w, a)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if _, err := a.Cluster.Update(b.Context(), row, "", "c-7", false, func(obj resource.Object) error {
			obj.SetAnnotations(map[string]string{"n": fmt.Sprint(time.Now().UnixNano())})
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		run(b, w, a)
	}
}
