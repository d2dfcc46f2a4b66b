package openapi

import (
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistration "k8s.io/kube-aggregator/pkg/generated/openapi"
	kubeopenapi "k8s.io/kube-openapi/pkg/common"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// Extensions of the API conventions.
const (
	extensionGVK      = "x-kubernetes-group-version-kind"
	extensionAction   = "x-kubernetes-action"
	extensionListType = "x-kubernetes-list-type"
	extensionMapKeys  = "x-kubernetes-list-map-keys"
	extensionMapType  = "x-kubernetes-map-type"
	extensionMergeKey = "x-kubernetes-patch-merge-key"
	extensionStrategy = "x-kubernetes-patch-strategy"
	extensionUnions   = "x-kubernetes-unions"
	extensionMixed    = "x-kubernetes-int-or-string"
	extensionEmbedded = "x-kubernetes-embedded-resource"
	extensionUnknown  = "x-kubernetes-preserve-unknown-fields"
)

// schemaPrefix is where definitions are in OpenAPI 3.
const schemaPrefix = "#/components/schemas/"

// schemas collects the OpenAPI 3 schemas one document refers to.
type schemas struct {
	gv    *schema.GroupVersion // of the document; nil: of all
	all   map[string]*spec.Schema
	facts *facts
	v2    bool // for OpenAPI 2, which has no oneOf
}

func newSchemas(gv *schema.GroupVersion) *schemas {
	return &schemas{gv: gv, all: make(map[string]*spec.Schema), facts: loadFacts()}
}

// refTo is the name of the definition of v's type, which it adds with all it
// refers to.
func (s *schemas) refTo(v any) string { return s.ref(reflect.Indirect(reflect.ValueOf(v)).Type()) }

// refToKind is refTo of a kind, which the definition then names even if the
// scheme does not know it.
func (s *schemas) refToKind(v any, gvk schema.GroupVersionKind) string {
	name := s.refTo(v)
	if d := s.all[name]; d.Extensions[extensionGVK] == nil {
		addKinds(d, gvk)
	}
	return name
}

func (s *schemas) ref(t reflect.Type) string {
	name := modelName(t)
	if s.all[name] != nil {
		return name
	}
	d := new(spec.Schema)
	s.all[name] = d // before its fields, which may refer back
	*d = s.definition(t, name)
	return name
}

func modelName(t reflect.Type) string {
	if named, ok := reflect.Zero(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return openapiutil.ToRESTFriendlyName(t.PkgPath() + "." + t.Name())
}

// Types may say how they are written in JSON when that is not how they are
// declared.
type (
	schemaType   interface{ OpenAPISchemaType() []string }
	schemaFormat interface{ OpenAPISchemaFormat() string }
	schemaOneOf  interface{ OpenAPIV3OneOfTypes() []string }
)

func (s *schemas) definition(t reflect.Type, name string) spec.Schema {
	d := spec.Schema{}
	d.Description = s.description(t, name)
	zero := reflect.Zero(t).Interface()
	if special, ok := zero.(schemaType); ok {
		if f, ok := zero.(schemaFormat); ok {
			d.Format = f.OpenAPISchemaFormat()
		}
		if o, ok := zero.(schemaOneOf); ok && !s.v2 {
			for _, one := range o.OpenAPIV3OneOfTypes() {
				d.OneOf = append(d.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{one}}})
			}
			return d
		}
		d.Type = special.OpenAPISchemaType()
		return d
	}
	d.Type = []string{"object"}
	if !writesItself(t) {
		s.addFields(&d, t, name)
	}
	addStructure(&d, name)
	for name, value := range s.facts.extensions[name] {
		d.AddExtension(name, value)
	}
	s.addKinds(&d, t)
	return d
}

// writesItself reports whether t is one of those wrappers (RawExtension,
// FieldsV1, …) whose JSON is not their fields.
func writesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Marshaler]()) || p.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

