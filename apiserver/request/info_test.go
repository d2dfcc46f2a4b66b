package request

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	resource := func(change func(*Info)) Info {
		i := Info{IsResource: true, Prefix: "api", Version: "v1"}
		change(&i)
		return i
	}
	for _, c := range []struct {
		name, method, url string
		want              Info
	}{
		{"root", "GET", "/", Info{Path: "/", Verb: "get"}},
		{"health", "GET", "/healthz", Info{Path: "/healthz", Verb: "get"}},
		{"core versions", "GET", "/api", Info{Path: "/api", Verb: "get"}},
		{"core resources", "POST", "/api/v1", Info{Path: "/api/v1", Verb: "post"}},
		{"group", "GET", "/apis/apps", Info{Path: "/apis/apps", Verb: "get"}},
		{"group version", "GET", "/apis/apps/v1/", Info{Path: "/apis/apps/v1/", Verb: "get"}},
		{"list of all namespaces", "GET", "/api/v1/pods", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Parts = "/api/v1/pods", "list", "pods", []string{"pods"}
		})},
		{"list in a namespace", "GET", "/api/v1/namespaces/n/pods", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Parts = true, "/api/v1/namespaces/n/pods", "list", "n", "pods", []string{"pods"}
		})},
		{"get", "GET", "/api/v1/namespaces/n/pods/p", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Parts = true, "/api/v1/namespaces/n/pods/p", "get", "n", "pods", "p", []string{"pods", "p"}
		})},
		{"subresource with a path", "GET", "/api/v1/namespaces/n/pods/p/proxy/a/b", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Subresource = true, "/api/v1/namespaces/n/pods/p/proxy/a/b", "get", "n", "pods", "p", "proxy"
			i.Parts = []string{"pods", "p", "proxy", "a", "b"}
		})},
		{"a namespace is in itself", "GET", "/api/v1/namespaces/n", resource(func(i *Info) {
			i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Parts = "/api/v1/namespaces/n", "get", "n", "namespaces", "n", []string{"namespaces", "n"}
		})},
		{"status of a namespace", "PUT", "/api/v1/namespaces/n/status", resource(func(i *Info) {
			i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Subresource = "/api/v1/namespaces/n/status", "update", "n", "namespaces", "n", "status"
			i.Parts = []string{"namespaces", "n", "status"}
		})},
		{"a namespace below a namespace", "DELETE", "/api/v1/namespaces/a/namespaces/b", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Parts = true, "/api/v1/namespaces/a/namespaces/b", "delete", "a", "namespaces", "b", []string{"namespaces", "b"}
		})},
		{"all namespaces", "GET", "/api/v1/namespaces", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Parts = "/api/v1/namespaces", "list", "namespaces", []string{"namespaces"}
		})},
		{"watch by parameter, with selectors", "GET", "/api/v1/pods?watch=1&labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dx", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Parts = "/api/v1/pods", "watch", "pods", []string{"pods"}
			i.LabelSelector, i.FieldSelector = "a=b", "spec.nodeName=x"
		})},
		{"watch=false is a list", "GET", "/api/v1/pods?watch=false", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Parts = "/api/v1/pods", "list", "pods", []string{"pods"}
		})},
		{"a selected name", "GET", "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Parts = true, "/api/v1/namespaces/n/pods", "list", "n", "pods", "p", []string{"pods"}
			i.FieldSelector = "metadata.name=p"
		})},
		{"a selected name that is a path", "GET", "/api/v1/pods?fieldSelector=metadata.name%3Da%2Fb", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Parts, i.FieldSelector = "/api/v1/pods", "list", "pods", []string{"pods"}, "metadata.name=a/b"
		})},
		{"old watch path", "GET", "/api/v1/watch/namespaces/n/pods/p?labelSelector=a", resource(func(i *Info) {
			i.InNamespace, i.Path, i.Verb, i.Namespace, i.Resource, i.Name, i.Parts = true, "/api/v1/watch/namespaces/n/pods/p", "watch", "n", "pods", "p", []string{"pods", "p"}
			i.VerbInPath = true
		})},
		{"old proxy path", "GET", "/api/v1/proxy/nodes/n/x", resource(func(i *Info) {
			i.Path, i.Verb, i.Resource, i.Name, i.Parts = "/api/v1/proxy/nodes/n/x", "proxy", "nodes", "n", []string{"nodes", "n", "x"}
			i.VerbInPath = true
		})},
		{"delete of a collection", "DELETE", "/apis/apps/v1/namespaces/n/deployments?labelSelector=a", Info{
			IsResource: true, Path: "/apis/apps/v1/namespaces/n/deployments", Verb: "deletecollection", Prefix: "apis", Group: "apps", Version: "v1",
			Namespace: "n", InNamespace: true, Resource: "deployments", Parts: []string{"deployments"}, LabelSelector: "a"}},
		{"patch", "PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", Info{
			IsResource: true, Path: "/apis/apps/v1/namespaces/n/deployments/d/scale", Verb: "patch", Prefix: "apis", Group: "apps", Version: "v1",
			Namespace: "n", InNamespace: true, Resource: "deployments", Name: "d", Subresource: "scale", Parts: []string{"deployments", "d", "scale"}}},
		{"a method that is no verb", "OPTIONS", "/api/v1/pods", resource(func(i *Info) {
			i.Path, i.Resource, i.Parts = "/api/v1/pods", "pods", []string{"pods"}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, "https://host"+c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, *got); diff != "" {
				t.Errorf("Parse: -want +got\n%s", diff)
			}
		})
	}
}

func TestParseOldPathWithoutResource(t *testing.T) {
	r, err := http.NewRequest("GET", "https://host/api/v1/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(r); err == nil {
		t.Error("Parse succeeds, want an error")
	}
}

func TestIsLongRunning(t *testing.T) {
	for url, want := range map[string]bool{
		"/api/v1/pods":                                    false,
		"/api/v1/pods?watch=1":                            true,
		"/api/v1/namespaces/n/pods/p/log":                 false,
		"/api/v1/namespaces/n/pods/p/log?follow=true":     true,
		"/api/v1/namespaces/n/pods/p/exec?command=x":      true,
		"/api/v1/namespaces/n/services/s/proxy/x":         true,
		"/apis/apps/v1/namespaces/n/deployments/d/status": false,
		"/healthz":      false,
		"/skiff/backup": true,
		"/api/v1/namespaces/n/services/skiff/backup":           false,
		"/api/v1/watch/namespaces/n/configmaps?timeoutSeconds": true,
	} {
		r, err := http.NewRequest("GET", "https://host"+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.IsLongRunning(r); got != want {
			t.Errorf("IsLongRunning(%s) = %v, want %v", url, got, want)
		}
	}
}

func TestWarnOnce(t *testing.T) {
	var got []string
	ctx := WithNotes(t.Context(), func(text string) { got = append(got, text) })
	for _, text := range []string{"a", "b", "a", ""} {
		Warn(ctx, text)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Errorf("warnings: -want +got\n%s", diff)
	}
}
