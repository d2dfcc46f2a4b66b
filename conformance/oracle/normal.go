package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// decode makes a body comparable: JSON and YAML become values, a watch the list
// of its events, protobuf the JSON of what it holds; all else stays text.
func decode(contentType string, data []byte) any {
	media, _, _ := strings.Cut(contentType, ";")
	switch media {
	case "application/json":
		if list := documents(data); len(list) == 1 {
			return list[0]
		} else if len(list) > 1 {
			return list
		}
	case "text/plain":
		if strings.Contains(contentType, "version=0.0.4") {
			return metricFamilies(string(data))
		}
		if checks := healthChecks(string(data)); checks != nil {
			return checks
		}
		if list := documents(data); len(list) == 1 { // of OpenAPI 3 the index is called a text
			if document, ok := list[0].(map[string]any); ok {
				return document
			}
		}
	case "application/yaml":
		var value any
		if yaml.Unmarshal(data, &value) == nil {
			return value
		}
	case "application/vnd.kubernetes.protobuf":
		if strings.HasSuffix(contentType, "stream=watch") {
			return events(data)
		}
		if object, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil); err == nil {
			if asJSON, err := json.Marshal(object); err == nil {
				return decode("application/json", asJSON)
			}
		}
		return fmt.Sprintf("%d bytes of protobuf", len(data))
	}
	return string(data)
}

// events are those of a watch in protobuf, each behind its length.
func events(data []byte) any {
	list := []any{}
	for len(data) >= 4 {
		length := binary.BigEndian.Uint32(data)
		if data = data[4:]; int(length) > len(data) {
			return fmt.Sprintf("an event of %d bytes of which there are %d", length, len(data))
		}
		var e metav1.WatchEvent
		if err := e.Unmarshal(data[:length]); err != nil {
			return err.Error()
		}
		list = append(list, map[string]any{"type": e.Type, "object": decode("application/vnd.kubernetes.protobuf", e.Object.Raw)})
		data = data[length:]
	}
	return list
}

func documents(data []byte) []any {
	var list []any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		var value any
		if d.Decode(&value) != nil {
			return list
		}
		list = append(list, value)
	}
}

// withoutProgress is the body of a watch, decoded and plain, as a list without
// those bookmarks that say no more than how far the watch is: it is up to the
// server when to send them.
func withoutProgress(body any) any {
	if body == "" {
		return []any{}
	}
	events, ok := body.([]any)
	if !ok {
		events = []any{body}
	}
	return slices.DeleteFunc(events, func(e any) bool {
		event, _ := e.(map[string]any)
		object, _ := event["object"].(map[string]any)
		metadata, _ := object["metadata"].(map[string]any)
		return event["type"] == "BOOKMARK" && metadata["annotations"] == nil && metadata["resourceVersion"] == "<rv>"
	})
}

func clone(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, inner := range v {
			out[key] = clone(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = clone(v[i])
		}
		return out
	}
	return value
}

// randomVolume is the volume with the token of a pod. In managed fields its name
// is part of a key.
var randomVolume = regexp.MustCompile(`kube-api-access-[a-z0-9]{5}`)

// replacements are for what servers make up, wherever it stands in a text.
var replacements = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uid>"},
	{randomVolume, "kube-api-access-<random>"},
	{regexp.MustCompile(`([Mm]ade[-_][Uu]p-)[a-z0-9]{5}\b`), "$1<random>"},
	{regexp.MustCompile(`(resourceVersion\\*":\\*")[1-9]\d*`), "$1<rv>"},
	{regexp.MustCompile(`(resourceVersion|resource version|current|record|object meta)(:? ?\(?"?)[1-9]\d*`), "$1$2<rv>"},
	{regexp.MustCompile(`((?:pod updates may not change|is immutable after creation)[^\n]*)\n(?s:.*)`), "$1 (a diff of Go values)"},
	{regexp.MustCompile(`https://127\.0\.0\.1:\d+`), "https://<server>"},
	{regexp.MustCompile(`192\.0\.2\.1:\d+`), "192.0.2.1:<port>"},
	{regexp.MustCompile(`\[2001:db8::1\]:\d+`), "[2001:db8::1]:<port>"},
}

