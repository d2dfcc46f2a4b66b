package webhook_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// hook is a webhook that answers as say says.
func hook(t *testing.T, say func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *httptest.Server {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Errorf("read the review: %v", err)
		}
		answer := say(review.Request)
		if answer == nil {
			w.Write([]byte("garbage"))
			return
		}
		answer.UID = review.Request.UID
		json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer})
	}))
	t.Cleanup(s.Close)
	return s
}

func start(t *testing.T) kubernetes.Interface {
	t.Helper()
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Dial = (&net.Dialer{}).DialContext })
	c, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rules() []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"*"},
		Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
}

func client(s *httptest.Server) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{URL: &s.URL,
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

func mutating(t *testing.T, c kubernetes.Interface, s *httptest.Server) {
	t.Helper()
	_, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "m.example.com", Rules: rules(), ClientConfig: client(s), AdmissionReviewVersions: []string{"v1"},
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func validating(t *testing.T, c kubernetes.Interface, s *httptest.Server, change func(*admissionregistrationv1.ValidatingWebhook)) {
	t.Helper()
	w := admissionregistrationv1.ValidatingWebhook{Name: "v.example.com", Rules: rules(), ClientConfig: client(s), AdmissionReviewVersions: []string{"v1"},
		SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}
	if change != nil {
		change(&w)
	}
	_, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{w}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func create(ctx context.Context, c kubernetes.Interface, name string) (*corev1.ConfigMap, error) {
	return c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
}

// A webhook that calls back is answered, and what it patches is stored.
func TestMutates(t *testing.T) {
	c := start(t)
	patch := admissionv1.PatchTypeJSONPatch
	mutating(t, c, hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if _, err := c.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("call back: %v", err)
		}
		if r.Operation == admissionv1.Delete {
			return &admissionv1.AdmissionResponse{Allowed: true}
		}
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &patch, Patch: []byte(`[{"op":"add","path":"/data/added","value":"yes"}]`)}
	}))
	got, err := create(t.Context(), c, "a")
	if err != nil || got.Data["added"] != "yes" || got.Data["a"] != "b" {
		t.Fatalf("got %v, %v, want data a and added", got, err)
	}
	if err := c.CoreV1().ConfigMaps("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestValidates(t *testing.T) {
	deny := func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no " + r.Name, Reason: "Odd", Code: 418}}
	}
	garbage := func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil }
	for _, c := range []struct {
		name   string
		say    func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
		change func(*admissionregistrationv1.ValidatingWebhook)
		code   int32
		want   string
	}{
		{"denied", deny, nil, 418, `admission webhook "v.example.com" denied the request: no x`},
		{"garbage", garbage, nil, 500, `Internal error occurred: failed calling webhook "v.example.com": failed to call webhook: `},
		{"garbage that may pass", garbage, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.FailurePolicy = ptr.To(admissionregistrationv1.Ignore)
		}, 0, ""},
		{"another operation", deny, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.Rules[0].Operations = []admissionregistrationv1.OperationType{"UPDATE"}
		}, 0, ""},
		{"object not selected", deny, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, 0, ""},
		{"namespace selected", deny, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "default"}}
		}, 418, `admission webhook "v.example.com" denied the request: no x`},
		{"condition false", deny, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "c", Expression: "object.metadata.name == 'y'"}}
		}, 0, ""},
		{"no such service", deny, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.ClientConfig.URL, w.ClientConfig.Service = nil, &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "s"}
		}, 500, `Internal error occurred: failed calling webhook "v.example.com": failed to call webhook: Post "https://s.default.svc:443/?timeout=10s": service "s" not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := start(t)
			validating(t, client, hook(t, c.say), c.change)
			_, err := create(t.Context(), client, "x")
			if c.want == "" {
				if err != nil {
					t.Fatalf("got %v, want success", err)
				}
				return
			}
			var status apierrors.APIStatus
			if !errors.As(err, &status) || !strings.HasPrefix(err.Error(), c.want) || status.Status().Code != c.code {
				t.Errorf("got %v\nwant %d %s", err, c.code, c.want)
			}
		})
	}
}
