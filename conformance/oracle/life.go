package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// lives are the cases every kind goes through: its two objects from creation to
// deletion, and requests that are wrong for any kind.
func lives(k kind, s samples) []testCase {
	if s.NoObject {
		return answersOnly(k, s)
	}
	cases := []testCase{life(k, s, "min", s.Minimal), life(k, s, "full", s.Full), wrong(k, s), lists(k, s)}
	return append(cases, watches(k, s)...)
}

func answersOnly(k kind, s samples) []testCase {
	post := func(query string, o map[string]any) request {
		return request{Method: http.MethodPost, Path: k.collection() + query, Body: text(o)}
	}
	return []testCase{{Name: "questions", Requests: []request{
		post("", k.object("", s.Minimal)), post("", k.object("", s.Full)), post("?dryRun=All", k.object("", s.Full)),
		post("?fieldValidation=Strict", merged(k.object("", s.Full), map[string]any{"unknown": 1.0})), post("", k.object("", map[string]any{})),
		{Method: http.MethodGet, Path: k.collection()}, {Method: http.MethodDelete, Path: k.collection()},
	}}}
}

// object completes a sample; without a name it gets none.
func (k kind) object(name string, sample map[string]any) map[string]any {
	o := merged(map[string]any{"apiVersion": k.GroupVersion, "kind": k.Kind}, sample)
	if name != "" {
		o = merged(o, map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"oracle": "it"}}})
	}
	return k.suited(o, name)
}

// suited is o with what its name must say: names of APIServices are made of the group version, those of definitions
// end with the group.
func (k kind) suited(o map[string]any, name string) map[string]any {
	first, group, ok := strings.Cut(name, ".")
	switch {
	case ok && k.Kind == "APIService":
		return merged(o, map[string]any{"spec": map[string]any{"version": first, "group": group}})
	case ok && k.Kind == "CustomResourceDefinition":
		return merged(o, map[string]any{"spec": map[string]any{"group": group}})
	}
	return o
}

// settled waits until what the server writes to an object by itself is written; nothing if it writes nothing.
func settled(path, condition string) []request {
	if condition == "" {
		return nil
	}
	return []request{{Method: http.MethodGet, Path: path, Settled: condition, Quiet: true}}
}

func label(value string) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{"change": value}}}
}

