package apiserver_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// spans are what a collector was sent.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*tracev1.Span
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range r.ResourceSpans {
		for _, in := range of.ScopeSpans {
			s.all = append(s.all, in.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// of are the spans of requests with an audit id, and the steps below them.
func (s *spans) of(auditID string) []*tracev1.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*tracev1.Span
	for _, span := range s.all {
		for _, a := range span.Attributes {
			if a.Key == "audit-id" && a.Value.GetStringValue() == auditID {
				found = append(found, span)
			}
		}
	}
	for i := 0; i < len(found); i++ {
		for _, span := range s.all {
			if slices.Equal(span.ParentSpanId, found[i].SpanId) {
				found = append(found, span)
			}
		}
	}
	return found
}

func collect(t *testing.T) (s *spans, endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return s, l.Addr().String()
}

// traced starts a server that sends traces to an endpoint.
func traced(t *testing.T, endpoint string, perMillion int) *apiserver.Server {
	t.Helper()
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // milliseconds, by which spans are sent together
	file := filepath.Join(t.TempDir(), "tracing.yaml")
	text := fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: %s\nsamplingRatePerMillion: %d\n", endpoint, perMillion)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return apiservertest.Start(t, func(o *apiserver.Options) { o.Tracing.File = file })
}

// sendTraced sends a request under an audit id, as part of a trace if there is one.
func sendTraced(t *testing.T, s *apiserver.Server, method, path, body, auditID, trace, user string, groups ...string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://in-process"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Audit-Id", auditID)
	r.Header.Set("Content-Type", "application/json")
	if trace != "" {
		r.Header.Set("Traceparent", trace)
	}
	answer, err := apiservertest.Config(s, user, groups...).Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

const (
	traceID, parentID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	sampled           = "00-" + traceID + "-" + parentID + "-01"
	masters           = "system:masters"
)

// TestTraces has every request sampled: steps are below their request, and who is trusted has requests belong to the trace they say.
func TestTraces(t *testing.T) {
	got, endpoint := collect(t)
	s := traced(t, endpoint, 1_000_000)
	if code := sendTraced(t, s, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"c"}}`, "create", sampled, "admin", masters); code != http.StatusCreated {
		t.Fatal(code)
	}
	sendTraced(t, s, "GET", "/api/v1/namespaces/default/configmaps/c", "", "stranger", sampled, "bob", "devs")
	sendTraced(t, s, "GET", "/apis/apps/v1/deployments?limit=1", "", "list", "", "admin", masters)
	eventually(t, "all spans are there", func() bool {
		return len(got.of("create")) >= 7 && len(got.of("stranger")) >= 1 && len(got.of("list")) >= 4
	})
	for auditID, want := range map[string][]string{
		"create": {"POST /api/v1/namespaces/{:namespace}/configmaps", "Create in the store", "Decode", "Encode", "Mutating admission", "Validating admission", "Write the answer"},
		"list":   {"GET /apis/apps/v1/deployments", "Encode", "List from the store", "Write the answer"},
	} {
		all := got.of(auditID)
		var steps []string
		for _, span := range all[1:] {
			steps = append(steps, span.Name)
			if !slices.Equal(span.TraceId, all[0].TraceId) {
				t.Errorf("%s is of another trace than its request", span.Name)
			}
		}
		slices.Sort(steps)
		if names := append([]string{all[0].Name}, steps...); !slices.Equal(names, want) {
			t.Errorf("spans are %q, want %q", names, want)
		}
	}
	if span := got.of("create")[0]; hex.EncodeToString(span.TraceId) != traceID || hex.EncodeToString(span.ParentSpanId) != parentID || span.Kind != tracev1.Span_SPAN_KIND_SERVER {
		t.Errorf("who is trusted has a request of another trace: %v", span)
	}
	span := got.of("stranger")[0]
	if hex.EncodeToString(span.TraceId) == traceID || len(span.ParentSpanId) > 0 || len(span.Links) != 1 || hex.EncodeToString(span.Links[0].TraceId) != traceID {
		t.Errorf("who is not trusted says of which trace a request is: %v", span)
	}
	if got := got.of("list")[0]; len(got.ParentSpanId) > 0 || len(got.Links) > 0 {
		t.Errorf("a request of no trace: %v", got)
	}
}

// TestUnsampled: without a rate only those traces go on that trusted clients have sampled.
func TestUnsampled(t *testing.T) {
	got, endpoint := collect(t)
	s := traced(t, endpoint, 0)
	for auditID, c := range map[string]struct{ trace, user, group string }{
		"no trace": {"", "admin", masters}, "not sampled": {"00-" + traceID + "-" + parentID + "-00", "admin", masters}, "not trusted": {sampled, "bob", "devs"},
	} {
		sendTraced(t, s, "GET", "/api/v1/namespaces/default", "", auditID, c.trace, c.user, c.group)
	}
	// Spans are sent in the order in which they end.
	sendTraced(t, s, "GET", "/api/v1/namespaces/default", "", "watcher", sampled, "prometheus", "system:monitoring")
	eventually(t, "the one that is sampled is there", func() bool { return len(got.of("watcher")) > 0 })
	for _, auditID := range []string{"no trace", "not sampled", "not trusted"} {
		if found := got.of(auditID); len(found) > 0 {
			t.Errorf("%s: %v", auditID, found)
		}
	}
}

// TestCollectorThatHangs takes connections and says nothing. Requests are answered, more than there is room for spans of.
func TestCollectorThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := traced(t, l.Addr().String(), 1_000_000)
	for range 1000 { // with 3 spans each
		if code := sendTraced(t, s, "GET", "/api/v1/namespaces/default", "", "x", "", "admin", masters); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	s.Close() // and what was not sent is given up
}

// TestWebhooksAreTold of which trace a call is, whose span is below the request.
func TestWebhooksAreTold(t *testing.T) {
	got, endpoint := collect(t)
	s := traced(t, endpoint, 1_000_000)
	told := make(chan string, 10)
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		told <- r.Header.Get("Traceparent")
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		json.NewEncoder(w).Encode(review) // an error would fail the test by the failure policy
	}))
	defer hook.Close()
	_, err := clientset(t, apiservertest.Config(s, "admin", masters)).AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "hooks"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "hook.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone),
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To(hook.URL + "/"), CABundle: bundle(hook)},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
		}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if code := sendTraced(t, s, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"c"}}`, "create", "", "admin", masters); code != http.StatusCreated {
		t.Fatal(code)
	}
	call := func() *tracev1.Span {
		for _, span := range got.of("create") {
			if span.Name == "Call validating webhook" {
				return span
			}
		}
		return nil
	}
	eventually(t, "the span of the call is there", func() bool { return call() != nil })
	want := fmt.Sprintf("00-%x-%x-01", call().TraceId, call().SpanId)
	if said := <-told; said != want {
		t.Errorf("the webhook was told %q, want %q", said, want)
	}
}
