// Package custom makes custom resources of their definitions: a row for each
// version that is served, over one stored row, as built-in kinds have them.
// Definitions follows the definitions of a server: which names are accepted,
// what is served, and that the objects go before their definition does.
//
// Schemas are kept packed, and made into what prunes, validates and merges when
// that is first needed: most kinds of a cluster are hardly ever written.
package custom

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type (
	definition = apiextensionsv1.CustomResourceDefinition
	object     = unstructured.Unstructured
)

// kind is a definition with the rows that serve it.
type kind struct {
	names    apiextensionsv1.CustomResourceDefinitionNames
	group    string
	keeps    bool // fields that no schema knows
	versions []*served
	hook     *webhook // nil: versions differ in apiVersion alone
	stored   *resource.Resource
	rows     []*resource.Resource // of the versions that are served; if none is and its objects are to go, the stored one
	types    func() (upstream.TypeConverter, error)
	// ending: the definition is being deleted.
	ending atomic.Bool
}

// newKind makes the rows of a definition under the names it was given. hook
// makes a webhook that converts.
func newKind(d *definition, names allNames, hook func(*apiextensionsv1.WebhookConversion) (*webhook, error)) (*kind, error) {
	k := &kind{names: names, group: d.Spec.Group, keeps: d.Spec.PreserveUnknownFields}
	k.types = sync.OnceValues(k.newTypes)
	if c := d.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
		var err error
		if k.hook, err = hook(c.Webhook); err != nil {
			return nil, err
		}
	}
	var stored *served
	for i := range d.Spec.Versions {
		v, err := newVersion(k, &d.Spec.Versions[i])
		if err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", d.Spec.Versions[i].Name, d.Name, err)
		}
		v.row = v.define(d)
		k.versions = append(k.versions, v)
		if d.Spec.Versions[i].Storage {
			k.stored, stored = v.row, v
		}
	}
	if stored == nil {
		return nil, fmt.Errorf("%s has no storage version", d.Name)
	}
	for i, v := range k.versions {
		v.addConversion(stored)
		if d.Spec.Versions[i].Served {
			k.rows = append(k.rows, v.row)
		}
	}
	if len(k.rows) == 0 && d.DeletionTimestamp != nil {
		k.stored.StoredOnly = true // its objects go before it does
		k.rows = append(k.rows, k.stored)
	}
	return k, nil
}

// newTypes are the types of all versions, by which applied configurations are
// merged.
func (k *kind) newTypes() (upstream.TypeConverter, error) {
	schemas := make(map[schema.GroupVersionKind]*spec.Schema)
	for _, v := range k.versions {
		s := v.openAPI()
		if s == nil {
			s = &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
		}
		schemas[v.row.GVK()] = s
	}
	return managedfields.CustomTypes(schemas, k.keeps)
}

// revision is resource.Custom.Revision of all versions of a definition. Names
// are accepted without a new generation.
func revision(d *definition, names allNames) string {
	return fmt.Sprintf("%s/%d/%s", d.UID, d.Generation, names.String())
}

// define makes the row of a version, which is its own storage until convert.
func (v *served) define(d *definition) *resource.Resource {
	k := v.kind
	r := resource.Define[unstructured.UnstructuredList](resource.Definition[object]{
		Group: k.group, Version: v.name, Kind: k.names.Kind, ListKind: k.names.ListKind, Plural: k.names.Plural, Singular: k.names.Singular,
		ShortNames: k.names.ShortNames, Categories: k.names.Categories,
		ClusterScoped: d.Spec.Scope == apiextensionsv1.ClusterScoped,
		Verbs:         verbs,
		Packed:        true,
		Deprecated:    deprecation(d, v.name),
		Default:       v.fill,
		Reserve:       k.refuse,
		Prepare:       v.prepare,
		Reset:         []string{},
		Warn:          warn,
		Generation:    changed,
		NeedsVersion:  true,
		Fields:        selectable(v.selectable),
		Columns:       v.columns(),
		Subresources:  v.subresources(),
	})
	if v.status {
		r.Reset = nil // as any kind with a status
	}
	v.judge(r)
	r.NewList = nil
	r.New = func() resource.Object {
		u := &object{}
		u.SetGroupVersionKind(r.GVK())
		return u
	}
	r.Custom = &resource.Custom{Prune: v.prune, Types: k.types, Schema: v.openAPI, Version: k.version, Revision: revision(d, k.names)}
	return r
}

// version is the row of a version, served or not.
func (k *kind) version(name string) *resource.Resource {
	i := slices.IndexFunc(k.versions, func(v *served) bool { return v.name == name })
	if i < 0 {
		return nil
	}
	return k.versions[i].row
}

// verbs of custom resources, in the order of discovery.
var verbs = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}

// deprecation warns of a version that is deprecated, and names the best that
// is not.
func deprecation(d *definition, name string) string {
	i := slices.IndexFunc(d.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == name })
	v := d.Spec.Versions[i]
	switch {
	case !v.Deprecated:
		return ""
	case v.DeprecationWarning != nil:
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.Spec.Group, name, d.Spec.Names.Kind)
	best := ""
	for _, other := range d.Spec.Versions {
		if other.Served && !other.Deprecated && version.CompareKubeAwareVersionStrings(other.Name, name) > 0 &&
			(best == "" || version.CompareKubeAwareVersionStrings(other.Name, best) > 0) {
			best = other.Name
		}
	}
	if best != "" {
		text += fmt.Sprintf("; use %s/%s %s", d.Spec.Group, best, d.Spec.Names.Kind)
	}
	return text
}

// refuse lets no object be made of a kind that is going.
func (k *kind) refuse(_ context.Context, obj, old *object, _ bool) (func(bool), error) {
	if obj != nil && old == nil && k.ending.Load() {
		return nil, apierrors.NewForbidden(k.stored.GR(), obj.GetName(), errors.New("create not allowed while custom resource definition is terminating"))
	}
	return func(bool) {}, nil
}

// changed reports whether anything but metadata differs.
func changed(obj, old *object) bool {
	for name := range obj.Object {
		if _, there := old.Object[name]; !there {
			return true
		}
	}
	for name, was := range old.Object {
		is, there := obj.Object[name]
		if name != "metadata" && (!there || !equality.Semantic.DeepEqual(is, was)) {
			return true
		}
	}
	return false
}
