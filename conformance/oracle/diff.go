package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// differences says how two answers to one request differ, a text for each field.
// Texts leave out where in a list something is, so that alike ones are equal.
func differences(want, got answer) []string {
	if want.Code != got.Code {
		return []string{fmt.Sprintf("status %d, want %d: got %s, want %s", got.Code, want.Code, said(got), said(want))}
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(union(want.Header, got.Header))) {
		if want.Header[name] != got.Header[name] {
			found = append(found, fmt.Sprintf("header %s: got %q, want %q", name, got.Header[name], want.Header[name]))
		}
	}
	return slices.Compact(append(found, differ("", want.Body, got.Body)...))
}

// said is the message of a Status, or the kind of anything else.
func said(a answer) string {
	if m := message(a.Body); m != "" {
		return fmt.Sprintf("%q", shorten(m, 300))
	}
	object, _ := a.Body.(map[string]any)
	return fmt.Sprintf("%v", object["kind"])
}

// message of a Status, with its causes.
func message(body any) string {
	status, ok := body.(map[string]any)
	if !ok {
		s, _ := body.(string)
		return s
	}
	if status["kind"] != "Status" {
		return ""
	}
	m, _ := status["message"].(string)
	if details, ok := status["details"].(map[string]any); ok && strings.HasSuffix(m, "(the causes)") {
		for _, c := range list(details["causes"]) {
			cause, _ := c.(map[string]any)
			m += fmt.Sprintf("; %v: %v", cause["field"], cause["message"])
		}
	}
	return m
}

func list(value any) []any {
	l, _ := value.([]any)
	return l
}

func differ(path string, want, got any) []string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		return differMaps(path, w, g)
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		if strings.HasSuffix(path, "details.causes") {
			return differSets(path, w, g)
		}
		g = slices.DeleteFunc(slices.Clone(g), ofMetrics)
		var found []string
		if len(w) != len(g) {
			found = append(found, fmt.Sprintf("%s: got %d items, want %d: got %s, want %s", path, len(g), len(w), shorten(text(g), 200), shorten(text(w), 200)))
			return found
		}
		for i := range w {
			found = append(found, differ(path+"[]", w[i], g[i])...)
		}
		return slices.Compact(found)
	}
	if equal(want, got) {
		return nil
	}
	return []string{fmt.Sprintf("%s: got %s, want %s", path, shown(got), shown(want))}
}

// ofMetrics reports whether an item of a list in a document is there because Skiff
// serves metrics.k8s.io itself: a group, a kind, or a path.
func ofMetrics(item any) bool {
	const group = "metrics.k8s.io"
	if path, ok := item.(string); ok {
		return path == "/apis/"+group || strings.HasPrefix(path, "/apis/"+group+"/")
	}
	m, _ := item.(map[string]any)
	metadata, _ := m["metadata"].(map[string]any)
	return m["name"] == group || m["group"] == group || metadata["name"] == group && m["versions"] != nil
}

func differMaps(path string, want, got map[string]any) []string {
	var found []string
	for _, key := range slices.Sorted(maps.Keys(union(want, got))) {
		in := path + "." + key
		w, inWant := want[key]
		g, inGot := got[key]
		switch {
		case !inGot:
			found = append(found, fmt.Sprintf("%s: missing, want %s", in, shown(w)))
		case !inWant:
			found = append(found, fmt.Sprintf("%s: got %s, want nothing", in, shown(g)))
		default:
			found = append(found, differ(in, w, g)...)
		}
	}
	return found
}

// differSets compares lists without an order.
func differSets(path string, want, got []any) []string {
	has := func(list []any, item any) bool {
		return slices.ContainsFunc(list, func(i any) bool { return text(i) == text(item) })
	}
	var found []string
	for _, item := range want {
		if !has(got, item) {
			found = append(found, fmt.Sprintf("%s: missing %s", path, text(item)))
		}
	}
	for _, item := range got {
		if !has(want, item) {
			found = append(found, fmt.Sprintf("%s: too much %s", path, text(item)))
		}
	}
	return found
}

// equal is that of JSON: numbers are equal if their texts are.
func equal(a, b any) bool {
	if _, ok := a.(json.Number); ok {
		_, ok := b.(json.Number)
		return ok && text(a) == text(b)
	}
	return restarted.ReplaceAllString(text(a), "${1}<age>") == restarted.ReplaceAllString(text(b), "${1}<age>")
}

// restarted is how tables tell of restarts. The time since the last one depends on when a recorded answer is compared.
var restarted = regexp.MustCompile(`^("\d+ \()(\d+[smhdy])+ ago\)"$`)

func shown(value any) string { return shorten(text(value), 300) }

func union[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	if out == nil {
		out = make(map[string]V)
	}
	maps.Copy(out, b)
	return out
}
