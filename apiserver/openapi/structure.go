package openapi

import (
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	merging "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/skiff-k8s/skiff/apiserver/managedfields"
)

// structures are the schemas by which server-side apply merges built-in kinds:
// they know list types, map types, defaults and unions, which Go types do not.
var structures = sync.OnceValue(func() []*smd.Schema {
	return []*smd.Schema{
		structureWith(applyconfigurations.NewTypeConverter(scheme.Scheme), &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}}),
		structureWith(managedfields.ExtensionTypes(), &apiextensionsv1.CustomResourceDefinition{TypeMeta: metav1.TypeMeta{
			APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"}}),
	}
})

// structureWith is the schema that has the kind of obj.
func structureWith(types merging.TypeConverter, obj runtime.Object) *smd.Schema {
	typed, err := types.ObjectToTyped(obj)
	if err != nil {
		panic("openapi: no schema of a built-in kind: " + err.Error())
	}
	return typed.Schema()
}

func structureOf(name string) *smd.Map {
	for _, s := range structures() {
		if t, ok := s.FindNamedType(name); ok {
			return t.Map
		}
	}
	return nil
}

// addStructure tells whether the objects of a definition are merged, and which
// of their fields exclude each other.
func addStructure(d *spec.Schema, name string) {
	m := structureOf(name)
	if m == nil || len(d.Properties) == 0 {
		return
	}
	if m.ElementRelationship == smd.Atomic {
		d.AddExtension(extensionMapType, "atomic")
	}
	var unions []any
	for _, u := range m.Unions {
		fields := make(map[string]any)
		for _, f := range u.Fields {
			fields[f.FieldName] = f.DiscriminatorValue
		}
		union := map[string]any{"fields-to-discriminateBy": fields}
		if u.Discriminator != nil {
			union["discriminator"] = *u.Discriminator
		}
		unions = append(unions, union)
	}
	if unions != nil {
		d.AddExtension(extensionUnions, unions)
	}
}

// addRelation tells how the items of a list or the entries of a map in the
// field owner.name are merged.
func addRelation(p *spec.Schema, owner, name string) {
	m := structureOf(owner)
	if m == nil {
		return
	}
	f, ok := m.FindField(name)
	if !ok {
		return
	}
	if f.Default != nil && !isZero(f.Default) {
		p.Default = f.Default
	}
	switch list := f.Type.Inlined.List; {
	case list == nil:
	case list.ElementRelationship == smd.Atomic:
		p.AddExtension(extensionListType, "atomic")
	case len(list.Keys) == 0:
		p.AddExtension(extensionListType, "set")
	default:
		p.AddExtension(extensionListType, "map")
		p.AddExtension(extensionMapKeys, list.Keys)
	}
	switch {
	case f.Type.ElementRelationship != nil && *f.Type.ElementRelationship == smd.Separable:
		p.AddExtension(extensionMapType, "granular")
	case f.Type.Inlined.Map == nil:
	case f.Type.Inlined.Map.ElementRelationship == smd.Atomic:
		p.AddExtension(extensionMapType, "atomic")
	case f.Type.Inlined.Map.ElementRelationship == smd.Separable:
		p.AddExtension(extensionMapType, "granular")
	}
}

func isZero(v any) bool {
	if m, ok := v.(map[string]any); ok {
		return len(m) == 0
	}
	return reflect.ValueOf(v).IsZero()
}
