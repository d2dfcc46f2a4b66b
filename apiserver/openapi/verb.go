package openapi

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// collection are the paths of all objects of a kind.
func (k *kind) collection() []endpoint {
	path := append([]parameter{pretty}, k.inNamespace...)
	var ops []operation
	if k.has("list") {
		ops = append(ops, k.listOperation(k.id("list", k.scope, k.Kind), path))
	}
	if k.has("create") {
		o := k.operation("post", "post", k.id("create", k.scope, k.Kind), "create "+one(k.Kind), path, options(metav1.CreateOptions{}))
		o.body = k.object
		o.results = answers(k.object, 200, 201, 202)
		ops = append(ops, o)
	}
	if k.has("deletecollection") {
		selection := options(metav1.ListOptions{}, "watch", "allowWatchBookmarks")
		o := k.operation("delete", "deletecollection", k.id("delete", "Collection", k.scope, k.Kind), "delete collection of "+k.Kind, path, selection, deleteOptions())
		o.body = k.schemas.refTo(metav1.DeleteOptions{})
		o.results = answers(k.schemas.refTo(metav1.Status{}), 200)
		ops = append(ops, o)
	}
	all := []endpoint{{k.path, ops}}
	if k.Namespaced() && k.has("list") {
		all = append(all, endpoint{root(k.Resource) + "/" + k.Plural, []operation{
			k.listOperation(k.id("list", k.Kind, "ForAllNamespaces"), []parameter{pretty}),
		}})
	}
	return all
}

func (k *kind) listOperation(id string, path []parameter) operation {
	description := "list or watch objects of kind " + k.Kind
	if !k.has("watch") || k.custom {
		description = "list objects of kind " + k.Kind
	}
	o := k.operation("get", "list", id, description, path, listOptions())
	o.results = answers(k.list, 200)
	o.produces = k.streaming()
	return o
}

// streaming are the media types of answers that may be a watch.
func (k *kind) streaming() []string {
	if k.custom {
		return k.produces
	}
	types := slices.Clone(k.produces)
	for _, t := range k.produces {
		if t != "application/yaml" {
			types = append(types, t+watchSuffix)
		}
	}
	return types
}

// item is the path of one object.
func (k *kind) item() []endpoint {
	ops := k.views(k.Verbs, k.Kind, "", k.object)
	if k.has("delete") {
		answer := k.schemas.refTo(metav1.Status{})
		// kube-apiserver's documents say Status of Namespaces too, though the
		// answer is the Namespace.
		if k.AnswersDeleted && k.GVK() != corev1.SchemeGroupVersion.WithKind("Namespace") {
			answer = k.object
		}
		o := k.operation("delete", "delete", k.id("delete", k.scope, k.Kind), "delete "+one(k.Kind), k.named(k.Kind), deleteOptions())
		o.body = k.schemas.refTo(metav1.DeleteOptions{})
		o.results = answers(answer, 200, 202)
		ops = append(ops, o)
	}
	return []endpoint{{k.path + "/{name}", ops}}
}

// named are the parameters of a path to one object.
func (k *kind) named(kind string) []parameter {
	return append([]parameter{nameOf(kind), pretty}, k.inNamespace...)
}

// views are get, put and patch of an object or of a subresource of it.
func (k *kind) views(verbs []string, kindName, sub, definition string) []operation {
	path, of := k.named(kindName), "the specified "+k.Kind
	if sub != "" {
		of = sub + " of " + of
	}
	var ops []operation
	add := func(verb, method, id, description string, with []parameter, body string, statuses ...int) {
		if !slices.Contains(verbs, verb) {
			return
		}
		o := k.operation(method, method, k.id(id, k.scope, k.Kind, title(sub)), description+" "+of, path, with)
		o.body = body
		o.results = answers(definition, statuses...)
		if method == "patch" {
			o.consumes = k.patches
		}
		ops = append(ops, o)
	}
	var reading []parameter
	patched := []int{200, 201}
	if k.custom {
		reading, patched = options(metav1.GetOptions{}), []int{200}
	}
	add("get", "get", "read", "read", reading, "", 200)
	add("update", "put", "replace", "replace", options(metav1.UpdateOptions{}), definition, 200, 201)
	if slices.Contains(verbs, "patch") {
		add("patch", "patch", "patch", "partially update", options(metav1.PatchOptions{}), k.schemas.refTo(metav1.Patch{}), patched...)
	}
	return ops
}

