// Package request says what a request asks for: the URL and the method read
// as a verb on a resource, and what the filters learned on the way (user,
// warnings, audit annotations), carried by the context.
package request

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/fields"
)

// Info is a request in the words of the API. Paths that name no resource have
// IsResource false, and of the other fields only Path and Verb.
type Info struct {
	IsResource bool
	Path       string
	// Verb is get, list, watch, create, update, patch, delete, deletecollection
	// or, in old paths, proxy; for other paths the HTTP method in lower case.
	Verb string
	// VerbInPath is true for the old paths /api/{version}/{watch|proxy}/…, whose
	// verb is the same whatever the method.
	VerbInPath bool
	Prefix     string // api or apis
	Group      string
	// Version is the API version of the path.
	Version string
	// Namespace is empty for cluster-wide resources and for all namespaces. A
	// request for a Namespace object has that namespace's own name.
	Namespace string
	// InNamespace is true for paths below namespaces/{namespace}/ that name a
	// resource there, of whatever kind: also for namespaces/a/namespaces/b, which
	// is authorized as a request in a and is the path of no object.
	InNamespace bool
	Resource    string
	Subresource string
	// Name is also set for a list or watch whose field selector names one object.
	Name string
	// Parts are the elements of the path from the resource on.
	Parts []string
	// Selectors as the client wrote them, for verbs that have them.
	LabelSelector, FieldSelector string
}

// Parse reads the URL and the method of r:
//
//	/api/{version}/[watch/][namespaces/{namespace}/]{resource}[/{name}[/{subresource}/…]]
//	/apis/{group}/{version}/…
//
// An error comes with what was understood until then.
func Parse(r *http.Request) (*Info, error) {
	info := &Info{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts := split(r.URL.Path)
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		info.Prefix, info.Version, parts = parts[0], parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		info.Prefix, info.Group, info.Version, parts = parts[0], parts[1], parts[2], parts[3:]
	default:
		return info, nil
	}
	info.IsResource = true

	info.VerbInPath = parts[0] == "watch" || parts[0] == "proxy"
	if info.VerbInPath {
		if len(parts) < 2 {
			return info, fmt.Errorf("unable to determine kind and namespace from url, %v", r.URL.RequestURI())
		}
		info.Verb, parts = parts[0], parts[1:]
	} else {
		info.Verb = methodVerbs[r.Method]
	}
	info.setParts(parts)
	if info.Name == "" {
		info.setCollection(r.URL)
	}
	if !info.VerbInPath && slices.Contains([]string{"list", "watch", "deletecollection"}, info.Verb) && r.URL.RawQuery != "" {
		query := r.URL.Query()
		info.LabelSelector, info.FieldSelector = query.Get("labelSelector"), query.Get("fieldSelector")
	}
	return info, nil
}

var methodVerbs = map[string]string{
	http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// setParts takes what follows the version. Below namespaces/{namespace}, all
// but the subresources of the namespace itself is a resource in it.
func (i *Info) setParts(parts []string) {
	if parts[0] == "namespaces" && len(parts) > 1 {
		i.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			i.InNamespace, parts = true, parts[2:]
		}
	}
	i.Parts = parts
	i.Resource = parts[0]
	if len(parts) > 1 {
		i.Name = parts[1]
	}
	if len(parts) > 2 && i.Verb != "proxy" {
		i.Subresource = parts[2]
	}
}

// setCollection turns get and delete without a name into verbs on collections.
func (i *Info) setCollection(u *url.URL) {
	switch i.Verb {
	case "delete":
		i.Verb = "deletecollection"
	case "get":
		i.Verb = "list"
		if u.RawQuery == "" {
			return
		}
		query := u.Query()
		if watches(query) {
			i.Verb = "watch"
		}
		i.Name = selectedName(query.Get("fieldSelector"))
	}
}

// watches reports whether the query asks for a watch. Like every boolean in
// queries, it is true unless it says false or 0.
func watches(query url.Values) bool {
	values := query["watch"]
	if len(values) == 0 {
		return false
	}
	v := strings.ToLower(values[0])
	return v != "false" && v != "0"
}

// selectedName is the name that a field selector asks for, if it can be one.
func selectedName(selector string) string {
	if selector == "" {
		return ""
	}
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return ""
	}
	name, ok := parsed.RequiresExactMatch("metadata.name")
	if !ok || len(content.IsPathSegmentName(name)) > 0 {
		return ""
	}
	return name
}

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// IsMaintenance reports whether a request is for package maintain.
func (i *Info) IsMaintenance() bool { return !i.IsResource && strings.HasPrefix(i.Path, "/skiff/") }

// IsLongRunning reports whether a request has no deadline: watches, connections
// to pods, and maintenance.
func (i *Info) IsLongRunning(r *http.Request) bool {
	if !i.IsResource {
		return i.IsMaintenance() || strings.HasPrefix(i.Path, "/debug/pprof/")
	}
	if i.Verb == "watch" || i.Verb == "proxy" {
		return true
	}
	switch i.Subresource {
	case "attach", "exec", "proxy", "portforward":
		return true
	case "log":
		follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
		return follow
	}
	return false
}
