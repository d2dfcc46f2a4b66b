package managedfields

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TestCreated holds which new objects are written without a set of fields, and what is written. That it is what the library
// writes is TestDirect's.
func TestCreated(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		change(p)
		return p
	}
	containers := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, name := range names {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
			}
		}
	}
	for name, c := range map[string]struct {
		plural string
		obj    resource.Object
		want   string // "" if it is not written
	}{
		"nothing": {"pods", pod(containers()), `{}`},
		"in the order of names": {"pods", pod(containers("b", "a")),
			`{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:name":{},"f:resources":{}},"k:{\"name\":\"b\"}":{".":{},"f:name":{},"f:resources":{}}}}}`},
		"in the order of numbers, and a key that stands for one that is left out": {"pods", pod(func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 443}, {ContainerPort: 80, Protocol: "UDP"}, {ContainerPort: 80}}}}
		}), `{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:ports":{".":{},` +
			`"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}},` +
			`"k:{\"containerPort\":80,\"protocol\":\"UDP\"}":{".":{},"f:containerPort":{},"f:protocol":{}},` +
			`"k:{\"containerPort\":443,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},"f:resources":{}}}}}`},
		"maps, and lists of strings": {"configmaps", &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "c", Labels: map[string]string{"b": "", "a": ""}, Finalizers: []string{"x/z", "x/y"}},
			Data:       map[string]string{"key": "any \"value\""}, BinaryData: map[string][]byte{},
		}, `{"f:data":{".":{},"f:key":{}},"f:metadata":{"f:finalizers":{".":{},"v:\"x/y\"":{},"v:\"x/z\"":{}},"f:labels":{".":{},"f:a":{},"f:b":{}}}}`},
		"a name twice":              {"pods", pod(containers("a", "a")), ""},
		"a name in quotes":          {"pods", pod(containers(`"a"`)), ""},
		"a key beyond ASCII":        {"configmaps", &corev1.ConfigMap{Data: map[string]string{"ä": ""}}, ""},
		"more side by side than it": {"pods", pod(containers(make([]string, mostAside+1)...)), ""},
	} {
		r := rowOf(t, c.plural)
		got, ok := newPair(t, r).fields[""].direct.created(reflect.ValueOf(r.New()), reflect.ValueOf(c.obj))
		if ok != (c.want != "") || ok && string(got) != c.want {
			t.Errorf("%s: got %s, %v\nwant %s", name, got, ok, c.want)
		}
	}
}