// subresource are the paths of sub.
func (k *kind) subresource(sub resource.Sub) []endpoint {
	path := k.path + "/{name}/" + sub.Name
	switch {
	case sub.Connect && sub.Kind.Kind == k.Kind:
		return []endpoint{{path, []operation{k.log(sub)}}}
	case sub.Connect:
		return k.connect(path, sub)
	}
	gvk, definition := k.GVK(), k.object
	if !sub.Kind.Empty() {
		gvk = sub.Kind
		if t, ok := codec.Scheme.AllKnownTypes()[gvk]; ok {
			definition = k.schemas.ref(t)
		}
	}
	ops := k.views(sub.Verbs, gvk.Kind, sub.Name, definition)
	if slices.Contains(sub.Verbs, "create") {
		o := k.operation("post", "post", k.id("create", k.scope, k.Kind, title(sub.Name)), "create "+sub.Name+" of "+one(k.Kind),
			k.named(gvk.Kind), options(metav1.CreateOptions{}))
		o.body = definition
		o.results = answers(definition, 200, 201, 202)
		ops = append(ops, o)
	}
	for i := range ops {
		if !k.custom {
			ops[i].kind = gvk
		}
	}
	return []endpoint{{path, ops}}
}

// log is the one subresource that streams and yet is read as an object is.
func (k *kind) log(sub resource.Sub) operation {
	o := k.operation("get", "get", k.id("read", k.scope, k.Kind, title(sub.Name)), "read "+sub.Name+" of the specified "+k.Kind,
		k.named(k.Kind), connectOptions(corev1.SchemeGroupVersion.WithKind("PodLogOptions")))
	o.results = answers("", 200)
	o.produces = append([]string{"text/plain"}, k.produces...)
	return o
}

// connect are the paths of a subresource that streams. What takes a path is a
// proxy: it has every method, and a second endpoint with the path in it.
func (k *kind) connect(path string, sub resource.Sub) []endpoint {
	with := append([]parameter{nameOf(sub.Kind.Kind)}, k.inNamespace...)
	query := connectOptions(sub.Kind)
	methods, rest := []string{"get", "post"}, []string{""}
	if slices.ContainsFunc(query, func(p parameter) bool { return p.name == "path" }) {
		methods, rest = []string{"get", "put", "post", "delete", "options", "head", "patch"}, []string{"", "WithPath"}
	}
	var all []endpoint
	for _, suffix := range rest {
		e := endpoint{path: path}
		if suffix != "" {
			e.path += "/{path}"
			with = append(with, parameter{"path", "path", "string", "path to the resource"})
		}
		for _, method := range methods {
			o := k.operation(method, "connect", k.id("connect", title(method), k.scope, k.Kind, title(sub.Name), suffix),
				"connect "+strings.ToUpper(method)+" requests to "+sub.Name+" of "+k.Kind, with, query)
			o.kind, o.results, o.produces = sub.Kind, answers("", 200), anyType
			e.operations = append(e.operations, o)
		}
		all = append(all, e)
	}
	return all
}

// watches are the deprecated paths below /watch, which are not advertised for
// custom resources.
func (k *kind) watches() []endpoint {
	if !k.has("watch") || k.custom {
		return nil
	}
	const deprecated = ". deprecated: use the 'watch' parameter with a list operation instead"
	prefix := root(k.Resource) + "/watch"
	in := prefix + k.path[len(root(k.Resource)):]
	watch := func(path, action, id, description string, with []parameter) endpoint {
		o := k.operation("get", action, id, description, with, listOptions())
		o.results, o.produces = answers(k.schemas.refTo(metav1.WatchEvent{}), 200), k.streaming()
		return endpoint{path, []operation{o}}
	}
	list := "watch individual changes to a list of " + k.Kind + deprecated + "."
	all := []endpoint{watch(in, "watchlist", k.id("watch", k.scope, k.Kind, "List"), list, append([]parameter{pretty}, k.inNamespace...))}
	if k.Namespaced() {
		all = append(all, watch(prefix+"/"+k.Plural, "watchlist", k.id("watch", k.Kind, "ListForAllNamespaces"), list, []parameter{pretty}))
	}
	if !k.has("get") {
		return all
	}
	return append(all, watch(in+"/{name}", "watch", k.id("watch", k.scope, k.Kind),
		"watch changes to an object of kind "+k.Kind+deprecated+", filtered to a single item with the 'fieldSelector' parameter.", k.named(k.Kind)))
}

// one is a noun with its article; plural nouns (Endpoints) have none.
func one(noun string) string {
	switch {
	case strings.HasSuffix(noun, "s") && !strings.HasSuffix(noun, "ss"):
		return noun
	case strings.ContainsAny(noun[:1], "AEIOU"):
		return "an " + noun
	}
	return "a " + noun
}
