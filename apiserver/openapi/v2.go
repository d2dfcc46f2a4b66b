package openapi

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// definitionPrefix is where definitions are in OpenAPI 2.
const definitionPrefix = "#/definitions/"

func renderV2(s *schemas, endpoints []endpoint) ([]byte, error) {
	doc := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: info(),
		Paths:       &spec.Paths{Paths: make(map[string]spec.PathItem)},
		Definitions: make(spec.Definitions), Parameters: make(map[string]spec.Parameter),
		SecurityDefinitions: spec.SecurityDefinitions{bearer: {SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
		}}},
		Security: []map[string][]string{{bearer: {}}},
	}}
	for _, e := range endpoints {
		path, err := pathV2(e, doc.Parameters)
		if err != nil {
			return nil, err
		}
		doc.Paths.Paths[e.path] = path
	}
	for name, d := range s.all {
		doc.Definitions[name] = toV2(*d)
	}
	return doc.MarshalJSON() // json.Marshal would go over the result once more
}

func pathV2(e endpoint, common map[string]spec.Parameter) (spec.PathItem, error) {
	var p spec.PathItem
	shared := e.shared()
	p.Parameters = parametersV2(shared, common)
	for _, o := range e.operations {
		slot, err := slotV2(&p, o.method)
		if err != nil {
			return p, fmt.Errorf("%s: %w", e.path, err)
		}
		own := slices.DeleteFunc(slices.Clone(o.parameters), func(p parameter) bool { return slices.Contains(shared, p) })
		*slot = operationV2(o, own, common)
	}
	return p, nil
}

func slotV2(p *spec.PathItem, method string) (**spec.Operation, error) {
	switch method {
	case "get":
		return &p.Get, nil
	case "put":
		return &p.Put, nil
	case "post":
		return &p.Post, nil
	case "delete":
		return &p.Delete, nil
	case "options":
		return &p.Options, nil
	case "head":
		return &p.Head, nil
	case "patch":
		return &p.Patch, nil
	}
	return nil, fmt.Errorf("OpenAPI has no method %s", method)
}

func operationV2(o operation, own []parameter, common map[string]spec.Parameter) *spec.Operation {
	op := &spec.Operation{OperationProps: spec.OperationProps{
		Description: o.description, ID: o.id, Tags: []string{o.tag}, Schemes: []string{"https"},
		Consumes: o.consumes, Produces: o.produces,
	}}
	if o.body != nil {
		s := toV2(use(o.body.definition))
		op.Parameters = append(op.Parameters, spec.Parameter{ParamProps: spec.ParamProps{
			Name: "body", In: "body", Required: o.body.required, Schema: &s,
		}})
	}
	op.Parameters = append(op.Parameters, parametersV2(own, common)...)
	codes := map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	for status, definition := range o.results {
		s := toV2(use(definition))
		codes[status] = spec.Response{ResponseProps: spec.ResponseProps{Description: statusTexts[status], Schema: &s}}
	}
	op.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: codes}}
	if o.action != "" {
		op.Extensions = spec.Extensions{extensionAction: o.action, extensionGVK: gvkValue(o.kind)}
	}
	return op
}

// unshared are the parameters written out everywhere: kubectl looks for the
// first two by name and follows no reference, the third differs by kind.
var unshared = []string{"dryRun", "fieldValidation", "name"}

// parametersV2 adds to common what many paths have, and refers to it there:
// that makes the document half as large.
func parametersV2(list []parameter, common map[string]spec.Parameter) []spec.Parameter {
	var all []spec.Parameter
	for _, p := range list {
		full := spec.Parameter{
			ParamProps:        spec.ParamProps{Name: p.name, In: p.in, Description: p.description, Required: p.in == "path"},
			SimpleSchema:      spec.SimpleSchema{Type: p.kind},
			CommonValidations: spec.CommonValidations{UniqueItems: true},
		}
		if slices.Contains(unshared, p.name) {
			all = append(all, full)
			continue
		}
		sum := sha256.Sum256([]byte(p.in + p.kind + p.description))
		key := p.name + "-" + base64.RawURLEncoding.EncodeToString(sum[:6])
		common[key] = full
		all = append(all, spec.Parameter{Refable: spec.Refable{Ref: spec.MustCreateRef("#/parameters/" + key)}})
	}
	return all
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
