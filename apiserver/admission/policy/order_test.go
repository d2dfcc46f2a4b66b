package policy_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// hook is a webhook that answers as say says.
func hook(t *testing.T, say func(object *corev1.ConfigMap) *admissionv1.AdmissionResponse) admissionregistrationv1.WebhookClientConfig {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var object corev1.ConfigMap
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Errorf("read the review: %v", err)
		} else if err := json.Unmarshal(review.Request.Object.Raw, &object); err != nil {
			t.Errorf("read the object: %v", err)
		}
		answer := say(&object)
		answer.UID = review.Request.UID
		if err := json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer}); err != nil {
			t.Errorf("answer: %v", err)
		}
	}))
	t.Cleanup(s.Close)
	return admissionregistrationv1.WebhookClientConfig{URL: &s.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

// Mutating policies come before webhooks that mutate, and once more after those if they are to; validating policies come
// before webhooks that validate, and these before quotas.
func TestOrder(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Dial = (&net.Dialer{}).DialContext })
	c, ctx := as(t, s, "admin"), t.Context()
	patch := admissionv1.PatchTypeJSONPatch
	mutates := hook(t, func(object *corev1.ConfigMap) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &patch, Patch: []byte(`[{"op": "add", "path": "/data/seen", "value": "` + object.Data["policy"] + `"}]`)}
	})
	refuses := hook(t, func(*corev1.ConfigMap) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no"}}
	})
	rules := []admissionregistrationv1.RuleWithOperations{configMaps().ResourceRules[0].RuleWithOperations}
	registration := c.AdmissionregistrationV1()
	must(registration.MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: "m.example.com", Rules: rules, ClientConfig: mutates, AdmissionReviewVersions: []string{"v1"},
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}}}, metav1.CreateOptions{}))(t)
	must(registration.MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{MatchConstraints: configMaps(), ReinvocationPolicy: admissionregistrationv1.IfNeededReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: "Object{data: {'policy': has(object.data.seen) ? 'saw ' + object.data.seen : 'first'}}"}}}}}, metav1.CreateOptions{}))(t)
	must(registration.MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "m"}}, metav1.CreateOptions{}))(t)
	got := must(c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}))(t)
	if got.Data["seen"] != "first" || got.Data["policy"] != "saw first" {
		t.Errorf("got %v, want the webhook to see the policy first, and the policy again the webhook", got.Data)
	}

	quota := must(c.CoreV1().ResourceQuotas("default").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"configmaps": resource.MustParse("0")}}}, metav1.CreateOptions{}))(t)
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: quota.Spec.Hard}
	must(c.CoreV1().ResourceQuotas("default").UpdateStatus(ctx, quota, metav1.UpdateOptions{}))(t)
	must(registration.ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{Name: "v.example.com", Rules: rules, ClientConfig: refuses, AdmissionReviewVersions: []string{"v1"},
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}}}, metav1.CreateOptions{}))(t)
	must(registration.ValidatingAdmissionPolicies().Create(ctx, validating("v", "object.data.policy != 'saw first'"), metav1.CreateOptions{}))(t)
	must(registration.ValidatingAdmissionPolicyBindings().Create(ctx, binding("v", "v"), metav1.CreateOptions{}))(t)
	for _, step := range []struct {
		want string
		then func() error
	}{
		{"ValidatingAdmissionPolicy 'v' with binding 'v' denied request", func() error {
			return registration.ValidatingAdmissionPolicyBindings().Delete(ctx, "v", metav1.DeleteOptions{})
		}},
		{`admission webhook "v.example.com" denied the request: no`, func() error {
			return registration.ValidatingWebhookConfigurations().Delete(ctx, "v", metav1.DeleteOptions{})
		}},
		{"exceeded quota: q", func() error { return nil }},
	} {
		if err := stored(ctx, c, "y"); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("got %v, want %s", err, step.want)
		}
		if err := step.then(); err != nil {
			t.Fatal(err)
		}
	}
}

// stored creates a config map.
func stored(ctx context.Context, c kubernetes.Interface, name string) error {
	_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	return err
}