func (s *schemas) description(t reflect.Type, name string) string {
	if text, ok := s.facts.descriptions[name]; ok {
		return text
	}
	return swaggerDoc(t)[""]
}

func swaggerDoc(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return d.SwaggerDoc()
	}
	return generatedDocs()[modelName(t)]
}

// generatedDocs are the texts of the types of apiextensions.k8s.io and
// apiregistration.k8s.io, by definition: they have no SwaggerDoc.
var generatedDocs = sync.OnceValue(func() map[string]map[string]string {
	docs := make(map[string]map[string]string)
	for of, generated := range map[string]func(kubeopenapi.ReferenceCallback) map[string]kubeopenapi.OpenAPIDefinition{
		"io.k8s.apiextensions-apiserver.": apiextensions.GetOpenAPIDefinitions,
		"io.k8s.kube-aggregator.":         apiregistration.GetOpenAPIDefinitions,
	} {
		for name, d := range generated(refTo) {
			if !strings.HasPrefix(name, of) {
				continue // it has a SwaggerDoc
			}
			docs[name] = map[string]string{"": d.Schema.Description}
			for field, p := range d.Schema.Properties {
				// What enumerated values mean is added to all texts alike.
				docs[name][field], _, _ = strings.Cut(p.Description, "\n\nPossible enum values:")
			}
		}
	}
	return docs
})

// addFields makes properties of the fields of t, inlined ones included.
func (s *schemas) addFields(d *spec.Schema, t reflect.Type, owner string) {
	docs := swaggerDoc(t)
	for f := range fieldsOf(t) {
		if f.inline {
			s.addFields(d, f.Type, owner)
			continue
		}
		p := s.property(f.Type, true)
		key := owner + "." + f.name
		if text, ok := s.facts.descriptions[key]; ok {
			p.Description = text
		} else {
			p.Description = docs[f.name]
		}
		if s.facts.spaced[key] {
			p.Description += "\n"
		}
		p.Description = withEnum(p.Description, s.facts.enum(f.Type))
		if f.omitEmpty && p.Default != nil && !isEmptyObject(p.Default) || f.pointer() {
			p.Default = nil
		}
		if value, ok := s.facts.defaults[key]; ok {
			p.Default = value
		}
		addPatch(&p, f.Tag)
		addRelation(&p, owner, f.name)
		for name, value := range s.facts.extensions[key] {
			p.AddExtension(name, value)
		}
		if d.Properties == nil {
			d.Properties = make(map[string]spec.Schema)
		}
		d.Properties[f.name] = wrapRef(p)
		if s.facts.isRequired(key, !f.omitEmpty) {
			d.Required = append(d.Required, f.name)
		}
	}
}

func isEmptyObject(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

// property is the schema of a value of type t. Its default is the zero value
// of what cannot be absent.
func (s *schemas) property(t reflect.Type, field bool) spec.Schema {
	p := spec.Schema{}
	if t.Kind() == reflect.Pointer {
		p = s.property(t.Elem(), field)
		p.Default = nil
		return p
	}
	if !reflect.PointerTo(t).Implements(reflect.TypeFor[schemaType]()) {
		if basic, ok := basicType(t); ok {
			p.SchemaProps = basic
			for _, value := range slices.Sorted(maps.Keys(s.facts.enum(t))) {
				p.Enum = append(p.Enum, value)
			}
			return p
		}
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		items := wrapRef(s.property(t.Elem(), false))
		p.Type, p.Items = []string{"array"}, &spec.SchemaOrArray{Schema: &items}
	case reflect.Map:
		values := wrapRef(s.property(t.Elem(), false))
		p.Type, p.AdditionalProperties = []string{"object"}, &spec.SchemaOrBool{Allows: true, Schema: &values}
	case reflect.Interface:
		p.Type = []string{"object"}
	default:
		p.Ref = refTo(s.ref(t))
		if t.Kind() == reflect.Struct && !writesItself(t) {
			p.Default = map[string]any{}
		}
	}
	return p
}

func basicType(t reflect.Type) (spec.SchemaProps, bool) {
	basic := func(kind, format string, zero any) (spec.SchemaProps, bool) {
		return spec.SchemaProps{Type: []string{kind}, Format: format, Default: zero}, true
	}
	switch t.Kind() {
	case reflect.String:
		return basic("string", "", "")
	case reflect.Bool:
		return basic("boolean", "", false)
	case reflect.Int32, reflect.Int, reflect.Uint32, reflect.Int16, reflect.Uint16, reflect.Int8:
		return basic("integer", "int32", 0)
	case reflect.Int64, reflect.Uint64:
		return basic("integer", "int64", 0)
	case reflect.Float64, reflect.Float32:
		return basic("number", "double", 0)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return basic("string", "byte", nil)
		}
	}
	return spec.SchemaProps{}, false
}

