package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespace is where namespaced objects of all cases are made.
const namespace = "oracle"

// kind is one row of kube-apiserver's discovery, with its subresources.
type kind struct {
	metav1.APIResource
	GroupVersion string
	Subresources []metav1.APIResource
}

func (k kind) String() string { return k.GroupVersion + " " + k.Kind }

func (k kind) root() string {
	if strings.Contains(k.GroupVersion, "/") {
		return "/apis/" + k.GroupVersion
	}
	return "/api/" + k.GroupVersion
}

// collection is the path objects are created at.
func (k kind) collection() string {
	if k.Namespaced {
		return k.root() + "/namespaces/" + namespace + "/" + k.Name
	}
	return k.root() + "/" + k.Name
}

func (k kind) can(verb string) bool { return slices.Contains(k.Verbs, verb) }

func (k kind) has(subresource string) bool {
	return slices.ContainsFunc(k.Subresources, func(r metav1.APIResource) bool { return r.Name == k.Name+"/"+subresource })
}

// wanted says whether the kind is of group and is called name; empty ones match
// all, and "core" is the group without a name.
func (k kind) wanted(group, name string) bool {
	own, _, found := strings.Cut(k.GroupVersion, "/")
	if !found {
		own = "core"
	}
	return (group == "" || group == own || strings.HasPrefix(own, group+".")) && (name == "" || strings.EqualFold(name, k.Kind) || name == k.Name)
}

// discover lists what a server serves, in the order of its documents.
func discover(ctx context.Context, s *server) ([]kind, error) {
	versions := []string{"v1"}
	var groups metav1.APIGroupList
	if err := s.document(ctx, "/apis", &groups); err != nil {
		return nil, err
	}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			versions = append(versions, v.GroupVersion)
		}
	}
	var kinds []kind
	for _, gv := range versions {
		var list metav1.APIResourceList
		if err := s.document(ctx, kind{GroupVersion: gv}.root(), &list); err != nil {
			return nil, err
		}
		var subresources []metav1.APIResource
		first := len(kinds)
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				subresources = append(subresources, r)
			} else if slices.Contains(r.Verbs, "create") {
				kinds = append(kinds, kind{APIResource: r, GroupVersion: gv})
			}
		}
		for i := range kinds[first:] {
			k := &kinds[first+i]
			for _, r := range subresources {
				if strings.HasPrefix(r.Name, k.Name+"/") {
					k.Subresources = append(k.Subresources, r)
				}
			}
		}
	}
	return kinds, nil
}

func (s *server) document(ctx context.Context, path string, into any) error {
	a, err := s.send(ctx, request{Method: http.MethodGet, Path: path})
	if err != nil {
		return err
	}
	if a.Code != http.StatusOK {
		return fmt.Errorf("GET %s: %d %v", path, a.Code, a.Body)
	}
	return json.Unmarshal([]byte(text(a.Body)), into)
}

// served says whether a server has a kind at all.
func served(ctx context.Context, s *server, k kind) bool {
	var list metav1.APIResourceList
	if s.document(ctx, k.root(), &list) != nil {
		return false
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == k.Name })
}

// prepare makes what objects of the cases refer to.
func prepare(ctx context.Context, s *server, c *corpus) error {
	for _, r := range c.prepare {
		a, err := s.send(ctx, r)
		if err != nil {
			return err
		}
		if a.Code >= 300 && a.Code != http.StatusConflict {
			return fmt.Errorf("%s: %d %s", r, a.Code, text(a.Body))
		}
	}
	return nil
}

// documentCases ask for discovery in all its forms and for OpenAPI.
func documentCases(kinds []kind) []testCase {
	get := func(path, accept string) request {
		return request{Method: http.MethodGet, Path: path, Accept: accept, Code: http.StatusOK}
	}
	var cases []testCase
	add := func(name string, requests ...request) {
		cases = append(cases, testCase{Name: name, Requests: requests})
	}
	for _, path := range []string{"/api", "/apis"} {
		add("discovery "+path, get(path, ""), get(path, "application/vnd.kubernetes.protobuf"),
			get(path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
			get(path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"),
			get(path, "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
			request{Method: http.MethodGet, Path: path, Accept: "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"})
	}
	var roots []string
	for _, k := range kinds {
		if !slices.Contains(roots, k.root()) {
			roots = append(roots, k.root())
		}
	}
	for _, root := range roots {
		add("discovery "+root, get(root, ""), get(root, "application/yaml"))
		if strings.HasPrefix(root, "/apis") {
			group := root[:strings.LastIndex(root, "/")]
			add("discovery "+group, get(group, ""))
		}
	}
	add("OpenAPI index", get("/openapi/v3", ""))
	for _, root := range roots {
		add("OpenAPI v3 "+root, get("/openapi/v3"+root, ""))
	}
	add("OpenAPI v2", get("/openapi/v2", ""))
	add("version", get("/version", ""))
	add("root", get("/", ""))
	return cases
}