var (
	address = regexp.MustCompile(`10\.96\.\d+\.\d+|fd00:96::[0-9a-f:]*`)
	ports   = regexp.MustCompile(`\b3[0-2]\d{3}\b`)
	moment  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	age     = regexp.MustCompile(`^(\d+[smhdy])+$`)
)

// plain replaces what a server makes up by what it is, and by how it compares
// with what it was. told is what clients wrote so far, which stays. value is
// changed.
func plain(value any, told string, s *seen) any {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) { // items of a list before the list
			inner := v[key]
			if metadata, ok := inner.(map[string]any); ok && key == "metadata" {
				s.compare(metadata, told)
			}
			if made := randomVolume.ReplaceAllString(key, "kube-api-access-<random>"); made != key {
				delete(v, key)
				key = made
			}
			switch text, isText := inner.(string); {
			case key == "resourceVersion" && isText && text != "" && text != "0" && text[0] != '<':
				v[key] = "<rv>"
			case key == "continue" && isText && text != "":
				v[key] = "<token>"
			case key == "request" && isText: // base64, in which anything may be found
				v[key] = text
			default:
				v[key] = plain(inner, told, s)
			}
		}
		plainRules(v)
		plainCauses(v)
		plainManagers(v)
		return v
	case []any:
		for i := range v {
			v[i] = plain(v[i], told, s)
		}
		return v
	case float64: // of YAML
		return plain(json.Number(strconv.FormatFloat(v, 'f', -1, 64)), told, s)
	case json.Number:
		if ports.MatchString(v.String()) && len(v) == 5 && !strings.Contains(told, v.String()) {
			return "<port>"
		}
	case string:
		return plainText(v, told)
	}
	return value
}

func plainText(s, told string) string {
	if age.MatchString(s) && !strings.Contains(told, `"`+s+`"`) {
		return "<age>"
	}
	for _, r := range replacements {
		s = r.pattern.ReplaceAllString(s, r.by)
	}
	keep := func(by string) func(string) string {
		return func(found string) string {
			if strings.Contains(told, found) || found == "10.96.0.0" || found == "fd00:96::" {
				return found
			}
			return by
		}
	}
	s = moment.ReplaceAllStringFunc(s, keep("<time>"))
	s = address.ReplaceAllStringFunc(s, keep("<address>"))
	return ports.ReplaceAllStringFunc(s, keep("<port>"))
}

// plainRules sorts the rules of a SelfSubjectRulesReview, which kube-apiserver
// lists in the order of a map.
func plainRules(status map[string]any) {
	for _, of := range []string{"resourceRules", "nonResourceRules"} {
		rules, _ := status[of].([]any)
		slices.SortFunc(rules, func(a, b any) int { return strings.Compare(text(a), text(b)) })
	}
}

// plainCauses sorts the causes of a Status and takes out what is there twice:
// kube-apiserver lists some in the order of a map, and twice what two of its
// validators find. A message that says the same again says so instead.
func plainCauses(status map[string]any) {
	details, _ := status["details"].(map[string]any)
	causes, _ := details["causes"].([]any)
	if len(causes) == 0 {
		return
	}
	if message, ok := status["message"].(string); ok {
		if before, ok := strings.CutSuffix(message, told(causes)); ok {
			status["message"] = before + "(the causes)"
		}
	}
	slices.SortFunc(causes, func(a, b any) int { return strings.Compare(text(a), text(b)) })
	details["causes"] = slices.CompactFunc(causes, func(a, b any) bool { return text(a) == text(b) })
}

// told is how a message tells causes, in their order.
func told(causes []any) string {
	var list []string
	for _, c := range causes {
		cause, _ := c.(map[string]any)
		if one := fmt.Sprintf("%v: %v", cause["field"], cause["message"]); !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	if len(list) == 1 {
		return list[0]
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// plainManagers sorts what managers own. The servers sort by the time to the
// second, which is not the same on both.
func plainManagers(metadata map[string]any) {
	managers, _ := metadata["managedFields"].([]any)
	slices.SortFunc(managers, func(a, b any) int { return strings.Compare(text(a), text(b)) })
}