func refTo(name string) spec.Ref { return spec.MustCreateRef(schemaPrefix + name) }

// wrapRef puts a reference that has siblings into allOf: beside $ref they
// would be ignored.
func wrapRef(p spec.Schema) spec.Schema {
	if p.Ref.String() == "" || p.Description == "" && p.Default == nil && len(p.Extensions) == 0 {
		return p
	}
	p.AllOf = []spec.Schema{{SchemaProps: spec.SchemaProps{Ref: p.Ref}}}
	p.Ref = spec.Ref{}
	return p
}

// addPatch tells how strategic merge patches treat the field.
func addPatch(p *spec.Schema, tag reflect.StructTag) {
	if key := tag.Get("patchMergeKey"); key != "" {
		p.AddExtension(extensionMergeKey, key)
	}
	if strategy := tag.Get("patchStrategy"); strategy != "" {
		p.AddExtension(extensionStrategy, strategy)
	}
}

// withEnum adds what the values of a field mean to its description.
func withEnum(text string, values map[string]string) string {
	if len(values) == 0 {
		return text
	}
	var b strings.Builder
	b.WriteString(text)
	if text != "" {
		b.WriteString("\n\n")
	}
	b.WriteString("Possible enum values:")
	for _, v := range slices.Sorted(maps.Keys(values)) {
		b.WriteString(strings.TrimSuffix("\n - `\""+v+"\"` "+values[v], " "))
	}
	return b.String()
}

// addKinds names the kinds written as this definition. A type that is a kind
// of many groups (DeleteOptions) is listed as that of the document's.
func (s *schemas) addKinds(d *spec.Schema, t reflect.Type) {
	obj, ok := reflect.New(t).Interface().(runtime.Object)
	if !ok {
		return
	}
	kinds, _, err := codec.Scheme.ObjectKinds(obj)
	if err != nil {
		return // no kind, just a type that could be one
	}
	ofMany, kinds := len(kinds) > 1, slices.Clone(kinds)
	if ofMany {
		for _, gv := range unregistered {
			kinds = append(kinds, gv.WithKind(kinds[0].Kind))
		}
	}
	addKinds(d, slices.DeleteFunc(kinds, func(k schema.GroupVersionKind) bool {
		return k.Version == runtime.APIVersionInternal ||
			ofMany && s.gv != nil && k.GroupVersion() != *s.gv && k.GroupVersion() != metav1.Unversioned
	})...)
}

// unregistered are the group versions that kube-apiserver knows and the scheme
// of the codec does not.
var unregistered = []schema.GroupVersion{
	{Group: "admission.k8s.io", Version: "v1"},
	{Group: "admission.k8s.io", Version: "v1beta1"},
	{Group: "apiextensions.k8s.io", Version: "v1beta1"},
	{Group: "apiregistration.k8s.io", Version: "v1beta1"},
	{Group: "imagepolicy.k8s.io", Version: "v1alpha1"},
}

func addKinds(d *spec.Schema, kinds ...schema.GroupVersionKind) {
	var list []any
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range kinds {
		list = append(list, gvkValue(k))
	}
	if list != nil {
		d.AddExtension(extensionGVK, list)
	}
}

func gvkValue(k schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}
}
