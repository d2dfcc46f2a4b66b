package openapi

import (
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// definitionPrefix is where definitions are in OpenAPI 2.
const definitionPrefix = "#/definitions/"

func makeV2(s *schemas, endpoints []endpoint) *spec.Swagger {
	shared := make(sharedParameters)
	doc := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: info(), Paths: describe(endpoints, shared.refer),
		Definitions: make(spec.Definitions), Parameters: shared,
		SecurityDefinitions: spec.SecurityDefinitions{bearer: token()}, Security: []map[string][]string{{bearer: {}}},
	}}
	for name, d := range s.all {
		doc.Definitions[name] = toV2(*d)
	}
	return doc
}

// sharedParameters are what many operations have, by names that are those of
// kube-apiserver: the parameter's own and a hash of it. They make the document
// half as large.
type sharedParameters map[string]spec.Parameter

// refer is a reference to p, which is shared from now on, or p if it is about
// one kind. kubectl looks for dryRun and fieldValidation by name and follows no
// reference.
func (s sharedParameters) refer(p spec.Parameter) spec.Parameter {
	switch {
	case p.Name == "name", p.Name == "dryRun", p.Name == "fieldValidation":
		return p
	case p.Schema != nil && !strings.HasPrefix(p.Schema.Ref.String(), definitionPrefix+"io.k8s.apimachinery"):
		return p
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic("openapi: a parameter has no JSON: " + err.Error())
	}
	hash := fnv.New64()
	hash.Write(text) // never fails
	name := p.Name + "-" + base64.URLEncoding.EncodeToString(hash.Sum(nil)[:6])
	s[name] = p
	return spec.Parameter{Refable: spec.Refable{Ref: spec.MustCreateRef("#/parameters/" + name)}}
}

// toV2 is an OpenAPI 3 schema as version 2 can say it. What it cannot say is
// left out, and so is what clients would enforce wrongly: they know neither
// null nor unknown fields that are kept.
func toV2(s spec.Schema) spec.Schema {
	if len(s.AllOf) == 1 && s.AllOf[0].Ref.String() != "" {
		s.Ref = s.AllOf[0].Ref
	}
	if name, ok := strings.CutPrefix(s.Ref.String(), schemaPrefix); ok {
		s.Ref = spec.MustCreateRef(definitionPrefix + name)
	}
	s.Default, s.AllOf, s.OneOf, s.AnyOf, s.Not = nil, nil, nil, nil, nil
	keeps, _ := s.Extensions.GetBool(extensionUnknown)
	mixed, _ := s.Extensions.GetBool(extensionMixed)
	kinds := s.Extensions[extensionGVK]
	switch {
	case keeps && kinds != nil:
		return spec.Schema{
			SchemaProps:      spec.SchemaProps{Type: s.Type},
			VendorExtensible: spec.VendorExtensible{Extensions: spec.Extensions{extensionGVK: kinds}},
		}
	case keeps, s.Nullable:
		s.Properties, s.Items, s.Required, s.AdditionalProperties = nil, nil, nil, nil
		s.Type, s.Nullable = nil, false
	case mixed:
		s.Type = nil
	}
	return mapSchemas(s, toV2)
}
