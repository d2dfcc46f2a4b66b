package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/family"
)

// TestRecorded sends what was recorded of kube-apiserver to our server in
// process and wants the same answers, but for what known.yaml says. To record
// anew:
//
//	go run ./conformance/oracle -record conformance/oracle/testdata/recorded.json.gz
func TestRecorded(t *testing.T) {
	testRecorded(t, "recorded", singleRange)
}

// TestRecordedFamilies does so with Services and IP families, in clusters of one
// family and of both. To record anew:
//
//	go run ./conformance/oracle -group families -service-cidr RANGES -record conformance/oracle/testdata/FILE.json.gz
func TestRecordedFamilies(t *testing.T) {
	for file, ranges := range map[string]string{"families-ipv4": singleRange, "families-ipv6": ipv6Range, "families-dual": dualRanges, "families-dual-ipv6": dualRangesIPv6} {
		t.Run(file, func(t *testing.T) { testRecorded(t, file, ranges) })
	}
}

func testRecorded(t *testing.T, file, ranges string) {
	c, err := loadCorpus()
	if err != nil {
		t.Fatal(err)
	}
	config := apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) {
		o.ServiceCIDRs = family.MustParse(ranges)
		o.Advertise = netip.AddrPortFrom(netip.MustParseAddr(advertised(ranges)), 6443)
	}), "admin")
	ours := &server{name: "skiff", base: config.Host, admin: config.Transport}
	if err := prepare(t.Context(), ours, c); err != nil {
		t.Fatal(err)
	}
	r := newReport(c.known)
	asked := 0
	for _, want := range readRecorded(t, "testdata/"+file+".json.gz") {
		if slices.ContainsFunc(want.Case.Requests, func(q request) bool { return q.Anonymous }) {
			want = withoutAnonymous(want)
		}
		if r.kind != want.Kind {
			r.begin(want.Kind)
		}
		asked += len(want.Case.Requests)
		got, err := play(t.Context(), ours, want.Case)
		r.add(want.Case, pair{real: want.Answers, skiff: throughJSON(t, got), skiffErr: err})
	}
	var text bytes.Buffer
	r.print(&text, false)
	if r.unmeant > 0 || len(r.mistakes) > 0 {
		t.Errorf("our server answers differently from kube-apiserver:\n%s", text.Bytes())
	}
	t.Logf("%d requests, %d known differences", asked, r.meant)
}

func readRecorded(t *testing.T, file string) []recorded {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []recorded
	d := json.NewDecoder(bufio.NewReader(z))
	d.UseNumber()
	for d.More() {
		var r recorded
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		t.Fatalf("%s: no cases", file)
	}
	return list
}

// withoutAnonymous leaves out requests without a certificate: in process,
// identity does not come from the connection.
func withoutAnonymous(r recorded) recorded {
	out := recorded{Kind: r.Kind, Case: testCase{Name: r.Case.Name}}
	for i, q := range r.Case.Requests {
		if !q.Anonymous {
			out.Case.Requests = append(out.Case.Requests, q)
			out.Answers = append(out.Answers, r.Answers[i])
		}
	}
	return out
}

