package builtin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// The answers in testdata are those of kube-apiserver. To ask it again:
//
//	go test ./apiserver/builtin -run Answers -record KUBECONFIG
var record = flag.String("record", "", "kubeconfig of a kube-apiserver whose answers are to be recorded")

// A scenario is a list of requests about one object, as in testdata/*.yaml.
type scenario struct {
	Name string
	// Create is the object posted.
	Create map[string]any
	// Then are writes to the object, in order.
	Then []write
	// NoTable leaves out the table, where something else in a server writes to
	// the object.
	NoTable bool
}

// write replaces the object, or a subresource of it, by what it was with Send
// merged in. Fields that are null in Send are removed.
type write struct {
	To   string
	Send map[string]any
}

// answer is what a server said to one request, without what differs from one
// run to the next.
type answer struct {
	Code     int      `json:"code"`
	Warnings []string `json:"warnings,omitempty"`
	Body     any      `json:"body"`
}

// TestAnswers asks of our server what was asked of kube-apiserver.
func TestAnswers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	ours := apiservertest.Start(t, nil)
	ask := newClient(t, ours, *record)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			var scenarios []scenario
			read(t, file, func(b []byte) error { return yaml.UnmarshalStrict(b, &scenarios) })
			recorded := strings.TrimSuffix(file, ".yaml") + ".json"
			want := make(map[string][]answer)
			if *record == "" {
				read(t, recorded, func(b []byte) error { return json.Unmarshal(b, &want) })
			}
			for _, s := range scenarios {
				t.Run(s.Name, func(t *testing.T) {
					got := ask.play(t, s)
					if *record != "" {
						want[s.Name] = got
						return
					}
					if diff := cmp.Diff(want[s.Name], got); diff != "" {
						t.Errorf("answers differ (-kube-apiserver +skiff):\n%s", diff)
					}
				})
			}
			if *record != "" {
				text, err := json.MarshalIndent(want, "", " ")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(recorded, append(text, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func read(t *testing.T, file string, decode func([]byte) error) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = decode(text)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

const namespace = "scenarios"

// client asks one server.
type client struct {
	http  http.Client
	base  string
	kinds map[string]string // apiVersion/kind → path of its collection
	// shown are the kinds whose columns are in an answer; once is enough.
	shown map[string]bool
}

func newClient(t *testing.T, ours *apiserver.Server, kubeconfig string) *client {
	t.Helper()
	c := &client{base: "http://server", kinds: make(map[string]string), shown: make(map[string]bool)}
	c.http.Transport = ours.Transport(&user.DefaultInfo{Name: "admin", UID: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if c.http.Transport, err = rest.TransportFor(config); err != nil {
			t.Fatal(err)
		}
		c.base = config.Host
	}
	for _, r := range ours.Resources() {
		path := "/apis/" + r.Group + "/" + r.Version
		if r.Group == "" {
			path = "/api/" + r.Version
		}
		if r.Namespaced() {
			path += "/namespaces/" + namespace
		}
		c.kinds[r.GroupVersion().String()+"/"+r.Kind] = path + "/" + r.Plural
	}
	c.do(t, http.MethodPost, "/api/v1/namespaces", "", map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}})
	return c
}

// play sends the requests of a scenario, looks at the table of the object, and
// removes it.
func (c *client) play(t *testing.T, s scenario) []answer {
	t.Helper()
	collection, ok := c.kinds[fmt.Sprint(s.Create["apiVersion"], "/", s.Create["kind"])]
	if !ok {
		t.Fatalf("%v %v is not served", s.Create["apiVersion"], s.Create["kind"])
	}
	code, warnings, body := c.do(t, http.MethodPost, collection, "", s.Create)
	told := text(s.Create)
	answers := []answer{{code, warnings, plain(clone(body), told)}}
	if code != http.StatusCreated {
		return answers
	}
	object := collection + "/" + name(body)
	defer c.remove(t, object)
	for _, w := range s.Then {
		to := object
		if w.To != "" {
			to += "/" + w.To
		}
		told += text(w.Send)
		code, warnings, answered := c.do(t, http.MethodPut, to, "", merged(body, w.Send))
		answers = append(answers, answer{code, warnings, plain(clone(answered), told)})
		if code == http.StatusOK {
			body = answered
		}
	}
	if s.NoTable {
		return answers
	}
	_, _, table := c.do(t, http.MethodGet, object, "application/json;as=Table;v=v1;g=meta.k8s.io", nil)
	seen := columns(table)
	if c.shown[collection] {
		delete(seen, "columns")
	}
	c.shown[collection] = true
	return append(answers, answer{http.StatusOK, nil, seen})
}

// remove deletes an object whatever holds it.
func (c *client) remove(t *testing.T, object string) {
	t.Helper()
	code, _, gone := c.do(t, http.MethodDelete, object+"?gracePeriodSeconds=0", "", nil)
	if code >= 300 {
		t.Errorf("DELETE %s: %d %v", object, code, gone)
	}
	code, _, body := c.do(t, http.MethodGet, object, "", nil)
	if code == http.StatusNotFound {
		return
	}
	body = merged(body, map[string]any{"metadata": map[string]any{"finalizers": nil}})
	c.do(t, http.MethodPut, object, "", body)
	if body["kind"] == "Namespace" {
		_, _, body = c.do(t, http.MethodGet, object, "", nil)
		c.do(t, http.MethodPut, object+"/finalize", "", merged(body, map[string]any{"spec": map[string]any{"finalizers": nil}}))
	}
}

func (c *client) do(t *testing.T, method, path, accept string, body map[string]any) (code int, warnings []string, answer map[string]any) {
	t.Helper()
	var send io.Reader
	if body != nil {
		send = bytes.NewReader([]byte(text(body)))
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, send)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", accept)
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header.Values("Warning"), answer
}

func clone(body map[string]any) map[string]any {
	var out map[string]any
	if err := json.Unmarshal([]byte(text(body)), &out); err != nil {
		panic(err)
	}
	return out
}

func text(value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func name(obj map[string]any) string {
	meta, _ := obj["metadata"].(map[string]any)
	n, _ := meta["name"].(string)
	return n
}

// merged is a copy of into with changes, by the rules of JSON merge patch.
func merged(into, changes map[string]any) map[string]any {
	out := maps.Clone(into)
	if out == nil {
		out = make(map[string]any)
	}
	for key, value := range changes {
		if value == nil {
			delete(out, key)
			continue
		}
		if inner, ok := value.(map[string]any); ok {
			before, _ := out[key].(map[string]any)
			out[key] = merged(before, inner)
			continue
		}
		out[key] = value
	}
	return out
}

var (
	address = regexp.MustCompile(`10\.96\.\d+\.\d+`)
	port    = regexp.MustCompile(`^3[0-2]\d{3}$`)
	moment  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z$`)
	age     = regexp.MustCompile(`^(\d+[smhdy])+$`)
)

// plain replaces what a server makes up by what it is. told is what clients
// wrote, which stays.
func plain(value any, told string) any {
	switch v := value.(type) {
	case map[string]any:
		if meta, ok := v["metadata"].(map[string]any); ok {
			for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
				delete(meta, key)
			}
		}
		if details, ok := v["details"].(map[string]any); ok {
			delete(details, "uid")
			causes, _ := details["causes"].([]any)
			slices.SortStableFunc(causes, func(a, b any) int { return strings.Compare(text(a), text(b)) })
			// The message lists the same in another order.
			if len(causes) > 1 {
				v["message"] = fmt.Sprintf("%d causes", len(causes))
			}
		}
		for key, inner := range v {
			v[key] = plain(inner, told)
		}
		return v
	case []any:
		for i := range v {
			v[i] = plain(v[i], told)
		}
		return v
	case string:
		if moment.MatchString(v) && !strings.Contains(told, v) {
			return "<time>"
		}
		return address.ReplaceAllStringFunc(v, func(s string) string {
			if strings.Contains(told, s) || s == "10.96.0.0" {
				return s
			}
			return "<address>"
		})
	case float64:
		if n := fmt.Sprint(int64(v)); port.MatchString(n) && !strings.Contains(told, n) {
			return "<port>"
		}
	}
	return value
}

// columns are the definitions and cells of a table.
func columns(table map[string]any) map[string]any {
	delete(table, "metadata")
	rows, _ := table["rows"].([]any)
	definitions, _ := table["columnDefinitions"].([]any)
	var cells []any
	for _, r := range rows {
		for _, cell := range r.(map[string]any)["cells"].([]any) {
			s, isText := cell.(string)
			switch {
			case isText && age.MatchString(s):
				cell = "<age>"
			case isText && moment.MatchString(s):
				cell = "<time>"
			case isText:
				cell = regexp.MustCompile(`:3[0-2]\d{3}/`).ReplaceAllString(address.ReplaceAllString(s, "<address>"), ":<port>/")
			}
			cells = append(cells, cell)
		}
	}
	// IPAddresses have a cell more than they have columns.
	return map[string]any{"columns": definitions, "cells": cells[:min(len(cells), len(definitions))]}
}