func life(k kind, s samples, short string, sample map[string]any) testCase {
	name := s.named(short)
	c, o := k.collection(), k.collection()+"/"+name
	object := k.object(name, sample)
	get := func(accept string) request {
		return request{Method: http.MethodGet, Path: o, Accept: forms[accept], Code: 1}
	}
	patch := func(kind, query string, body any) request {
		return request{Method: http.MethodPatch, Path: o + query, Type: patchTypes[kind], Body: text(body)}
	}
	own := func(change map[string]any) map[string]any {
		return merged(map[string]any{"apiVersion": k.GroupVersion, "kind": k.Kind}, change)
	}
	steps := []request{
		{Method: http.MethodPost, Path: c + "?dryRun=All", Body: text(object), Code: 1},
		{Method: http.MethodPost, Path: c + "?fieldManager=maker", Body: text(object), Code: 1},
		{Method: http.MethodPost, Path: c, Body: text(object)},
	}
	steps = append(steps, settled(o, s.Made)...)
	steps = append(steps,
		get(""), get("table"), get("metadata"), get("yaml"), get("proto"),
		request{Method: http.MethodGet, Path: o + "?resourceVersion=0", Accept: forms["metadata"]})
	if k.can("update") {
		put := func(query string, change map[string]any, code int) request {
			return request{Method: http.MethodPut, Path: o + query, Merge: change, Code: code}
		}
		meta := func(key string, value any) map[string]any {
			return map[string]any{"metadata": map[string]any{key: value}}
		}
		steps = append(steps,
			put("", map[string]any{}, 1), put("?fieldManager=changer", label("put"), 1),
			put("", meta("resourceVersion", "1"), 0), put("", meta("resourceVersion", "x"), 0), put("", meta("uid", "other"), 0), put("", meta("name", "other"), 0),
			put("", meta("namespace", "other"), 0), put("", map[string]any{"kind": "Other"}, 0), put("", map[string]any{"apiVersion": "other/v1"}, 0),
			put("?dryRun=All", label("dry"), 1), put("?dryRun=Some", label("dry"), 0),
			put("", meta("resourceVersion", nil), 0), put("", meta("generation", 50.0), 0), put("", meta("creationTimestamp", "2020-01-01T00:00:00Z"), 0),
			put("", meta("managedFields", []any{}), 0),
			request{Method: http.MethodPut, Path: c + "/absent", Body: text(k.object("absent", sample))}, // some kinds are created so
			request{Method: http.MethodDelete, Path: c + "/absent"}, get(""),
		)
		if s.Change != nil && short == "full" {
			steps = append(steps, put("", s.Change, 1))
		}
	}
	if k.can("patch") {
		steps = append(steps,
			patch("merge", "", label("merge")), patch("strategic", "?fieldManager=strategist", label("strategic")),
			patch("json", "", []any{map[string]any{"op": "replace", "path": "/metadata/labels/change", "value": "json"}}),
			patch("json", "", []any{map[string]any{"op": "test", "path": "/metadata/labels/change", "value": "no"}}),
			patch("json", "", []any{map[string]any{"op": "remove", "path": "/metadata/labels/absent"}}),
			patch("json", "", map[string]any{}), patch("merge", "", []any{}), patch("merge", "", map[string]any{}),
			patch("merge", "", map[string]any{"unknown": "x"}), patch("merge", "?fieldValidation=Strict", map[string]any{"unknown": "x"}),
			patch("merge", "", map[string]any{"metadata": map[string]any{"resourceVersion": "1"}}),
			patch("merge", "", map[string]any{"metadata": map[string]any{"name": "other"}}),
			patch("apply", "?fieldManager=applier", own(label("apply"))), patch("apply", "?fieldManager=applier&force=true", own(label("apply"))),
			patch("apply", "?fieldManager=applier", own(map[string]any{"metadata": map[string]any{"labels": map[string]any{"applied": "x"}}})),
			patch("apply", "", own(label("apply"))), patch("apply", "?fieldManager=x", map[string]any{}),
			patch("apply", "?fieldManager=x&force=true", own(map[string]any{"unknown": "x"})),
			patch("strategic", "", map[string]any{"metadata": map[string]any{"labels": map[string]any{"$patch": "replace", "oracle": "it"}}}),
			request{Method: http.MethodPatch, Path: o, Type: "application/other", Body: "{}"},
			request{Method: http.MethodPatch, Path: c + "/absent", Type: patchTypes["merge"], Body: "{}"},
		)
	}
	steps = append(steps, subresources(k, s, o, short)...)
	if k.can("delete") {
		steps = append(steps, deletion(o, s.Ended)...)
	}
	return testCase{Name: "life of " + short, Requests: steps}
}

// subresources reads and writes what hangs below an object.
func subresources(k kind, s samples, o, short string) []request {
	var steps []request
	if k.has("status") {
		steps = append(steps,
			request{Method: http.MethodGet, Path: o + "/status"}, request{Method: http.MethodGet, Path: o, Code: 1},
			request{Method: http.MethodPut, Path: o + "/status", Merge: label("status")})
		if s.Status != nil {
			accepted := 0 // the status is that of the full object
			if short == "full" {
				accepted = 1
			}
			steps = append(steps,
				request{Method: http.MethodPut, Path: o + "/status?fieldManager=status", Merge: map[string]any{"status": s.Status}, Code: accepted},
				request{Method: http.MethodPatch, Path: o + "/status", Type: patchTypes["merge"], Body: text(map[string]any{"status": s.Status})},
				request{Method: http.MethodPatch, Path: o + "/status?fieldManager=a&force=true", Type: patchTypes["apply"],
					Body: text(map[string]any{"apiVersion": k.GroupVersion, "kind": k.Kind, "status": s.Status})},
				request{Method: http.MethodPut, Path: o, Merge: map[string]any{"status": nil}},
				request{Method: http.MethodGet, Path: o, Accept: forms["table"]})
		}
	}
	if k.has("scale") {
		scale := func(method, kind, body string) request {
			return request{Method: method, Path: o + "/scale", Type: patchTypes[kind], Body: body}
		}
		steps = append(steps, scale("GET", "", ""), scale("PATCH", "merge", `{"spec":{"replicas":3}}`), scale("PATCH", "merge", `{"spec":{"replicas":-1}}`),
			scale("PATCH", "strategic", `{"spec":{"replicas":2}}`), scale("PATCH", "merge", `{"metadata":{"resourceVersion":"1"}}`),
			scale("PUT", "", `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"`+s.named(short)+`","namespace":"`+namespace+`"},"spec":{"replicas":1}}`),
			scale("PUT", "", `{}`), scale("DELETE", "", ""),
			request{Method: http.MethodGet, Path: o + "/scale", Accept: forms["table"]}, request{Method: http.MethodGet, Path: o, Code: 1})
	}
	return append(steps, request{Method: http.MethodGet, Path: o + "/absent"}, request{Method: http.MethodPost, Path: o, Body: "{}"})
}