// throughJSON gives answers the types that recorded ones have.
func throughJSON(t *testing.T, answers []answer) []answer {
	t.Helper()
	var out []answer
	d := json.NewDecoder(bytes.NewReader([]byte(text(answers))))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDifferences(t *testing.T) {
	status := func(message string) answer {
		return answer{Code: 422, Body: decode("application/json", []byte(`{"kind":"Status","message":"`+message+`"}`))}
	}
	object := func(body string) answer { return answer{Code: 200, Body: decode("application/json", []byte(body))} }
	for _, c := range []struct {
		name      string
		want, got answer
		differ    []string
	}{
		{"the same", object(`{"a":1}`), object(`{"a":1}`), nil},
		{"another default", object(`{"spec":{"replicas":1}}`), object(`{"spec":{"replicas":2}}`), []string{".spec.replicas: got 2, want 1"}},
		{"no default", object(`{"spec":{"replicas":1}}`), object(`{"spec":{}}`), []string{".spec.replicas: missing, want 1"}},
		{"another message", status("a"), status("b"), []string{`.message: got "b", want "a"`}},
		{"another code", status("a"), object(`{"kind":"Pod"}`), []string{`status 200, want 422: got Pod, want "a"`}},
		{"an event is missing", object("{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n{\"type\":\"BOOKMARK\"}"), object("{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}"),
			[]string{`: got 2 items, want 3: got [{"type":"ADDED"},{"type":"DELETED"}], want [{"type":"ADDED"},{"type":"DELETED"},{"type":"BOOKMARK"}]`}},
		{"another column", object(`{"columnDefinitions":[{"name":"Name"},{"name":"Age"}]}`), object(`{"columnDefinitions":[{"name":"Name"},{"name":"Old"}]}`),
			[]string{`.columnDefinitions[].name: got "Old", want "Age"`}},
		{"the group that Skiff serves itself", object(`{"groups":[{"name":"apps"}],"paths":["/apis/apps"]}`),
			object(`{"groups":[{"name":"apps"},{"name":"metrics.k8s.io"}],"paths":["/apis/apps","/apis/metrics.k8s.io/v1beta1"]}`), nil},
		{"another group beside it", object(`{"groups":[{"name":"apps"}]}`), object(`{"groups":[{"name":"batch"},{"name":"metrics.k8s.io"}]}`),
			[]string{`.groups[].name: got "batch", want "apps"`}},
		{"a header", answer{Code: 200, Header: map[string]string{"Warning": "x"}}, answer{Code: 200}, []string{`header Warning: got "", want "x"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := differences(c.want, c.got); !slices.Equal(got, c.differ) {
				t.Errorf("got %q, want %q", got, c.differ)
			}
		})
	}
}

// TestSeen tells one object after another to a session.
func TestSeen(t *testing.T) {
	const list = `{"items":[],"metadata":{"resourceVersion":"%s"}}`
	object := func(uid, version, created string) string {
		return fmt.Sprintf(`{"metadata":{"creationTimestamp":%q,"name":"a","resourceVersion":%q,"uid":%q}}`, created, version, uid)
	}
	const then, later, one, other = "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z", "0f2e4d56-1111-2222-3333-444455556666", "0f2e4d56-1111-2222-3333-444455557777"
	s := &seen{objects: make(map[string]identity)}
	for _, step := range []struct {
		name, body, want string
		cached           bool
	}{
		{"made", object(one, "5", then), object("<uid>", "<rv>", "<time>"), false},
		{"not changed", object(one, "5", then), object("<uid>", "<same rv>", "<time>"), false},
		{"changed", object(one, "7", then), object("<uid>", "<newer rv>", "<time>"), false},
		{"from a cache, which may be behind", object(one, "5", then), object("<uid>", "<rv>", "<time>"), true},
		{"from a watch", object(one, "5", then), object("<uid>", "<older rv>", "<time>"), false},
		{"born later", object(one, "9", later), object("<uid>", "<newer rv>", "<another time>"), false},
		{"another of the name", object(other, "11", later), object("<another uid>", "<rv>", "<time>"), false},
		{"a list of before", fmt.Sprintf(list, "9"), fmt.Sprintf(list, "<old rv>"), false},
		{"a list", fmt.Sprintf(list, "12"), fmt.Sprintf(list, "<rv>"), false},
		{"a list with an item that is newer", `{"items":[` + object(other, "20", later) + `],"metadata":{"resourceVersion":"19"}}`,
			`{"items":[` + object("<uid>", "<newer rv>", "<time>") + `],"metadata":{"resourceVersion":"<old rv>"}}`, false},
	} {
		s.cached = step.cached
		if got := text(plain(decode("application/json", []byte(step.body)), "", s)); got != step.want {
			t.Errorf("%s: got %s, want %s", step.name, got, step.want)
		}
	}
}

func TestEvents(t *testing.T) {
	frame := func(kind string, object string) []byte {
		raw, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), &v1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: object}})
		if err != nil {
			t.Fatal(err)
		}
		event, err := (&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
	}
	stream := append(frame("ADDED", "a"), frame("DELETED", "b")...)
	got := text(decode("application/vnd.kubernetes.protobuf;stream=watch", stream))
	const want = `[{"object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},"type":"ADDED"},{"object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}},"type":"DELETED"}]`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := decode("application/vnd.kubernetes.protobuf;stream=watch", stream[:20]); !strings.Contains(fmt.Sprint(got), "of which there are") {
		t.Errorf("a stream that breaks off: got %v", got)
	}
}

func TestWithoutProgress(t *testing.T) {
	const added = `{"object":{"metadata":{"name":"a"}},"type":"ADDED"}`
	bookmark := func(version, annotations string) string {
		return `{"object":{"metadata":{` + annotations + `"resourceVersion":"` + version + `"}},"type":"BOOKMARK"}`
	}
	initial := bookmark("<rv>", `"annotations":{"k8s.io/initial-events-end":"true"},`)
	for _, c := range []struct{ name, body, want string }{
		{"no event", "", "[]"},
		{"one event", added, "[" + added + "]"},
		{"progress", added + bookmark("<rv>", ""), "[" + added + "]"},
		{"progress alone", bookmark("<rv>", ""), "[]"},
		{"the end of initial events", added + initial, "[" + added + "," + initial + "]"},
		{"progress back in time", added + bookmark("<old rv>", ""), "[" + added + "," + bookmark("<old rv>", "") + "]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(withoutProgress(decode("application/json", []byte(c.body)))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestWriteResults(t *testing.T) {
	s := settings{skiff: filepath.Join(t.TempDir(), "skiff"), to: filepath.Join(t.TempDir(), "results.md")}
	if err := os.WriteFile(s.skiff, []byte("#!/bin/sh\necho skiff v9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.to, []byte("The suite's part.\n\n"+heading+"\nold\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newReport([]known{{Reason: "rare"}, {Reason: "unmet"}, {Reason: "this | that\n"}})
	r.total, r.unmeant, r.meant, r.rows = 30, 2, 5, []row{{"v1 A", 10, 0}, {"v1 B", 20, 2}}
	r.used = map[int]int{0: 1, 2: 4}
	if err := r.writeResults(s); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.to)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"The suite's part.\n\n" + heading, "Commit: v9.", "**30 requests, 2 differences**, in 1 of 2 kinds", "\n| v1 B | 20 | 2 |\n", "5 are known (below).\n", "\n| this \\| that | 4 |\n| rare | 1 |\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got %s\nwant in it %q", got, want)
		}
	}
	if strings.Contains(string(got), "old") || strings.Contains(string(got), "v1 A") || strings.Contains(string(got), "unmet") {
		t.Errorf("got %s\nwant neither the old part nor what was not met", got)
	}
}

func TestPlain(t *testing.T) {
	for _, c := range []struct{ name, told, body, want string }{
		{"made by the server", "", `{"metadata":{"uid":"0f2e4d56-1111-2222-3333-444455556666","resourceVersion":"12","creationTimestamp":"2026-01-02T03:04:05Z"}}`,
			`{"metadata":{"creationTimestamp":"<time>","resourceVersion":"<rv>","uid":"<uid>"}}`},
		{"sent by the client", "2026-01-02T03:04:05Z 10.96.0.7", `{"a":"2026-01-02T03:04:05Z","b":"10.96.0.7","c":"10.96.0.8"}`,
			`{"a":"2026-01-02T03:04:05Z","b":"10.96.0.7","c":"<address>"}`},
		{"node port", "", `{"nodePort":31000,"port":80}`, `{"nodePort":"<port>","port":80}`},
		{"causes in any order", "", `{"kind":"Status","message":"x is invalid: [b: 1, a: 2]","details":{"causes":[{"field":"b","message":"1"},{"field":"a","message":"2"},{"field":"a","message":"2"}]}}`,
			`{"details":{"causes":[{"field":"a","message":"2"},{"field":"b","message":"1"}]},"kind":"Status","message":"x is invalid: (the causes)"}`},
		{"one cause", "", `{"kind":"Status","message":"x is invalid: a: 2","details":{"causes":[{"field":"a","message":"2"}]}}`,
			`{"details":{"causes":[{"field":"a","message":"2"}]},"kind":"Status","message":"x is invalid: (the causes)"}`},
		{"a message of its own", "", `{"kind":"Status","message":"x is invalid: a: 2, b: 1","details":{"causes":[{"field":"a","message":"2"},{"field":"b","message":"1"}]}}`,
			`{"details":{"causes":[{"field":"a","message":"2"},{"field":"b","message":"1"}]},"kind":"Status","message":"x is invalid: a: 2, b: 1"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(plain(decode("application/json", []byte(c.body)), c.told, &seen{objects: make(map[string]identity)})); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestLastItem wants what is filled in to be asked of every item of a list, and of
// a second item where the sample has one.
func TestLastItem(t *testing.T) {
	text := &schema{Type: "string"}
	port := &schema{Type: "object", Properties: map[string]*schema{"port": text, "protocol": text}}
	root := &schema{Type: "object", Properties: map[string]*schema{"ports": {Type: "array", Items: port, MapKeys: []string{"port"}}}}
	first := map[string]any{"port": "1", "protocol": "a"}
	for name, test := range map[string]struct {
		ports []any
		want  []any
	}{
		"two items": {[]any{first, map[string]any{"port": "2", "protocol": "b"}}, []any{first, map[string]any{"port": "2"}}},
		"one item":  {[]any{first}, []any{first, map[string]any{"port": "12"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &walker{visits: make(map[string]int)}
			w.walk(root, map[string]any{"ports": test.ports}, nil, func(change map[string]any) map[string]any { return change })
			i := slices.IndexFunc(w.found, func(m mutation) bool { return m.what == "ports.1.protocol left out" })
			if i < 0 {
				t.Fatal("nothing leaves out the protocol of the last port")
			}
			if got, want := w.found[i].object, map[string]any{"ports": test.want}; !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
