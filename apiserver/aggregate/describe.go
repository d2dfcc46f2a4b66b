package aggregate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/discovery"
)

// allAtOnce is the form of discovery that lists all group versions of a server.
// Both of its versions are the same in JSON.
const allAtOnce = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"

// describe is what the server says of the group version now. It is stale if
// the server says nothing that can be understood in time.
func (e *extension) describe(ctx context.Context, before *discovery.Remote) *discovery.Remote {
	ctx, cancel := context.WithTimeout(ctx, discoveryTime)
	defer cancel()
	resources, err := e.resources(ctx)
	if err != nil {
		if !before.Stale && !errors.Is(err, context.Canceled) {
			e.config.Log.WarnContext(ctx, "an extension server does not say what it serves", "name", e.name, "error", err)
		}
		return &discovery.Remote{Stale: true}
	}
	return &discovery.Remote{Resources: resources}
}

func (e *extension) resources(ctx context.Context) ([]apidiscovery.APIResourceDiscovery, error) {
	body, answer, err := e.read(ctx, "/apis", allAtOnce, prober)
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("it answers %d", answer.StatusCode)
	case answer.StatusCode == http.StatusOK && isAllAtOnce(answer.Header.Get("Content-Type")):
		return pick(body, e.object.Spec.Group, e.object.Spec.Version)
	}
	body, answer, err = e.read(ctx, e.path(), "application/json", prober)
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d to a request for %s", answer.StatusCode, e.path())
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", e.path(), err)
	}
	return fromPlain(list.APIResources)
}

func isAllAtOnce(contentType string) bool {
	_, of, err := mime.ParseMediaType(contentType)
	return err == nil && of["g"] == apidiscovery.GroupName && of["as"] == "APIGroupDiscoveryList"
}

// pick takes one group version out of a document of all. That it is not there
// is no error: the server has nothing in it.
func pick(body []byte, group, version string) ([]apidiscovery.APIResourceDiscovery, error) {
	var all apidiscovery.APIGroupDiscoveryList
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("/apis: %w", err)
	}
	for _, g := range all.Items {
		for _, v := range g.Versions {
			if g.Name == group && v.Version == version {
				return complete(v.Resources), nil
			}
		}
	}
	return nil, nil
}

// complete gives all entries the kind that some clients count on.
func complete(resources []apidiscovery.APIResourceDiscovery) []apidiscovery.APIResourceDiscovery {
	for i := range resources {
		r := &resources[i]
		if r.ResponseKind == nil {
			r.ResponseKind = &metav1.GroupVersionKind{}
		}
		for j := range r.Subresources {
			if r.Subresources[j].ResponseKind == nil {
				r.Subresources[j].ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
	return resources
}

// fromPlain puts the subresources of the plain form below their resources.
func fromPlain(list []metav1.APIResource) ([]apidiscovery.APIResourceDiscovery, error) {
	var out []apidiscovery.APIResourceDiscovery
	places := make(map[string]int)
	place := func(name string, namespaced bool) *apidiscovery.APIResourceDiscovery {
		if i, ok := places[name]; ok {
			return &out[i]
		}
		places[name] = len(out)
		scope := apidiscovery.ScopeCluster
		if namespaced {
			scope = apidiscovery.ScopeNamespace
		}
		// The parent of a subresource need not be listed.
		out = append(out, apidiscovery.APIResourceDiscovery{Resource: name, Scope: scope, ResponseKind: &metav1.GroupVersionKind{}})
		return &out[len(out)-1]
	}
	for _, r := range list {
		name, sub, isSub := strings.Cut(r.Name, "/")
		if name == "" || isSub && sub == "" {
			return nil, fmt.Errorf("a resource is named %q", r.Name)
		}
		into := place(name, r.Namespaced)
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if isSub {
			into.Subresources = append(into.Subresources, apidiscovery.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		into.SingularResource, into.ResponseKind, into.Verbs = r.SingularName, kind, r.Verbs
		into.ShortNames, into.Categories = r.ShortNames, r.Categories
	}
	return out, nil
}
