package webhook_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// answering answers as say says.
func answering(t *testing.T, say func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Errorf("read the review: %v", err)
			return
		}
		answer := say(review.Request)
		answer.UID = review.Request.UID
		json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer})
	})
}

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func deny(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no"}}
}

// hook is a webhook that answers as say says.
func hook(t *testing.T, say func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *httptest.Server {
	s := httptest.NewTLSServer(answering(t, say))
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
	w := admissionregistrationv1.ValidatingWebhook{Name: "v.example.com", Rules: rules(), AdmissionReviewVersions: []string{"v1"},
		SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}
	if s != nil {
		w.ClientConfig = client(s)
	}
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

// A patch cannot make another object of a custom resource, and what the schema does not know is not stored.
func TestPatchedCustomResource(t *testing.T) {
	s := apiservertest.Start(t, nil)
	config := apiservertest.Config(s, "admin")
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	objects := foos(t, config)
	patch := ""
	m := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: ptr.To(admissionv1.PatchTypeJSONPatch), Patch: []byte("[" + patch + "]")}
	})
	rule := rules()
	rule[0].APIGroups, rule[0].Resources = []string{"example.com"}, []string{"foos"}
	_, err = c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "m.example.com", Rules: rule, ClientConfig: client(m), AdmissionReviewVersions: []string{"v1"},
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func() (*unstructured.Unstructured, error) {
		return objects.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Foo",
			"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"known": "x"}}}, metav1.CreateOptions{})
	}
	for _, patch = range []string{
		`{"op":"replace","path":"/kind","value":"Bar"}`, `{"op":"remove","path":"/kind"}`, `{"op":"replace","path":"/kind","value":"ConfigMap"},{"op":"replace","path":"/apiVersion","value":"v1"}`,
		`{"op":"replace","path":"/apiVersion","value":"example.com/v9"}`, `{"op":"replace","path":"/metadata","value":"none"}`, `{"op":"add","path":"/metadata/labels","value":{"a":1}}`,
		`{"op":"replace","path":"","value":null}`, `{"op":"replace","path":"","value":[]}`, `{"op":"replace","path":"/spec","value":"text"}`, `{"op":"replace","path":"/metadata/namespace","value":"kube-system"}`,
	} {
		if _, err := create(); err == nil {
			t.Errorf("%s was accepted", patch)
			_ = objects.Delete(t.Context(), "a", metav1.DeleteOptions{})
		}
	}
	patch = `{"op":"add","path":"/spec/unknown","value":"y"},{"op":"add","path":"/unknown","value":"y"}`
	made, err := create()
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := made.Object["spec"].(map[string]any)
	if _, there := made.Object["unknown"]; there || len(spec) != 1 {
		t.Errorf("got %v, want it without what is unknown", made.Object)
	}
}

// foos are objects of a definition.
func foos(t *testing.T, config *rest.Config) dynamic.ResourceInterface {
	t.Helper()
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]any{"type": "string"}
	of := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties}
	}
	_, err = c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(t.Context(), &unstructured.Unstructured{
		Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "foos.example.com"},
			"spec": map[string]any{"group": "example.com", "scope": "Namespaced", "names": map[string]any{"plural": "foos", "kind": "Foo"},
				"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": of(map[string]any{"spec": of(map[string]any{"known": text})})}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	objects := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "foos"}).Namespace("default")
	err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := objects.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil // it is not served yet
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// A refusal with a code that HTTP does not have is an error of the server. kube-apiserver breaks the connection.
func TestImpossibleCode(t *testing.T) {
	c := start(t)
	validating(t, c, hook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Code: 1000, Message: "no"}}
	}), nil)
	_, err := create(t.Context(), c, "a")
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != 500 || err.Error() != `admission webhook "v.example.com" denied the request: no` {
		t.Errorf("got %v, want a refusal with code 500", err)
	}
}

// An administrator of a namespace has no say in which webhooks are asked.
func TestTenantConfiguresNone(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := kubernetes.NewForConfig(apiservertest.Config(s, "tenant", "tenants"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "tenants"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "tenants"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t.Context(), tenant, "own"); err != nil {
		t.Fatalf("the tenant's own: %v", err)
	}
	configurations := tenant.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	v := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	if _, err := configurations.Create(t.Context(), v, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create: got %v, want 403", err)
	}
	validating(t, admin, hook(t, allow), nil)
	if _, err := configurations.Update(t.Context(), v, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("update: got %v, want 403", err)
	}
	if err := configurations.Delete(t.Context(), "v", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete: got %v, want 403", err)
	}
	if _, err := configurations.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list: got %v, want 403", err)
	}
}

