package custom_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// bombDefinition is a definition whose schema of spec is SPEC.
const bombDefinition = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"bombs.example.com"},"spec":{
	"group":"example.com","scope":"Namespaced","names":{"plural":"bombs","kind":"Bomb"},
	"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":SPEC}}}}]}}`

// ruled is an object with properties and a rule.
func ruled(properties, rule string) string {
	text, _ := json.Marshal(rule) // a string has JSON
	return `{"type":"object","properties":{` + properties + `},"x-kubernetes-validations":[{"rule":` + string(text) + `,"message":"m"}]}`
}

// lists are n properties of lists that cost much together.
func lists(n int) (properties string, rules string) {
	var p, r []string
	for i := range n {
		p = append(p, fmt.Sprintf(`"l%d":{"type":"array","maxItems":500,"items":{"type":"string","maxLength":20}}`, i))
		r = append(r, fmt.Sprintf(`{"rule":"self.l%d.all(x, self.l%d.all(y, x != y || x == y))","message":"m"}`, i, i))
	}
	return strings.Join(p, ","), strings.Join(r, ",")
}

// TestBombs: definitions that are made to cost more than they are worth are refused as kube-apiserver was seen to
// refuse them, at once and with nothing of them kept.
func TestBombs(t *testing.T) {
	const at = "spec.validation.openAPIV3Schema.properties[spec]"
	const text = `"s":{"type":"string"}`
	many, rules := lists(40)
	nested := func(n int) string {
		return strings.Repeat(`{"type":"object","properties":{"p":`, n) + `{"type":"string"}` + strings.Repeat("}}", n)
	}
	s := start(t, nil)
	for _, c := range []struct {
		name, spec string
		code       int32
		want       string
	}{
		{"circles", `{"$ref":"#/definitions/spec"}`, 422, at + ".$ref: Forbidden: $ref is not supported"},
		{"all of all of all", ruled(`"l":{"type":"array","items":{"type":"string"}}`, "self.l.all(x, self.l.all(y, self.l.all(z, x == y || y == z)))"), 422,
			at + ".x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"},
		{"lists of lists", `{"type":"array","items":{"type":"array","items":{"type":"array","items":{"type":"string","x-kubernetes-validations":[{"rule":"self.contains('a')"}]}}}}`, 422,
			at + ".items.items.items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"},
		{"too much together", `{"type":"object","properties":{` + many + `},"x-kubernetes-validations":[` + rules + `]}`, 422,
			"Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"},
		{"parentheses", ruled(text, strings.Repeat("(", 3000)+"true"+strings.Repeat(")", 3000)), 422, "compilation failed: ERROR: <input>:-1:0: expression recursion limit exceeded: 250"},
		{"what is not known of", ruled(`"o":{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "has(self.o.x)"), 422, "undefined field 'x'"},
		{"repeated repetition", `{"type":"object","properties":{"s":{"type":"string","pattern":"((a{1000}){1000}){1000}"}}}`, 422, "error parsing regexp: invalid repeat count: `{1000}`"},
		{"a deep pattern", `{"type":"object","properties":{"s":{"type":"string","pattern":"` + strings.Repeat("(", 2000) + "a" + strings.Repeat(")", 2000) + `"}}}`, 422, "error parsing regexp: expression nests too deeply"},
		{"deeper than JSON goes", nested(6000), 400, "exceeded max depth"},
		{"larger than a request may be", `{"type":"object","description":"` + strings.Repeat("d", 3200000) + `"}`, 413, "Request entity too large: limit is 3145728"},
		{"larger than what is stored", `{"type":"object","description":"` + strings.Repeat("d", 1600000) + `"}`, 500, "etcdserver: request is too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, got := s.post(t, definitionsPath, strings.Replace(bombDefinition, "SPEC", c.spec, 1))
			if code != c.code || !strings.Contains(got, c.want) {
				t.Errorf("got %d %.500s\nwant %d %s", code, got, c.code, c.want)
			}
		})
	}
	if list, err := s.Resource(definitions).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("got %d definitions, %v; want none", len(list.Items), err)
	}
}

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// post posts and returns the code and message of the answer.
func (s *server) post(t *testing.T, path, body string) (code int32, message string) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(s.config)
	if err != nil {
		t.Fatal(err)
	}
	err = client.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Code, status.Status().Message
	}
	if err != nil {
		t.Fatal(err)
	}
	return 201, ""
}

// TestBombsInObjects: what an object costs has a bound too, however deep or long it is.
func TestBombsInObjects(t *testing.T) {
	s := start(t, nil)
	s.define(t, strings.Replace(bombDefinition, "SPEC", ruled(`"a":{"type":"array","maxItems":1000,"items":{"type":"string","maxLength":10}},
		"o":{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "!has(self.a) || self.a.all(x, self.a.all(y, x.size() + y.size() >= 0))"), 1))
	const path = "/apis/example.com/v1/namespaces/default/bombs"
	object := func(spec string) string {
		return `{"apiVersion":"example.com/v1","kind":"Bomb","metadata":{"name":"b"},"spec":` + spec + `}`
	}
	var items []string
	for i := range 1000 {
		items = append(items, fmt.Sprintf(`"%d"`, i))
	}
	code, got := s.post(t, path, object(`{"a":[`+strings.Join(items, ",")+`]}`))
	want := `Bomb.example.com "b" is invalid: spec: Invalid value: "object": 'operation cancelled: actual cost limit exceeded': ` +
		"no further validation rules will be run due to call cost exceeds limit for rule: m"
	if code != 422 || got != want {
		t.Errorf("a million comparisons: got %d %s\nwant %s", code, got, want)
	}
	if code, got := s.post(t, path, object(`{"o":`+strings.Repeat(`{"x":`, 11000)+"1"+strings.Repeat("}", 11000)+"}")); code != 400 || !strings.Contains(got, "exceeded max depth") {
		t.Errorf("deeper than JSON goes: got %d %.300s", code, got)
	}
	if code, got := s.post(t, path, object(`{"a":["x"]}`)); code != 201 {
		t.Errorf("an object that is none of these: got %d %s", code, got)
	}
	if list, err := s.Resource(boats.GroupVersion().WithResource("bombs")).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("got %v, %v; want one", list, err)
	}
}
