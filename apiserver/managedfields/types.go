package managedfields

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/typed"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TypesOf are the types of the fields of what is written to r or to a
// subresource of it, by which configurations are applied. empty is such an
// object, which says of what kind it is.
func TypesOf(r *resource.Resource, empty runtime.Object) (upstream.TypeConverter, error) {
	if r.Custom != nil && empty.GetObjectKind().GroupVersionKind() == r.GVK() {
		return r.Custom.Types()
	}
	if types := knownTypes(empty); types != nil {
		return types, nil
	}
	return unknown{}, nil
}

// Prepare parses the schema of built-in kinds, unless that has been done: the first write waits for it. It is the longest part
// of the first start of a process.
func Prepare() { builtinTypes() }

// unknown are the types of a kind that has no schema.
type unknown struct{}

func (unknown) ObjectToTyped(obj runtime.Object, _ ...smd.ValidationOptions) (*smd.TypedValue, error) {
	return nil, fmt.Errorf("no corresponding type for %v", obj.GetObjectKind().GroupVersionKind())
}

func (unknown) TypedToObject(*smd.TypedValue) (runtime.Object, error) {
	return nil, errors.New("no corresponding type")
}

// typesOf are the types of the fields of a built-in kind. A few kinds (Scale)
// have no schema, and no lists or maps that would need one.
func typesOf(empty runtime.Object) upstream.TypeConverter {
	if types := knownTypes(empty); types != nil {
		return types
	}
	return upstream.NewDeducedTypeConverter()
}

func knownTypes(empty runtime.Object) upstream.TypeConverter {
	for _, types := range []func() upstream.TypeConverter{builtinTypes, definitionTypes, registrationTypes} {
		if _, err := types().ObjectToTyped(empty); err == nil {
			return types()
		}
	}
	return nil
}

// builtinTypes parses the schema of all types that client-go has apply
// configurations for, which takes a while.
var builtinTypes = sync.OnceValue(func() upstream.TypeConverter {
	return applyconfigurations.NewTypeConverter(scheme.Scheme)
})

// The types of the kinds for which client-go has no apply configurations.
var (
	definitionTypes = sync.OnceValue(func() upstream.TypeConverter {
		return generatedTypes(extensionModels(), apiextensionsv1.CustomResourceDefinition{}.OpenAPIModelName(),
			apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	})
	registrationTypes = sync.OnceValue(func() upstream.TypeConverter {
		return generatedTypes(generatedModels(apiregistration.GetOpenAPIDefinitions), apiregistrationv1.APIService{}.OpenAPIModelName(),
			apiregistrationv1.SchemeGroupVersion.WithKind("APIService"))
	})
)

// generatedTypes are the types of one kind, which models describe under name.
func generatedTypes(models map[string]*spec.Schema, name string, kind schema.GroupVersionKind) upstream.TypeConverter {
	models = maps.Clone(models)
	definition := *models[name]
	addKind(&definition, kind)
	models[name] = &definition
	types, err := upstream.NewTypeConverter(models, false)
	if err != nil {
		panic("managedfields: the schema of " + kind.Group + ": " + err.Error()) // it is generated
	}
	return types
}

// CustomTypes are the types of the fields of a custom resource, by the schemas
// of its versions. Kinds that keep unknown fields everywhere say so.
func CustomTypes(versions map[schema.GroupVersionKind]*spec.Schema, keepsUnknown bool) (upstream.TypeConverter, error) {
	all := extensionModels()
	models := make(map[string]*spec.Schema, len(versions)+len(metadataModels))
	for _, name := range metadataModels {
		models[name] = all[name]
	}
	for kind, own := range versions {
		root := withMetadata(*own)
		addHead(&root)
		addKind(&root, kind)
		models[kind.String()] = &root
	}
	return upstream.NewTypeConverter(models, keepsUnknown)
}

// metadataModels are what the metadata of any object is made of.
var metadataModels = []string{
	metav1.ObjectMeta{}.OpenAPIModelName(), metav1.OwnerReference{}.OpenAPIModelName(), metav1.ManagedFieldsEntry{}.OpenAPIModelName(),
	metav1.FieldsV1{}.OpenAPIModelName(), metav1.Time{}.OpenAPIModelName(),
}

var extensionModels = sync.OnceValue(func() map[string]*spec.Schema { return generatedModels(apiextensions.GetOpenAPIDefinitions) })

func generatedModels(definitions func(common.ReferenceCallback) map[string]common.OpenAPIDefinition) map[string]*spec.Schema {
	models := make(map[string]*spec.Schema)
	for name, definition := range definitions(refTo) {
		models[name] = &definition.Schema
	}
	return models
}

func refTo(name string) spec.Ref { return spec.MustCreateRef("#/components/schemas/" + name) }

// withMetadata is a copy of s in which embedded objects have metadata.
func withMetadata(s spec.Schema) spec.Schema {
	if s.Properties != nil {
		s.Properties = maps.Clone(s.Properties)
		for name, p := range s.Properties {
			s.Properties[name] = withMetadata(p)
		}
	}
	if s.Items != nil && s.Items.Schema != nil {
		items := withMetadata(*s.Items.Schema)
		s.Items = &spec.SchemaOrArray{Schema: &items}
	}
	if a := s.AdditionalProperties; a != nil && a.Schema != nil {
		values := withMetadata(*a.Schema)
		s.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: &values}
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); embedded {
		addHead(&s)
	}
	return s
}

// addHead adds the properties every object has.
func addHead(s *spec.Schema) {
	properties := maps.Clone(s.Properties)
	if properties == nil {
		properties = make(map[string]spec.Schema)
	}
	properties["apiVersion"], properties["kind"] = *spec.StringProperty(), *spec.StringProperty()
	properties["metadata"] = spec.Schema{SchemaProps: spec.SchemaProps{Ref: refTo(metav1.ObjectMeta{}.OpenAPIModelName())}}
	s.Properties = properties
}

func addKind(s *spec.Schema, kind schema.GroupVersionKind) {
	s.Extensions = maps.Clone(s.Extensions)
	s.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.Kind},
	})
}