// A configuration counts from the answer to its own write on, and no longer than to that of its deletion.
func TestTakesEffectAtOnce(t *testing.T) {
	c := start(t)
	s := hook(t, deny)
	configurations := c.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	for i := range 50 {
		validating(t, c, s, nil)
		if _, err := create(t.Context(), c, fmt.Sprintf("denied-%d", i)); err == nil {
			t.Fatalf("round %d: not denied by a webhook that is configured", i)
		}
		if err := configurations.Delete(t.Context(), "v", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := create(t.Context(), c, fmt.Sprintf("allowed-%d", i)); err != nil {
			t.Fatalf("round %d: %v, after the webhook was deleted", i, err)
		}
	}
}

// Requests that wait for a webhook hold their places and no more: others are served, and when the webhook answers, all
// places are there again.
func TestHangingHoldsNothing(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Limits.MaxRequests = 40 })
	clientFor := func(name string, groups ...string) kubernetes.Interface {
		config := apiservertest.Config(s, name, groups...)
		config.Transport = noRetries{config.Transport}
		c, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin := clientFor("admin")
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "users"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "users"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waits, other, arrived, goOn := clientFor("waits", "users"), clientFor("other", "users"), make(chan struct{}), make(chan struct{})
	validating(t, admin, hook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		arrived <- struct{}{}
		<-goOn
		return &admissionv1.AdmissionResponse{Allowed: true}
	}), func(w *admissionregistrationv1.ValidatingWebhook) { w.TimeoutSeconds = ptr.To[int32](30) })
	const requests = 60
	// hang fills all places the user can have and returns how many those are.
	hang := func(round int) (held int) {
		results := make(chan error, requests)
		for i := range requests {
			go func() {
				_, err := create(t.Context(), waits, fmt.Sprintf("c-%d-%d", round, i))
				results <- err
			}()
		}
		for refused := 0; held+refused < requests; {
			select {
			case <-arrived:
				held++
			case err := <-results:
				if !apierrors.IsTooManyRequests(err) {
					t.Fatalf("got %v, want 429 or to wait for the webhook", err)
				}
				refused++
			}
		}
		if _, err := other.CoreV1().ConfigMaps("kube-system").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("another user, meanwhile: %v", err)
		}
		for range held {
			goOn <- struct{}{}
		}
		for range held {
			if err := <-results; err != nil {
				t.Errorf("a request that waited: %v", err)
			}
		}
		return held
	}
	first := hang(0)
	if first == 0 || first == requests {
		t.Fatalf("%d of %d requests found a place; the test wants some and not all", first, requests)
	}
	for round := range 3 {
		if again := hang(round + 1); again != first {
			t.Errorf("%d requests found a place, want %d as at first", again, first)
		}
	}
}

// noRetries hides from client-go that it might try again.
type noRetries struct{ next http.RoundTripper }

func (n noRetries) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(r)
	if err == nil {
		resp.Header.Del("Retry-After")
	}
	return resp, err
}

// Metrics have kube-apiserver's names and labels, and tell what a webhook refused from what could not be asked.
func TestMetrics(t *testing.T) {
	s := apiservertest.Start(t, nil)
	c, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	verdict := deny
	h := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return verdict(r) })
	configure := func(change func(*admissionregistrationv1.ValidatingWebhook)) {
		t.Helper()
		_ = c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(t.Context(), "v", metav1.DeleteOptions{})
		validating(t, c, h, change)
		create(t.Context(), c, "a")
	}
	unreachable := admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1")}
	configure(nil)
	configure(func(w *admissionregistrationv1.ValidatingWebhook) { w.ClientConfig = unreachable })
	configure(func(w *admissionregistrationv1.ValidatingWebhook) {
		w.ClientConfig, w.FailurePolicy = unreachable, ptr.To(admissionregistrationv1.Ignore)
	})
	verdict = allow
	configure(func(w *admissionregistrationv1.ValidatingWebhook) {
		w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "c", Expression: "false"}}
	})
	mutating(t, c, hook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: ptr.To(admissionv1.PatchTypeJSONPatch), Patch: []byte(`[{"op":"remove","path":"/nope"}]`)}
	}))
	create(t.Context(), c, "b")
	got, err := c.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`webhook_request_total{code="400",name="v.example.com",operation="CREATE",rejected="true",type="validating"} 1`,
		`webhook_request_total{code="503",name="v.example.com",operation="CREATE",rejected="true",type="validating"} 1`,
		`webhook_request_total{code="503",name="v.example.com",operation="CREATE",rejected="false",type="validating"} 1`,
		`webhook_request_total{code="0",name="m.example.com",operation="CREATE",rejected="true",type="admit"} 1`,
		`webhook_rejection_count{error_type="no_error",name="v.example.com",operation="CREATE",rejection_code="400",type="validating"} 1`,
		`webhook_rejection_count{error_type="calling_webhook_error",name="v.example.com",operation="CREATE",rejection_code="503",type="validating"} 1`,
		`webhook_rejection_count{error_type="apiserver_internal_error",name="m.example.com",operation="CREATE",rejection_code="0",type="admit"} 1`,
		`webhook_fail_open_count{name="v.example.com",type="validating"} 1`,
		`webhook_admission_duration_seconds_count{name="v.example.com",operation="CREATE",rejected="true",type="validating"} 2`,
		`match_condition_exclusions_total{kind="webhook",name="v.example.com",operation="CREATE",type="validate"} 1`,
		`match_condition_evaluation_seconds_count{kind="webhook",name="v.example.com",operation="CREATE",type="validate"} 1`,
	} {
		if !strings.Contains(string(got), "\napiserver_admission_"+want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
}