func deletion(o, ended string) []request {
	del := func(query string, body any) request {
		r := request{Method: http.MethodDelete, Path: o + query}
		if body != nil {
			r.Body = text(body)
		}
		return r
	}
	must := func(uid, rv any) map[string]any {
		return map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": map[string]any{"uid": uid, "resourceVersion": rv}}
	}
	now := map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0.0}
	return slices.Concat([]request{
		del("", must("other", nil)), del("", must(nil, "1")), del("?dryRun=All", nil), del("?propagationPolicy=Some", nil), del("?gracePeriodSeconds=x", nil),
		del("", map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "orphanDependents": true, "propagationPolicy": "Orphan"}),
		del("?dryRun=Some", nil), del("", map[string]any{"kind": "Other", "apiVersion": "v1"}),
		{Method: http.MethodPatch, Path: o, Type: patchTypes["merge"], Body: `{"metadata":{"finalizers":["example.com/hold"]}}`},
		del("", nil),
	}, settled(o, ended), []request{
		{Method: http.MethodGet, Path: o, Accept: forms["table"]},
		{Method: http.MethodPatch, Path: o, Type: patchTypes["merge"], Body: `{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}`},
		{Method: http.MethodPatch, Path: o, Type: patchTypes["merge"], Body: `{"metadata":{"finalizers":null}}`},
		del("", now), {Method: http.MethodGet, Path: o}, del("", nil),
	})
}

