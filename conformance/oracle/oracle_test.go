package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestRecorded sends what was recorded of kube-apiserver to our server in
// process and wants the same answers, but for what known.yaml says. To record
// anew:
//
//	go run ./conformance/oracle -record conformance/oracle/testdata/recorded.json.gz
func TestRecorded(t *testing.T) {
	c, err := loadCorpus()
	if err != nil {
		t.Fatal(err)
	}
	config := apiservertest.Config(apiservertest.Start(t, nil), "admin")
	ours := &server{name: "skiff", base: config.Host, admin: config.Transport}
	if err := prepare(t.Context(), ours, c); err != nil {
		t.Fatal(err)
	}
	r := newReport(c.known)
	asked := 0
	for _, want := range readRecorded(t, "testdata/recorded.json.gz") {
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
		{"a header", answer{Code: 200, Header: map[string]string{"Warning": "x"}}, answer{Code: 200}, []string{`header Warning: got "", want "x"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := differences(c.want, c.got); !slices.Equal(got, c.differ) {
				t.Errorf("got %q, want %q", got, c.differ)
			}
		})
	}
}

func TestPlain(t *testing.T) {
	for _, c := range []struct{ name, told, body, want string }{
		{"made by the server", "", `{"metadata":{"uid":"0f2e4d56-1111-2222-3333-444455556666","resourceVersion":"12","creationTimestamp":"2026-01-02T03:04:05Z"}}`,
			`{"metadata":{"creationTimestamp":"\u003ctime\u003e","resourceVersion":"\u003crv\u003e","uid":"\u003cuid\u003e"}}`},
		{"sent by the client", "2026-01-02T03:04:05Z 10.96.0.7", `{"a":"2026-01-02T03:04:05Z","b":"10.96.0.7","c":"10.96.0.8"}`,
			`{"a":"2026-01-02T03:04:05Z","b":"10.96.0.7","c":"\u003caddress\u003e"}`},
		{"node port", "", `{"nodePort":31000,"port":80}`, `{"nodePort":"\u003cport\u003e","port":80}`},
		{"causes in any order", "", `{"kind":"Status","message":"x is invalid: [b, a, a]","details":{"causes":[{"field":"b"},{"field":"a"},{"field":"a"}]}}`,
			`{"details":{"causes":[{"field":"a"},{"field":"b"}]},"kind":"Status","message":"x is invalid: (the causes)"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(plain(decode("application/json", []byte(c.body)), c.told)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
