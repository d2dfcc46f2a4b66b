package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

// extensions is how much load there is of what others add to an API.
type extensions struct {
	definitions, perGroup int
	objects               int           // of 1 KiB, of a built-in and of a custom kind each
	creates               int           // without and with a webhook
	settle                time.Duration // before memory is looked at
}

// The server that takes longest for definitions says how many there can be: the
// more there are, the longer kube-apiserver takes for one.
var fullExtensions = extensions{definitions: 200, perGroup: 20, objects: 10_000, creates: 500, settle: 15 * time.Second}

func (e extensions) divided(by int) extensions {
	e.definitions /= by
	e.objects /= by
	e.creates /= by
	e.settle /= time.Duration(by)
	return e
}

// longest is how long a load of extensions may take: what is asked for is done
// to its end, as memory is counted by the object.
const longest = 5 * time.Minute

// runExtensions puts the loads of extensions on the server, one after the other.
func (l *load) runExtensions(ctx context.Context, s *subject, k keys) error {
	if err := l.warmExtensions(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *subject) error{l.maps, l.customObjects, l.define, l.documents} {
		if err := step(ctx, s); err != nil {
			return err
		}
	}
	return l.webhooks(ctx, k)
}

func (l *load) warmExtensions(ctx context.Context) error {
	l.space = "extensions"
	if err := l.prepare(ctx); err != nil {
		return err
	}
	return l.warm(ctx)
}

// maps says what an object of a built-in kind costs, beside which those of
// custom kinds stand.
func (l *load) maps(ctx context.Context, s *subject) error {
	return l.counted(ctx, s, "ConfigMap of 1 KiB", l.scale.extensions.objects, func(ctx context.Context) error {
		o, err := work(ctx, 16, l.scale.extensions.objects, longest, func(ctx context.Context, worker, job int) error {
			_, err := l.create(ctx, worker, fmt.Sprintf("map-%d", job))
			return err
		})
		l.addOutcome("create ConfigMaps of 1 KiB, 16 workers", o, 0.99)
		return err
	})
}

// customObjects makes custom resources of the size of the ConfigMaps, each
// judged by a schema and two CEL rules.
func (l *load) customObjects(ctx context.Context, s *subject) error {
	boats := definition("bench.example.com", "boats", "Boat")
	if err := l.defineOne(ctx, 0, boats); err != nil {
		return err
	}
	path := "/apis/bench.example.com/v1/namespaces/" + l.space + "/boats"
	if err := l.untilServed(ctx, path); err != nil {
		return err
	}
	return l.counted(ctx, s, "custom resource of 1 KiB", l.scale.extensions.objects, func(ctx context.Context) error {
		o, err := work(ctx, 16, l.scale.extensions.objects, longest, func(ctx context.Context, worker, job int) error {
			return l.post(ctx, worker, path, map[string]any{
				"apiVersion": "bench.example.com/v1", "kind": "Boat",
				"metadata": map[string]any{"name": fmt.Sprintf("boat-%d", job), "labels": map[string]any{"app": "bench"}},
				"spec":     map[string]any{"replicas": 3, "most": 5, "text": payload()},
			})
		})
		l.addOutcome("create custom resources of 1 KiB judged by CEL rules, 16 workers", o, 0.99)
		return err
	})
}

// define installs definitions as an operator of many kinds does.
func (l *load) define(ctx context.Context, s *subject) error {
	n := l.scale.extensions.definitions
	return l.counted(ctx, s, "definition", n, func(ctx context.Context) error {
		began := time.Now()
		last := make([]string, n)
		o, err := work(ctx, 4, n, longest, func(ctx context.Context, worker, job int) error {
			group, plural := fmt.Sprintf("g%d.bench.example.com", job/l.scale.extensions.perGroup), fmt.Sprintf("things%d", job)
			last[job] = "/apis/" + group + "/v1/" + plural
			return l.defineOne(ctx, worker, definition(group, plural, fmt.Sprintf("Thing%d", job)))
		})
		if err == nil && len(o.took) < n {
			return fmt.Errorf("made %d of %d in %v", len(o.took), n, longest)
		}
		for _, path := range last {
			if err == nil {
				err = l.untilServed(ctx, path)
			}
		}
		l.add(fmt.Sprintf("%d definitions, until all are served", n), seconds, time.Since(began).Seconds())
		return err
	})
}

// documents reads what clients read first.
func (l *load) documents(ctx context.Context, _ *subject) error {
	for _, d := range []struct{ row, path, accept string }{
		{"aggregated discovery with them", "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"},
		{"index of OpenAPI 3 with them", "/openapi/v3", "application/json"},
		{"OpenAPI 3 of one of their groups", "/openapi/v3/apis/g0.bench.example.com/v1", "application/json"},
	} {
		began := time.Now()
		for n := range 20 {
			if _, err := l.clients[0].Discovery().RESTClient().Get().AbsPath(d.path).SetHeader("Accept", d.accept).DoRaw(ctx); err != nil {
				return fmt.Errorf("%s: %w", d.path, err)
			}
			if n == 0 {
				l.add(d.row+", the first time", millis, inMillis(time.Since(began)))
				began = time.Now()
			}
		}
		l.add(d.row+", again", millis, inMillis(time.Since(began)/19))
	}
	return nil
}