// wrong are requests that are wrong for every kind.
func wrong(k kind, s samples) testCase {
	c := k.collection()
	good := k.object(s.named("wrong"), s.Minimal)
	post := func(query string, body string) request {
		return request{Method: http.MethodPost, Path: c + query, Body: body}
	}
	change := func(m map[string]any) string { return text(merged(good, m)) }
	meta := func(key string, value any) string {
		return change(map[string]any{"metadata": map[string]any{key: value}})
	}
	twice := func(o map[string]any) string {
		return strings.TrimSuffix(text(o), "}") + `,"kind":` + text(k.Kind) + `}`
	}
	dry := "?dryRun=All"
	return testCase{Name: "wrong", Requests: []request{
		post("", ""), post("", "{}"), post("", "["), post("", "x"), post("", `[]`), post("", `"x"`), post("", "null"),
		post(dry, change(map[string]any{"kind": "Other"})), post(dry, change(map[string]any{"apiVersion": "other/v1"})),
		post(dry, change(map[string]any{"kind": nil})), post(dry, change(map[string]any{"apiVersion": nil})), post(dry, change(map[string]any{"kind": nil, "apiVersion": nil})),
		post(dry, change(map[string]any{"unknown": 1.0})), post(dry+"&fieldValidation=Strict", change(map[string]any{"unknown": 1.0, "metadata": map[string]any{"other": "x"}})),
		post(dry+"&fieldValidation=Ignore", change(map[string]any{"unknown": 1.0})), post(dry+"&fieldValidation=Some", text(good)),
		post(dry, twice(good)), post(dry+"&fieldValidation=Strict", twice(good)), post(dry+"&fieldManager="+strings.Repeat("m", 200), text(good)), post(dry+"&fieldManager=%01", text(good)),
		post("?dryRun=Some", text(good)), post(dry, meta("name", nil)), post(dry, meta("name", "A_b")), post(dry, meta("name", strings.Repeat("n", 300))),
		post(dry, meta("name", "a/b")), post(dry, meta("name", "")), post(dry, meta("namespace", "other")), post(dry, meta("namespace", namespace)),
		post(dry, meta("labels", map[string]any{"a b": "c"})), post(dry, meta("labels", map[string]any{"a": "c d"})), post(dry, meta("labels", map[string]any{"a": 1.0})),
		post(dry, meta("annotations", map[string]any{"a b": "c"})), post(dry, meta("finalizers", []any{"x"})), post(dry, meta("finalizers", []any{"a/b/c"})),
		post(dry, meta("ownerReferences", []any{map[string]any{}})),
		post(dry, meta("ownerReferences", []any{map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}})),
		post(dry, meta("ownerReferences", []any{map[string]any{"apiVersion": "v1", "kind": "Event", "name": "x", "uid": "u", "controller": true}, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "v", "controller": true}})),
		post(dry, meta("resourceVersion", "1")), post(dry, meta("uid", "mine")), post(dry, meta("generation", 7.0)), post(dry, meta("deletionTimestamp", "2020-01-01T00:00:00Z")),
		post(dry, meta("creationTimestamp", "x")), post(dry, meta("managedFields", []any{map[string]any{"manager": "x"}})), post(dry, meta("selfLink", "x")),
		post(dry, text(merged(good, map[string]any{"metadata": map[string]any{"name": nil, "generateName": "made-up-"}}))),
		post(dry, text(merged(good, map[string]any{"metadata": map[string]any{"name": nil, "generateName": "Made_Up-"}}))),
		{Method: http.MethodPost, Path: c + dry, Body: text(good), Type: "application/other"}, {Method: http.MethodPost, Path: c + dry, Body: text(good), Accept: "application/other"},
		{Method: http.MethodPost, Path: c + dry, Body: "kind: [", Type: "application/yaml"}, {Method: http.MethodPost, Path: c + dry, Body: text(good), Type: "application/yaml", Accept: forms["yaml"]},
		{Method: http.MethodPost, Path: c + dry, Body: text(good), Accept: forms["table"]}, {Method: http.MethodPost, Path: c + dry, Body: text(good), Accept: forms["metadata"]},
		{Method: http.MethodPost, Path: c + dry, Body: text(good), As: "nobody", Groups: []string{"system:authenticated"}}, {Method: http.MethodPost, Path: c + dry, Body: text(good), Anonymous: true},
		{Method: http.MethodGet, Path: c, As: "nobody"}, {Method: http.MethodDelete, Path: c + "/x", As: "nobody"}, {Method: http.MethodGet, Path: c + "/x/status", As: "nobody"},
		{Method: http.MethodPut, Path: c, Body: text(good)}, {Method: http.MethodPatch, Path: c, Body: "{}", Type: patchTypes["merge"]},
	}}
}

