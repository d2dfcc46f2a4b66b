package custom

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// path finds values in objects. JSONPath keeps state while it looks.
type path struct {
	mu     sync.Mutex
	parsed *jsonpath.JSONPath
}

func newPath(text string) (*path, error) {
	p := &path{parsed: jsonpath.New("path").AllowMissingKeys(true)}
	return p, p.parsed.Parse("{" + text + "}")
}

// first is the first value at the path; false if there is none.
func (p *path) first(u *object) (any, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	results, err := p.parsed.FindResults(u.Object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil, false
	}
	return results[0][0].Interface(), true
}

// print writes a value as text.
func (p *path) print(value any) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	err := p.parsed.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)})
	return b.String(), err == nil
}

// age is the column of kinds that name none.
var age = apiextensionsv1.CustomResourceColumnDefinition{
	Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp",
}

// columns are what tables show. From a column on whose path cannot be
// understood there are none.
func (v *served) columns() []resource.Column[*object] {
	all := []resource.Column[*object]{resource.NameColumn[*object]()}
	printed := v.printed
	if len(printed) == 0 {
		printed = []apiextensionsv1.CustomResourceColumnDefinition{age}
	}
	for _, c := range printed {
		p, err := newPath(c.JSONPath)
		if err != nil {
			break
		}
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		all = append(all, resource.Column[*object]{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority,
			Value: func(u *object) any { return cell(p, c.Type, u) },
		})
	}
	return all
}

// cell is the value of a column, nil where the object has none of its type.
func cell(p *path, kind string, u *object) any {
	value, there := p.first(u)
	if !there || value == nil && kind != "string" {
		return nil
	}
	switch kind {
	case "string":
		if text, ok := p.print(value); ok {
			return text
		}
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if text, ok := value.(string); ok {
			return since(text)
		}
	}
	return nil
}

func since(text string) any {
	var t metav1.Time
	if err := t.UnmarshalQueryParameter(text); err != nil {
		return "<invalid>"
	}
	return resource.Age(t)
}

// selectable are the fields that can be selected by.
func selectable(list []apiextensionsv1.SelectableField) map[string]func(*object) string {
	fields := make(map[string]func(*object) string)
	for _, f := range list {
		p, err := newPath(f.JSONPath)
		if err != nil {
			continue // validation lets no such path through
		}
		fields[strings.TrimPrefix(f.JSONPath, ".")] = func(u *object) string {
			value, there := p.first(u)
			if !there || value == nil {
				return ""
			}
			return fmt.Sprint(value)
		}
	}
	return fields
}

func (v *served) subresources() []resource.Subresource[object] {
	var list []resource.Subresource[object]
	if v.status {
		list = append(list, resource.Subresource[object]{
			Name: "status", View: true, Prepare: prepareStatus, Reset: []string{"metadata", "spec"},
		})
	}
	if s := v.scale; s != nil {
		list = append(list, resource.Subresource[object]{Name: "scale", Kind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Scale: scale(s)})
	}
	return list
}

func scale(s *apiextensionsv1.CustomResourceSubresourceScale) *resource.Scale[*object] {
	replicas, status := names(s.SpecReplicasPath), names(s.StatusReplicasPath)
	return &resource.Scale[*object]{
		Path: replicas,
		Replicas: func(u *object) *int32 {
			n, there, err := unstructured.NestedInt64(u.Object, replicas...)
			if err != nil || !there {
				return nil
			}
			i := int32(n)
			return &i
		},
		Status: func(u *object) int32 {
			n, _, _ := unstructured.NestedInt64(u.Object, status...)
			return int32(n)
		},
		Selector: func(u *object) string {
			if s.LabelSelectorPath == nil || *s.LabelSelectorPath == "" {
				return ""
			}
			text, _, _ := unstructured.NestedString(u.Object, names(*s.LabelSelectorPath)...)
			return text
		},
		// Where replicas cannot be set, because what is above them is no map,
		// validation has refused the object.
		SetReplicas: func(u *object, n int32) { _ = unstructured.SetNestedField(u.Object, int64(n), replicas...) },
	}
}
