package openapi

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const (
	metadataText = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
	listMetaText = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)

// customName is the name of a custom resource's definition: its group
// reversed, its version and its kind.
func customName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, gvk.Version, gvk.Kind), ".")
}

// addCustom adds the definitions of a custom resource and its list.
func (s *schemas) addCustom(r *resource.Resource) (object, list string) {
	object = customName(r.GVK())
	list = customName(r.GroupVersion().WithKind(r.ListKind))
	d := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	if own := r.Custom.Schema(); own != nil {
		d = s.complete(*own)
	}
	d.Properties, d.Extensions = maps.Clone(d.Properties), maps.Clone(d.Extensions)
	s.addHead(&d, metadataText, metav1.ObjectMeta{})
	addKinds(&d, r.GVK())
	s.all[object] = &d

	l := spec.Schema{SchemaProps: spec.SchemaProps{
		Type: []string{"object"}, Description: r.ListKind + " is a list of " + r.Kind, Required: []string{"items"},
	}}
	s.addHead(&l, listMetaText, metav1.ListMeta{})
	l.Properties["items"] = spec.Schema{SchemaProps: spec.SchemaProps{
		Type:        []string{"array"},
		Description: "List of " + r.Plural + ". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
		Items:       &spec.SchemaOrArray{Schema: &spec.Schema{SchemaProps: spec.SchemaProps{Ref: refTo(object)}}},
	}}
	addKinds(&l, r.GroupVersion().WithKind(r.ListKind))
	s.all[list] = &l
	return object, list
}

// addHead adds the properties every kind has.
func (s *schemas) addHead(d *spec.Schema, text string, metadata any) {
	if d.Properties == nil {
		d.Properties = make(map[string]spec.Schema)
	}
	docs := swaggerDoc(reflect.TypeFor[metav1.TypeMeta]())
	for _, name := range []string{"apiVersion", "kind"} {
		d.Properties[name] = spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}, Description: docs[name]}}
	}
	d.Properties["metadata"] = wrapRef(spec.Schema{SchemaProps: spec.SchemaProps{Description: text, Ref: refTo(s.refTo(metadata))}})
}

// complete is a copy of a custom schema with what two of its extensions stand
// for written out.
func (s *schemas) complete(d spec.Schema) spec.Schema {
	d = mapSchemas(d, s.complete)
	if mixed, _ := d.Extensions.GetBool(extensionMixed); mixed && d.AnyOf == nil {
		for _, t := range []string{"integer", "string"} {
			d.AnyOf = append(d.AnyOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{t}}})
		}
	}
	if embedded, _ := d.Extensions.GetBool(extensionEmbedded); embedded {
		d.Properties = maps.Clone(d.Properties)
		s.addHead(&d, metadataText, metav1.ObjectMeta{})
		d.Required = slices.Compact(slices.Sorted(slices.Values(append([]string{"apiVersion", "kind"}, d.Required...))))
	}
	return d
}

// mapSchemas is a copy of d with f applied to the schemas of its properties,
// items and values.
func mapSchemas(d spec.Schema, f func(spec.Schema) spec.Schema) spec.Schema {
	if d.Properties != nil {
		d.Properties = maps.Clone(d.Properties)
		for name, p := range d.Properties {
			d.Properties[name] = f(p)
		}
	}
	if d.Items != nil && d.Items.Schema != nil {
		items := f(*d.Items.Schema)
		d.Items = &spec.SchemaOrArray{Schema: &items}
	}
	if a := d.AdditionalProperties; a != nil && a.Schema != nil {
		values := f(*a.Schema)
		d.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: &values}
	}
	return d
}
