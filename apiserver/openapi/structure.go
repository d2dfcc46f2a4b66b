package openapi

import (
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// structure is the schema by which server-side apply merges built-in kinds: it
// knows list types, map types, defaults and unions, which Go types do not.
var structure = sync.OnceValue(func() *smd.Schema {
	typed, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}})
	if err != nil {
		panic("openapi: client-go's apply configurations do not know ConfigMap: " + err.Error())
	}
	return typed.Schema()
})

func structureOf(name string) *smd.Map {
	t, ok := structure().FindNamedType(name)
	if !ok {
		return nil
	}
	return t.Map
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