// webhooks says what it costs a create to be shown to a webhook that answers at
// once.
func (l *load) webhooks(ctx context.Context, k keys) error {
	create := func(prefix string) (outcome, error) {
		return work(ctx, 1, l.scale.extensions.creates, longest, func(ctx context.Context, worker, job int) error {
			_, err := l.create(ctx, worker, fmt.Sprintf("%s-%d", prefix, job))
			return err
		})
	}
	before, err := create("alone")
	if err != nil {
		return err
	}
	url, stop, err := serveWebhook(k)
	if err != nil {
		return err
	}
	defer stop()
	if err := l.post(ctx, 0, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": map[string]any{"name": "bench"},
		"webhooks": []any{map[string]any{
			"name": "bench.example.com", "admissionReviewVersions": []string{"v1"}, "sideEffects": "None", "failurePolicy": "Fail",
			"clientConfig": map[string]any{"url": url, "caBundle": k.bundle},
			"rules":        []any{map[string]any{"operations": []string{"CREATE"}, "apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"configmaps"}}},
		}},
	}); err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil { // kube-apiserver takes a moment to call it
		return err
	}
	with, err := create("shown")
	if err != nil {
		return err
	}
	l.add("create a ConfigMap, 1 worker: p50", millis, inMillis(quantile.Of(before.took, 0.5)))
	l.add("a webhook adds to that", millis, inMillis(quantile.Of(with.took, 0.5)-quantile.Of(before.took, 0.5)))
	return nil
}

// serveWebhook starts a webhook on loopback that allows everything.
func serveWebhook(k keys) (url string, stop func() error, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Request struct {
				UID string `json:"uid"`
			} `json:"request"`
		}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":%q,"allowed":true}}`, review.Request.UID)
	})}
	go server.ServeTLS(listener, k.cert, k.key)
	return "https://" + listener.Addr().String() + "/", server.Close, nil
}

// counted does what makes n objects and adds what one of them takes of memory.
func (l *load) counted(ctx context.Context, s *subject, what string, n int, make func(context.Context) error) error {
	before, err := s.memory("RssAnon")
	if err != nil {
		return err
	}
	if err := make(ctx); err != nil {
		return fmt.Errorf("make %ss: %w", what, err)
	}
	if err := pause(ctx, l.scale.extensions.settle); err != nil {
		return err
	}
	after, err := s.memory("RssAnon")
	l.add("memory for a "+what, kibibytes, float64(after-before)/float64(n)/(1<<10))
	return err
}

func (l *load) defineOne(ctx context.Context, worker int, d *apiextensionsv1.CustomResourceDefinition) error {
	return l.post(ctx, worker, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", d)
}

func (l *load) post(ctx context.Context, worker int, path string, obj any) error {
	body, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	return l.raw(worker).Post().AbsPath(path).SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(ctx).Error()
}

func (l *load) raw(worker int) rest.Interface { return l.client(worker).Discovery().RESTClient() }

// untilServed returns when a list can be read.
func (l *load) untilServed(ctx context.Context, path string) error {
	for began := time.Now(); ; {
		err := l.raw(0).Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Error()
		if err == nil || time.Since(began) > time.Minute {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// definition has as many fields as one of an operator commonly has, and rules
// about two of them.
func definition(group, plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	most, shortest := int64(2000), 1.0
	fields := map[string]apiextensionsv1.JSONSchemaProps{
		"replicas": {Type: "integer", Minimum: &shortest}, "most": {Type: "integer"}, "text": {Type: "string", MaxLength: &most},
	}
	for n := range 12 {
		inner := make(map[string]apiextensionsv1.JSONSchemaProps)
		for m := range 5 {
			inner[fmt.Sprintf("setting%d", m)] = apiextensionsv1.JSONSchemaProps{Type: "string", Description: strings.Repeat("What this is for. ", 5)}
		}
		fields[fmt.Sprintf("part%d", n)] = apiextensionsv1.JSONSchemaProps{Type: "object", Description: "A part of it, which has settings of its own.", Properties: inner}
	}
	schema := &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"spec": {Type: "object", Properties: fields, XValidations: apiextensionsv1.ValidationRules{
			{Rule: "!has(self.most) || self.replicas <= self.most", Message: "replicas are too many"},
			{Rule: "!has(self.text) || !self.text.startsWith('!')", Message: "text begins with no exclamation mark"},
		}},
		"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": {Type: "integer"}}},
	}}
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
}
