package main

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed corpus known.yaml signals.yaml
var data embed.FS

// corpus is what is written by hand.
type corpus struct {
	prepare []request
	kinds   map[string]samples
	written []caseSet
	known   []known
}

// caseSet are the cases of one file.
type caseSet struct {
	name  string
	cases []testCase
}

// samples are objects of a kind, without what all have alike.
type samples struct {
	// Name is what names of objects begin with, where that matters.
	Name   string `json:"name"`
	Suffix string `json:"suffix"`
	// Numbered names end in numbers.
	Numbered bool `json:"numbered"`
	// Minimal and Full are accepted by kube-apiserver.
	Minimal map[string]any `json:"minimal"`
	Full    map[string]any `json:"full"`
	// Change is a change to Full that is accepted; Status one to its status.
	Change map[string]any `json:"change"`
	Status map[string]any `json:"status"`
	// Made and Ended are conditions that the server writes into an object after it
	// was made, and after it was deleted while something holds it. Requests wait for
	// them: what is between is a matter of moments.
	Made  string `json:"made"`
	Ended string `json:"ended"`
	// NoObject marks kinds that answer and keep nothing.
	NoObject bool `json:"noObject"`
}

// named is the name of an object of the kind; short must be of roles.
func (s samples) named(short string) string {
	if s.Numbered {
		return fmt.Sprint(s.Name, 1+slices.Index(roles, short))
	}
	return s.Name + short + s.Suffix
}

// roles of objects in cases.
var roles = []string{"min", "full", "wrong", "list1", "list2", "list3", "watched", "derived"}

// known is a difference that is meant, or one kube-apiserver is to blame for.
// All patterns must match; the empty one matches all.
type known struct {
	Kind       string `json:"kind"`
	Case       string `json:"case"`
	Difference string `json:"difference"`
	Reason     string `json:"reason"`

	kind, name, difference *regexp.Regexp
}

func loadCorpus() (*corpus, error) {
	c := &corpus{kinds: make(map[string]samples)}
	files, err := fs.Glob(data, "corpus/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".yaml")
		switch {
		case strings.HasPrefix(name, "kinds"):
			err = readYAML(file, &c.kinds)
		case name == "prepare":
			c.prepare, err = readRequests(file)
		default:
			var cases []testCase
			cases, err = readCases(file)
			c.written = append(c.written, caseSet{name, cases})
		}
		if err != nil {
			return nil, err
		}
	}
	for _, file := range []string{"known.yaml", "signals.yaml"} {
		var list []known
		if err := readYAML(file, &list); err != nil {
			return nil, err
		}
		c.known = append(c.known, list...)
	}
	for i := range c.known {
		k := &c.known[i]
		if k.Reason == "" {
			return nil, fmt.Errorf("known difference %d has no reason", i+1)
		}
		for _, p := range []struct {
			to   **regexp.Regexp
			text string
		}{{&k.kind, k.Kind}, {&k.name, k.Case}, {&k.difference, k.Difference}} {
			if *p.to, err = regexp.Compile(p.text); err != nil {
				return nil, fmt.Errorf("known difference %d: %w", i+1, err)
			}
		}
	}
	return c, nil
}

func readYAML(file string, into any) error {
	b, err := data.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(b, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// step is a request as it is written: {POST: /path, body: …}.
type step struct {
	GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE string

	// Body is sent as JSON, or as it is if it is a text.
	Body      any            `json:"body"`
	Merge     map[string]any `json:"merge"`
	Accept    string         `json:"accept"`
	Type      string         `json:"type"`
	Code      int            `json:"code"`
	Until     int            `json:"until"`
	Anonymous bool           `json:"anonymous"`
	As        string         `json:"as"`
	Groups    []string       `json:"groups"`
	Quiet     bool           `json:"quiet"`
}

func (s step) request(prefix string) request {
	r := request{Accept: s.Accept, Type: patchTypes[s.Type], Merge: s.Merge, Code: s.Code, Until: s.Until, Anonymous: s.Anonymous, As: s.As, Groups: s.Groups, Quiet: s.Quiet}
	if r.Type == "" {
		r.Type = s.Type
	}
	if as, ok := forms[s.Accept]; ok {
		r.Accept = as
	}
	for _, m := range []struct{ method, path string }{
		{"GET", s.GET}, {"HEAD", s.HEAD}, {"OPTIONS", s.OPTIONS}, {"POST", s.POST}, {"PUT", s.PUT}, {"PATCH", s.PATCH}, {"DELETE", s.DELETE},
	} {
		if m.path != "" {
			r.Method, r.Path = m.method, m.path
		}
	}
	// Paths without a root are of namespaced kinds of the core group.
	if !strings.HasPrefix(r.Path, "/") {
		r.Path = prefix + r.Path
	}
	switch body := s.Body.(type) {
	case nil:
	case string:
		r.Body = body
	default:
		r.Body = text(body)
	}
	return r
}

var patchTypes = map[string]string{
	"merge":     "application/merge-patch+json",
	"strategic": "application/strategic-merge-patch+json",
	"json":      "application/json-patch+json",
	"apply":     "application/apply-patch+yaml",
	"yaml":      "application/yaml",
	"proto":     "application/vnd.kubernetes.protobuf",
}

var forms = map[string]string{
	"table":    "application/json;as=Table;v=v1;g=meta.k8s.io",
	"metadata": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
	"metalist": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
	"yaml":     "application/yaml",
	"proto":    "application/vnd.kubernetes.protobuf",
}

const writtenPrefix = "/api/v1/namespaces/" + namespace + "/"

func readRequests(file string) ([]request, error) {
	var steps []step
	if err := readYAML(file, &steps); err != nil {
		return nil, err
	}
	var requests []request
	for _, s := range steps {
		requests = append(requests, s.request(writtenPrefix))
	}
	return requests, nil
}

func readCases(file string) ([]testCase, error) {
	var written []struct {
		Name     string `json:"name"`
		Requests []step `json:"requests"`
	}
	if err := readYAML(file, &written); err != nil {
		return nil, err
	}
	var cases []testCase
	for _, w := range written {
		t := testCase{Name: w.Name}
		for _, s := range w.Requests {
			t.Requests = append(t.Requests, s.request(writtenPrefix))
		}
		cases = append(cases, t)
	}
	return cases, nil
}