// lists reads collections in every form and with every option.
func lists(k kind, s samples) testCase {
	if !k.can("list") {
		return testCase{Name: "lists"}
	}
	c := k.collection()
	var steps []request
	names := []string{s.Name + "list1", s.Name + "list2", s.Name + "list3"}
	for i, name := range names {
		o := merged(k.object(name, s.Minimal), map[string]any{"metadata": map[string]any{"labels": map[string]any{"n": text(json.Number([]string{"1", "2", "3"}[i]))}}})
		steps = append(steps, request{Method: http.MethodPost, Path: c, Body: text(o)})
		if !manyOf(k) {
			break
		}
	}
	const ours = "labelSelector=oracle%3Dit"
	get := func(query, accept string) request {
		return request{Method: http.MethodGet, Path: c + "?" + query, Accept: forms[accept]}
	}
	steps = append(steps, get(ours, ""), get(ours, "table"), get(ours+"&includeObject=Object", "table"), get(ours+"&includeObject=None", "table"), get(ours+"&includeObject=Some", "table"),
		get(ours, "metalist"), get(ours, "yaml"), get(ours, "proto"),
		get(ours+"&limit=1", ""), get(ours+"&limit=1&continue=$CONTINUE", "metalist"), get(ours+"&limit=2", "table"), get("continue=x", ""), get("limit=-1&"+ours, "metalist"), get("limit=x", ""),
		get("labelSelector=n+in+(1,3),oracle", "metalist"), get("labelSelector=n+notin+(1),oracle=it", "metalist"), get("labelSelector=!n,oracle", "metalist"), get("labelSelector=n%3E1", "metalist"),
		get("labelSelector=,,", ""), get("labelSelector=a+b", ""), get("labelSelector=a%3Db%3Dc", ""),
		get("fieldSelector=metadata.name%3D"+names[0], "metalist"), get("fieldSelector=metadata.name!%3D"+names[0]+"&"+ours, "metalist"), get("fieldSelector=spec.unknown%3Dx", ""), get("fieldSelector=x", ""),
		get("fieldSelector=metadata.namespace%3D"+namespace+"&"+ours, "metalist"), get("fieldSelector=status.phase%3DX", "metalist"),
		get("resourceVersion=0&"+ours, "metalist"), get("resourceVersion=$LIST&"+ours, "metalist"), get("resourceVersion=$LIST&resourceVersionMatch=Exact&"+ours, "metalist"),
		get("resourceVersion=$LIST&resourceVersionMatch=NotOlderThan&"+ours, "metalist"), get("resourceVersionMatch=Exact", ""), get("resourceVersion=0&resourceVersionMatch=Exact", ""),
		get("resourceVersion=1&resourceVersionMatch=Some", ""), get("resourceVersion=x", ""), get("sendInitialEvents=true", ""), get("timeoutSeconds=x", ""),
		get("watch=1&resourceVersion=x", ""), get("watch=1&sendInitialEvents=true", ""), get("watch=1&resourceVersion=$LIST&resourceVersionMatch=Exact", ""),
		get("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1&"+ours, "metadata"),
		get("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1&"+ours, "proto"),
		request{Method: http.MethodGet, Path: k.root() + "/" + k.Name + "?" + ours, Accept: forms["metalist"]},
		request{Method: http.MethodDelete, Path: c + "?dryRun=All&" + ours}, request{Method: http.MethodDelete, Path: c + "?labelSelector=n%3D1"},
		request{Method: http.MethodDelete, Path: c + "?" + ours, Body: `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`}, get(ours, ""))
	return testCase{Name: "lists", Requests: steps}
}

// manyOf says whether more than one object of the same contents may exist.
func manyOf(k kind) bool {
	switch k.Kind {
	case "ServiceCIDR", "IPAddress", "PersistentVolume":
		return false
	}
	return true
}

// watches replays what happened to an object in every form of a watch.
func watches(k kind, s samples) []testCase {
	if !k.can("watch") || !k.can("patch") {
		return nil
	}
	c, name := k.collection(), s.named("watched")
	steps := []request{
		{Method: http.MethodGet, Path: c + "?limit=1", Quiet: true},
		{Method: http.MethodPost, Path: c, Body: text(k.object(name, s.Minimal)), Code: 1},
	}
	steps = append(steps, settled(c+"/"+name, s.Made)...)
	for _, value := range []string{"a", "b", "a"} {
		steps = append(steps, request{Method: http.MethodPatch, Path: c + "/" + name, Type: patchTypes["merge"], Body: text(label(value)), Code: 1})
	}
	steps = append(steps, request{Method: http.MethodDelete, Path: c + "/" + name, Body: `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`})
	if s.Ended != "" { // what is left of it goes by and by
		steps = append(steps, request{Method: http.MethodGet, Path: c + "/" + name, Until: http.StatusNotFound, Quiet: true})
	}
	const from = "?watch=1&timeoutSeconds=1&resourceVersion=$LIST"
	watch := func(query, accept string) request {
		return request{Method: http.MethodGet, Path: c + from + query, Accept: forms[accept]}
	}
	steps = append(steps, watch("&fieldSelector=metadata.name%3D"+name, ""), watch("&fieldSelector=metadata.name%3D"+name, "table"),
		watch("&fieldSelector=metadata.name%3D"+name, "proto"), watch("&labelSelector=change%3Da", "metadata"))
	return []testCase{{Name: "watch", Requests: steps}}
}
