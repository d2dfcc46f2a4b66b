package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// schema is what this program reads of an OpenAPI schema.
type schema struct {
	Ref                  string             `json:"$ref"`
	AllOf                []*schema          `json:"allOf"`
	OneOf                []*schema          `json:"oneOf"`
	Type                 string             `json:"type"`
	Format               string             `json:"format"`
	Enum                 []any              `json:"enum"`
	Required             []string           `json:"required"`
	Properties           map[string]*schema `json:"properties"`
	Items                *schema            `json:"items"`
	AdditionalProperties *schema            `json:"additionalProperties"`
	MapKeys              []string           `json:"x-kubernetes-list-map-keys"`
	Kinds                []struct {
		Group, Version, Kind string
	} `json:"x-kubernetes-group-version-kind"`
}

// derived are dry runs of objects that differ from the full one in one field
// each: left out, of another type, empty, out of range, ill-formed, twice in a
// list. Nearly all are wrong; what matters is that both servers say the same.
func derived(ctx context.Context, real *server, k kind, s samples) ([]testCase, error) {
	var document struct {
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	if err := real.document(ctx, "/openapi/v3"+k.root(), &document); err != nil {
		return nil, err
	}
	w := &walker{schemas: document.Components.Schemas, visits: make(map[string]int), deep: k.Kind == "Pod", pods: k.Kind == "Pod"}
	root := w.find(k)
	if root == nil {
		return nil, fmt.Errorf("no schema for it is published")
	}
	name := s.named("derived")
	full := clone(k.object(name, s.Full)).(map[string]any)
	w.walk(root, full, nil, func(change map[string]any) map[string]any { return change })
	path := k.collection()
	own := []request{{Method: http.MethodPost, Path: path, Body: text(full), Quiet: true}}
	cases := []testCase{{Name: "derived, made", Requests: own}}
	for _, m := range w.found {
		t := testCase{Name: "derived " + m.what, Requests: []request{{Method: http.MethodPost, Path: path + "?dryRun=All", Body: text(m.object)}}}
		if k.can("update") && m.update {
			t.Requests = append(t.Requests,
				request{Method: http.MethodGet, Path: path + "/" + name, Quiet: true},
				request{Method: http.MethodPut, Path: path + "/" + name + "?dryRun=All", Body: text(m.object)})
			if k.has("status") && strings.HasPrefix(m.what, "status") {
				t.Requests = append(t.Requests, request{Method: http.MethodPut, Path: path + "/" + name + "/status?dryRun=All", Body: text(m.object)})
			}
		}
		cases = append(cases, t)
	}
	clear := []request{{Method: http.MethodDelete, Path: path + "/" + name, Body: `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`, Quiet: true}}
	return append(cases, testCase{Name: "derived, removed", Requests: clear}), nil
}

// walker goes through a schema and an object beside it.
type walker struct {
	schemas map[string]*schema
	visits  map[string]int
	// deep enters every schema of a pod; otherwise fields of pods are tried
	// whole, as Pod itself has them all.
	deep, pods bool
	found      []mutation
}

type mutation struct {
	what   string
	object map[string]any
	// update: it is worth asking as an update too.
	update bool
}

func (w *walker) find(k kind) *schema {
	group, version, ok := strings.Cut(k.GroupVersion, "/")
	if !ok {
		group, version = "", group
	}
	for _, name := range slices.Sorted(maps.Keys(w.schemas)) {
		for _, g := range w.schemas[name].Kinds {
			if g.Group == group && g.Version == version && g.Kind == k.Kind {
				return w.schemas[name]
			}
		}
	}
	return nil
}

// resolve follows references; name is that of the last one.
func (w *walker) resolve(s *schema) (resolved *schema, name string) {
	for s != nil {
		ref := s.Ref
		if ref == "" && len(s.AllOf) == 1 {
			ref = s.AllOf[0].Ref
		}
		if ref == "" {
			return s, name
		}
		name = ref[strings.LastIndex(ref, ".")+1:]
		s = w.schemas[ref[strings.LastIndex(ref, "/")+1:]]
	}
	return new(schema), name
}

// walk tries every field of an object. put places a changed object of this level
// into the whole.
func (w *walker) walk(s *schema, object map[string]any, at []string, put func(map[string]any) map[string]any) {
	for _, field := range slices.Sorted(maps.Keys(s.Properties)) {
		if len(at) == 0 && (field == "apiVersion" || field == "kind") || len(at) == 1 && at[0] == "metadata" && skippedMeta[field] {
			continue
		}
		set := func(value any) map[string]any {
			changed := maps.Clone(object)
			if value == nil {
				delete(changed, field)
			} else {
				changed[field] = value
			}
			return put(changed)
		}
		inner, name := w.resolve(s.Properties[field])
		path := append(slices.Clone(at), field)
		value, present := object[field]
		if present {
			w.try(path, "left out", set(nil), true)
		} else {
			value = w.plausible(field, inner, 0)
			w.try(path, "= "+brief(value), set(value), true)
		}
		w.field(path, inner, name, value, set)
	}
}

// skippedMeta are fields of metadata that "wrong" in life.go tries.
var skippedMeta = map[string]bool{
	"managedFields": true, "selfLink": true, "uid": true, "resourceVersion": true, "creationTimestamp": true, "deletionTimestamp": true,
	"generation": true, "ownerReferences": true, "finalizers": true, "name": true, "namespace": true, "deletionGracePeriodSeconds": true,
}

func (w *walker) try(path []string, what string, object map[string]any, update bool) {
	w.found = append(w.found, mutation{strings.Join(path, ".") + " " + what, object, update})
}

func (w *walker) field(path []string, s *schema, name string, value any, set func(any) map[string]any) {
	for _, wrong := range wrongValues(s, value) {
		w.try(path, "= "+brief(wrong.value), set(wrong.value), wrong.update)
	}
	switch v := value.(type) {
	case map[string]any:
		if s.Properties != nil && w.enter(name, path) {
			w.walk(s, v, path, func(changed map[string]any) map[string]any { return set(changed) })
		}
	case []any:
		if len(v) == 0 {
			return
		}
		item, itemName := w.resolve(s.Items)
		first := func(changed any) map[string]any { return set(append([]any{changed}, v[1:]...)) }
		w.try(path, "with its first item twice", set(append([]any{v[0]}, v...)), true)
		object, isObject := v[0].(map[string]any)
		if !isObject {
			for _, wrong := range wrongValues(item, v[0]) {
				w.try(append(slices.Clone(path), "0"), "= "+brief(wrong.value), first(wrong.value), wrong.update)
			}
		} else if item.Properties != nil && w.enter(itemName, path) {
			w.last(path, w.several(s, v), set)
			w.walk(item, object, append(slices.Clone(path), "0"), func(changed map[string]any) map[string]any { return first(changed) })
		}
	}
}

// several is a list of more than one item: a lone one is repeated with another key.
func (w *walker) several(s *schema, list []any) []any {
	only, ok := list[0].(map[string]any)
	if len(list) > 1 || !ok {
		return list
	}
	another := clone(only).(map[string]any)
	if len(s.MapKeys) > 0 {
		switch key := another[s.MapKeys[0]].(type) {
		case string:
			another[s.MapKeys[0]] = key + "2"
		case float64:
			another[s.MapKeys[0]] = key + 1
		}
	}
	return []any{only, another}
}

// last leaves out the fields of a list's last item, for what is filled in must be
// so in every item, not in the first alone.
func (w *walker) last(path []string, list []any, set func(any) map[string]any) {
	i := len(list) - 1
	object, ok := list[i].(map[string]any)
	if !ok {
		return
	}
	for _, field := range slices.Sorted(maps.Keys(object)) {
		changed := maps.Clone(object)
		delete(changed, field)
		w.try(append(slices.Clone(path), strconv.Itoa(i), field), "left out", set(append(slices.Clone(list[:i]), changed)), true)
	}
}

// enter says whether to go into a schema: not where it was before, unless its
// fields mean something else there.
func (w *walker) enter(name string, path []string) bool {
	if name == "" {
		return true
	}
	if !w.pods && (name == "PodSpec" && w.visits[name] > 0 || slices.Contains(path, "template") && len(path) > slices.Index(path, "template")+2) {
		return false
	}
	w.visits[name]++
	limit := 1
	if name == "ObjectMeta" {
		limit = 2
	}
	return w.visits[name] <= limit
}

type wrongValue struct {
	value  any
	update bool
}

// wrongValues of a type; those of another type end in the decoder and need no
// update.
func wrongValues(s *schema, value any) []wrongValue {
	valid := func(values ...any) (list []wrongValue) {
		for _, v := range values {
			if text(v) != text(value) {
				list = append(list, wrongValue{v, true})
			}
		}
		return list
	}
	switch {
	case len(s.OneOf) > 0:
		return append(valid("", "-1", "1", "50%", "101%", "x", "1e3", "0.5", 0.0, -1.0, 70000.0), wrongValue{true, false}, wrongValue{1.5, false})
	case s.Type == "string" && s.Format == "date-time":
		return append(valid("2021-02-03T04:05:06Z"), wrongValue{"x", false}, wrongValue{"", false})
	case s.Type == "string" && s.Format == "byte":
		return append(valid("", "YQ=="), wrongValue{"%", false})
	case s.Type == "string":
		list := valid("", "Not_Valid!", "other", "1.2.3.4", "/a", strings.Repeat("a", 300))
		for _, e := range s.Enum {
			list = append(list, valid(e)...)
		}
		return append(list, wrongValue{7.0, false})
	case s.Type == "integer":
		return append(valid(-1.0, 0.0, 1.0, 65536.0, 2147483647.0), wrongValue{4294967296.0, true}, wrongValue{"7", false}, wrongValue{1.5, false})
	case s.Type == "boolean":
		return append(valid(true, false), wrongValue{"true", false})
	case s.Type == "array":
		return append(valid([]any{}), wrongValue{map[string]any{}, false}, wrongValue{"x", false})
	case s.AdditionalProperties != nil && s.AdditionalProperties.Type == "string":
		return append(valid(map[string]any{}, map[string]any{"Not Valid!": "x"}, map[string]any{"": "x"}, map[string]any{"a": "Not Valid!"}, map[string]any{"a": ""}, map[string]any{"example.com/a": "b"}),
			wrongValue{map[string]any{"a": 1.0}, false}, wrongValue{"x", false})
	case s.AdditionalProperties != nil:
		return append(valid(map[string]any{}, map[string]any{"cpu": "1"}, map[string]any{"Not Valid!": "1"}, map[string]any{"example.com/a": "1500m"}, map[string]any{"memory": "-1"}), wrongValue{map[string]any{"a": map[string]any{}}, false})
	case s.Properties != nil:
		return append(valid(map[string]any{}), wrongValue{map[string]any{"unknown": 1.0}, false}, wrongValue{"x", false}, wrongValue{[]any{}, false})
	}
	return nil
}

// plausible makes a value for a field the sample does not have.
func (w *walker) plausible(field string, s *schema, depth int) any {
	s, _ = w.resolve(s)
	switch {
	case len(s.OneOf) > 0:
		return "1"
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Type == "string" && s.Format == "date-time":
		return "2020-01-02T03:04:05Z"
	case s.Type == "string" && s.Format == "byte":
		return "eA=="
	case s.Type == "string":
		if strings.HasSuffix(field, "Path") || field == "path" {
			return "/some"
		}
		return "some"
	case s.Type == "integer":
		return 2.0
	case s.Type == "boolean":
		return true
	case s.Type == "array":
		return []any{w.plausible(field, s.Items, depth+1)}
	case s.AdditionalProperties != nil:
		return map[string]any{"some": w.plausible(field, s.AdditionalProperties, depth+1)}
	}
	object := make(map[string]any)
	for _, required := range s.Required {
		if depth < 8 {
			object[required] = w.plausible(required, s.Properties[required], depth+1)
		}
	}
	return object
}

func brief(value any) string {
	s := text(value)
	if len(s) > 60 {
		return fmt.Sprintf("%s… (%d characters)", s[:40], len(s))
	}
	return s
}
