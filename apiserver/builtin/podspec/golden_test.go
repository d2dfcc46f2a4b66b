package podspec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/builtin/apps"
	"github.com/skiff-k8s/skiff/apiserver/builtin/batch"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// update asks the API server that KUBECONFIG names for the answers and writes
// them down. It must be a real one; nothing is left behind on it.
var update = flag.Bool("update", false, "take the expected answers from a real API server")

// served asks that server instead of the rows, and writes nothing down: for an
// API server that is to answer like the real one. Its namespace default must have
// the service accounts default, sa and s, none of them mounted into pods.
var served = flag.Bool("served", false, "compare the answers of the API server that KUBECONFIG names")

// TestAnswers compares what is said about workloads with what Kubernetes says.
// Each archive in testdata holds cases of two or three files: NAME.yaml, an
// object; NAME.update.yaml, NAME.status.yaml or the like, a change of it by that
// path; NAME.want, the answer. Objects are JSON merge patches on the smallest
// valid object of their kind.
func TestAnswers(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives in testdata: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			cases := casesOf(archive)
			var out []txtar.File
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { check(t, c) })
				out = append(out, c.files()...)
			}
			if *update {
				archive.Files = out
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// testCase is one object and perhaps one change of it.
type testCase struct {
	name    string
	object  []byte
	via     string // "update", or the subresource the change goes by; "" if none
	change  []byte
	want    string
	hasWant bool
}

func casesOf(a *txtar.Archive) []*testCase {
	var list []*testCase
	byName := make(map[string]*testCase)
	for _, f := range a.Files {
		name, rest, _ := strings.Cut(f.Name, ".")
		c := byName[name]
		if c == nil {
			c = &testCase{name: name}
			byName[name] = c
			list = append(list, c)
		}
		switch rest {
		case "yaml":
			c.object = f.Data
		case "want":
			c.want, c.hasWant = string(f.Data), true
		default:
			c.via, c.change = strings.TrimSuffix(rest, ".yaml"), f.Data
		}
	}
	return list
}

func (c *testCase) files() []txtar.File {
	files := []txtar.File{{Name: c.name + ".yaml", Data: c.object}}
	if c.via != "" {
		files = append(files, txtar.File{Name: c.name + "." + c.via + ".yaml", Data: c.change})
	}
	return append(files, txtar.File{Name: c.name + ".want", Data: []byte(c.want)})
}

func check(t *testing.T, c *testCase) {
	object := merged(t, []byte(smallest[kindOf(t, c.object)]), c.object)
	var got string
	if *served {
		got = theirs(t, object, c)
	} else {
		got = ours(t, object, c)
	}
	if *update {
		c.want = theirs(t, object, c)
	}
	if got != c.want {
		t.Errorf("got\n%s\nwant\n%s", got, c.want)
	}
}

func kindOf(t *testing.T, object []byte) string {
	t.Helper()
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(object, &meta); err != nil {
		t.Fatal(err)
	}
	return meta.Kind
}

// merged applies a merge patch to a document, both YAML, and gives JSON.
func merged(t *testing.T, document, patch []byte) []byte {
	t.Helper()
	var docs [2][]byte
	for i, text := range [][]byte{document, patch} {
		data, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		docs[i] = data
	}
	result, err := jsonpatch.MergePatch(docs[0], docs[1])
	if err != nil {
		t.Fatal(err)
	}
	return result
}

const pod = `{containers: [{name: c, image: i}]}`

const template = `{metadata: {labels: {a: b}}, spec: ` + pod + `}`

const once = `{spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}`

var smallest = map[string]string{
	"Pod":                   `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: ` + pod + `}`,
	"PodTemplate":           `{apiVersion: v1, kind: PodTemplate, metadata: {name: x}, template: ` + template + `}`,
	"ReplicationController": `{apiVersion: v1, kind: ReplicationController, metadata: {name: x}, spec: {template: ` + template + `}}`,
	"Deployment":            `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: ` + template + `}}`,
	"ReplicaSet":            `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: ` + template + `}}`,
	"DaemonSet":             `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: ` + template + `}}`,
	"StatefulSet":           `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: ` + template + `}}`,
	"ControllerRevision":    `{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: x}, revision: 1, data: {a: b}}`,
	"Job":                   `{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: ` + once + `}}`,
	"CronJob":               `{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {schedule: "* * * * *", jobTemplate: {spec: {template: ` + once + `}}}}`,
}

var rows = sync.OnceValue(func() map[string]*resource.Resource {
	byKind := make(map[string]*resource.Resource)
	for _, list := range [][]*resource.Resource{core.Resources(core.Config{}), apps.Resources(), batch.Resources()} {
		for _, r := range list {
			if byKind[r.Kind] == nil || r.Plural == "pods" {
				byKind[r.Kind] = r
			}
		}
	}
	return byKind
})

const uid = "00000000-0000-0000-0000-000000000000"

// ours is the answer of the rows.
func ours(t *testing.T, object []byte, c *testCase) string {
	t.Helper()
	r := rows()[kindOf(t, object)]
	obj := decode(t, r, object)
	obj.SetUID(uid)
	obj.SetNamespace("default")
	r.Prepare(obj, nil)
	if r.HasGeneration {
		obj.SetGeneration(1)
	}
	name := func(name string, prefix bool) []string { return r.Name(name, prefix) }
	errs := validation.ValidateObjectMetaAccessor(obj, true, name, field.NewPath("metadata"))
	errs = append(errs, r.Validate(t.Context(), obj, nil)...)
	if c.via == "" || len(errs) > 0 {
		return answer(t, r, obj, errs, r.Warn(obj, nil))
	}
	obj.SetResourceVersion("1")
	old := obj.DeepCopyObject().(resource.Object)
	stored, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	next := decode(t, r, merged(t, stored, c.change))
	prepare, validate, warn := r.Prepare, r.Validate, r.Warn
	if c.via != "update" {
		sub := r.Sub(c.via)
		prepare, validate, warn = sub.Prepare, sub.Validate, sub.Warn
	}
	prepare(next, old)
	next.SetGeneration(old.GetGeneration())
	if c.via != "status" && r.Generation(next, old) {
		next.SetGeneration(old.GetGeneration() + 1)
	}
	errs = validation.ValidateObjectMetaAccessorUpdate(next, old, field.NewPath("metadata"))
	errs = append(errs, validate(t.Context(), next, old)...)
	return answer(t, r, next, errs, warn(next, old))
}

func decode(t *testing.T, r *resource.Resource, object []byte) resource.Object {
	t.Helper()
	obj := r.New()
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(obj); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	r.Default(obj)
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	return obj
}

// theirs is the answer of the API server.
func theirs(t *testing.T, object []byte, c *testCase) string {
	t.Helper()
	r := rows()[kindOf(t, object)]
	client, warnings := clientFor(t, r)
	create := client.Post().Namespace("default").Resource(r.Plural).Body(object)
	if c.via == "" {
		result, err := answered(create.Param("dryRun", "All").Do(t.Context()))
		return answerOf(t, r, result, err, warnings.take())
	}
	stored, err := answered(create.Do(t.Context()))
	if err != nil {
		return answerOf(t, r, nil, err, warnings.take())
	}
	warnings.take()
	defer func() {
		grace, now := int64(0), metav1.DeletePropagationBackground
		err := client.Delete().Namespace("default").Resource(r.Plural).Name("x").
			Body(&metav1.DeleteOptions{GracePeriodSeconds: &grace, PropagationPolicy: &now}).Do(t.Context()).Error()
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	}()
	put := client.Put().Namespace("default").Resource(r.Plural).Name("x").Param("dryRun", "All")
	if c.via != "update" {
		put = put.SubResource(c.via)
	}
	result, err := answered(put.Body(merged(t, stored, c.change)).Do(t.Context()))
	return answerOf(t, r, result, err, warnings.take())
}

// answered is the body of an answer, or the status it gives as an error.
func answered(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

func answerOf(t *testing.T, r *resource.Resource, result []byte, err error, warnings []string) string {
	t.Helper()
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return causes(status.Status())
	}
	if err != nil {
		t.Fatal(err)
	}
	obj := r.New()
	if err := json.Unmarshal(result, obj); err != nil {
		t.Fatal(err)
	}
	return answer(t, r, obj, nil, warnings)
}

// answer writes down errors, or warnings and the object.
func answer(t *testing.T, r *resource.Resource, obj resource.Object, errs field.ErrorList, warnings []string) string {
	t.Helper()
	if len(errs) > 0 {
		return causes(apierrors.NewInvalid(r.GVK().GroupKind(), obj.GetName(), errs).Status())
	}
	var b strings.Builder
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	strip(obj)
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.ReplaceAll(string(text), string(obj.GetUID()), uid)
	b.WriteString(shown)
	return b.String()
}

func causes(s metav1.Status) string {
	var b strings.Builder
	if s.Details == nil || len(s.Details.Causes) == 0 {
		fmt.Fprintf(&b, "%d %s\n", s.Code, s.Message)
		return b.String()
	}
	for _, cause := range s.Details.Causes {
		fmt.Fprintf(&b, "%s: %s [%s]\n", cause.Field, strings.TrimRight(strings.ReplaceAll(cause.Message, "\n", "\n\t"), "\t"), cause.Type)
	}
	return b.String()
}

// strip takes off what differs from write to write, and what admission adds.
func strip(obj resource.Object) {
	obj.SetManagedFields(nil)
	obj.SetResourceVersion("")
	obj.SetCreationTimestamp(metav1.Time{})
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = nil, nil
	if pod.Spec.ServiceAccountName == "default" {
		pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = "", ""
	}
	var kept []corev1.Toleration
	for _, t := range pod.Spec.Tolerations {
		if t.Key != corev1.TaintNodeNotReady && t.Key != corev1.TaintNodeUnreachable {
			kept = append(kept, t)
		}
	}
	pod.Spec.Tolerations = kept
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
}

// recorder keeps the warnings of the API server.
type recorder struct{ texts []string }

// HandleWarningHeader implements rest.WarningHandler.
func (r *recorder) HandleWarningHeader(code int, _ string, text string) {
	if code == 299 {
		r.texts = append(r.texts, text)
	}
}

func (r *recorder) take() []string {
	texts := r.texts
	r.texts = nil
	return texts
}

func clientFor(t *testing.T, r *resource.Resource) (*rest.RESTClient, *recorder) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	version, warnings := r.GroupVersion(), &recorder{}
	config.GroupVersion, config.APIPath = &version, "/apis"
	if r.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.ContentType = "application/json"
	config.WarningHandler, config.QPS = warnings, -1
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client, warnings
}
