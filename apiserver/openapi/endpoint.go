package openapi

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// endpoint is a path with what can be done there, in either version of
// OpenAPI.
type endpoint struct {
	path       string
	operations []operation
}

type operation struct {
	method, id, description, tag string
	// action and kind are the extensions by which clients find the operation;
	// empty for what is about no kind.
	action     string
	kind       schema.GroupVersionKind
	parameters []parameter
	body       string         // definition; "": none
	results    map[int]string // definition by status; "": a string
	consumes   []string       // media types of the body
	produces   []string
}

type parameter struct{ name, in, kind, description string }

// Media types of operations.
var (
	anyType     = []string{"*/*"}
	objectTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	customTypes = []string{"application/json", "application/yaml"}
	watchSuffix = ";stream=watch"
	patchTypes  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

// root is the path of r's group version.
func root(r *resource.Resource) string {
	if r.Group == "" {
		return "/api/" + r.Version
	}
	return "/apis/" + r.Group + "/" + r.Version
}

// groupName is a group as operation ids (AppsV1…) and tags (apps_v1) write it.
func groupName(group string) string {
	if group == "" {
		return "Core"
	}
	var b strings.Builder
	for part := range strings.SplitSeq(strings.TrimSuffix(group, ".k8s.io"), ".") {
		b.WriteString(title(part))
	}
	return b.String()
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func groupTag(group string) string {
	name := groupName(group)
	return strings.ToLower(name[:1]) + name[1:]
}

// about is a document about the API itself.
type about struct {
	url, id, description, tag string
	of                        any // the Go type of the document; nil: a string
	types                     []string
}

func (a about) endpoint(s *schemas) endpoint {
	definition := ""
	if a.of != nil {
		definition = s.refTo(a.of)
	}
	return endpoint{a.url, []operation{{
		method: "get", id: a.id, description: a.description, tag: a.tag,
		results: answers(definition, 200), consumes: a.consumes(), produces: a.types,
	}}}
}

// consumes is as if the document were an object, if there is one.
func (a about) consumes() []string {
	if a.of == nil {
		return nil
	}
	return a.types
}

// common are the documents that do not depend on what is served, by the path
// of their descriptions.
var common = map[string]about{
	"api":     {"/api/", "getCoreAPIVersions", "get available API versions", "core", metav1.APIVersions{}, objectTypes},
	"apis":    {"/apis/", "getAPIVersions", "get available API versions", "apis", metav1.APIGroupList{}, objectTypes},
	"version": {"/version/", "getCodeVersion", "get the version information for this server", "version", version.Info{}, []string{"application/json"}},
	".well-known/openid-configuration": {"/.well-known/openid-configuration/", "getServiceAccountIssuerOpenIDConfiguration",
		"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", "WellKnown", nil, []string{"application/json"}},
	"openid/v1/jwks": {"/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset",
		"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", "openid", nil, []string{"application/jwk-set+json"}},
}

func aboutGroup(group string) about {
	return about{"/apis/" + group + "/", "get" + groupName(group) + "APIGroup", "get information of a group", groupTag(group), metav1.APIGroup{}, objectTypes}
}

func aboutVersion(first *resource.Resource, tag string) about {
	return about{root(first) + "/", "get" + groupName(first.Group) + title(first.Version) + "APIResources",
		"get available resources", tag, metav1.APIResourceList{}, objectTypes}
}

// endpoints are those of one group version, and s gets their definitions.
func (h *Handler) endpoints(s *schemas, rows []*resource.Resource) []endpoint {
	first := rows[0]
	tag := groupTag(first.Group) + "_" + first.Version
	var all []endpoint
	if !isCustom(first) {
		all = append(all, aboutVersion(first, tag).endpoint(s))
	}
	for _, r := range rows {
		k := h.kindOf(s, r, tag)
		all = append(all, k.collection()...)
		all = append(all, k.item()...)
		for _, sub := range r.Subresources {
			all = append(all, k.subresource(sub)...)
		}
		all = append(all, k.watches()...)
	}
	return slices.DeleteFunc(all, func(e endpoint) bool { return len(e.operations) == 0 })
}

// kind makes the endpoints of one row.
type kind struct {
	*resource.Resource
	schemas          *schemas
	object, list     string // definitions
	tag, scope, path string
	custom           bool
	bodies, patches  []string // media types of bodies
	produces         []string
	inNamespace      []parameter
}

func (h *Handler) kindOf(s *schemas, r *resource.Resource, tag string) *kind {
	k := &kind{
		Resource: r, schemas: s, tag: tag, custom: isCustom(r), path: root(r) + "/" + r.Plural,
		bodies: anyType, patches: patchTypes, produces: objectTypes,
	}
	if k.custom {
		k.object, k.list = s.addCustom(r)
		k.bodies, k.produces = customTypes, customTypes
		k.patches = slices.DeleteFunc(slices.Clone(patchTypes), func(t string) bool { return strings.Contains(t, "strategic") })
	} else {
		k.object = s.refToKind(r.New(), r.GVK())
		if k.has("list") {
			k.list = s.refToKind(r.NewList(), r.GroupVersion().WithKind(r.ListKind))
		}
	}
	if r.Namespaced() {
		k.scope = "Namespaced"
		k.path = root(r) + "/namespaces/{namespace}/" + r.Plural
		k.inNamespace = []parameter{{"namespace", "path", "string", "object name and auth scope, such as for teams and projects"}}
	}
	return k
}

// isCustom reports whether r is a custom resource: objects without a Go type.
func isCustom(r *resource.Resource) bool { return r.Custom != nil }

func (k *kind) has(verb string) bool { return slices.Contains(k.Verbs, verb) }

// id is an operation id: verb, group, version, and the rest.
func (k *kind) id(verb string, rest ...string) string {
	return verb + groupName(k.Group) + title(k.Version) + strings.Join(rest, "")
}

// operation is one about objects of k; parameters are sorted by name.
func (k *kind) operation(method, action, id, description string, path []parameter, query ...[]parameter) operation {
	o := operation{
		method: method, action: action, id: id, description: description, tag: k.tag, kind: k.GVK(),
		consumes: k.bodies, produces: k.produces,
	}
	o.parameters = slices.Concat(append([][]parameter{path}, query...)...)
	slices.SortStableFunc(o.parameters, func(a, b parameter) int { return cmp.Compare(a.name, b.name) })
	o.parameters = slices.CompactFunc(o.parameters, func(a, b parameter) bool { return a == b })
	return o
}

// answers are the same definition for each status.
func answers(definition string, statuses ...int) map[int]string {
	m := make(map[int]string)
	for _, status := range statuses {
		m[status] = definition
	}
	return m
}

var pretty = parameter{"pretty", "query", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."}

func nameOf(kind string) parameter { return parameter{"name", "path", "string", "name of the " + kind} }

// options are the query parameters of an options type: its fields that are
// plain values.
func options(v any, except ...string) []parameter {
	var list []parameter
	t := reflect.TypeOf(v)
	docs := swaggerDoc(t)
	for f := range fieldsOf(t) {
		if f.inline || slices.Contains(except, f.name) {
			continue
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if basic, ok := basicType(ft); ok {
			list = append(list, parameter{f.name, "query", basic.Type[0], docs[f.name]})
		}
	}
	return list
}

// connectOptions are the query parameters of a kind of options.
func connectOptions(kind schema.GroupVersionKind) []parameter {
	t, ok := codec.Scheme.AllKnownTypes()[kind]
	if !ok {
		return nil
	}
	return options(reflect.Zero(t).Interface())
}

func listOptions() []parameter   { return options(metav1.ListOptions{}) }
func deleteOptions() []parameter { return options(metav1.DeleteOptions{}) }
