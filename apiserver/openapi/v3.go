package openapi

import (
	"fmt"
	"slices"

	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// info is what every document is about.
func info() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: majorMinor}}
}

const (
	majorMinor = "1.36"
	bearer     = "BearerToken"
)

func renderV3(s *schemas, endpoints []endpoint) ([]byte, error) {
	doc := &spec3.OpenAPI{Version: "3.0.0", Info: info(), Paths: &spec3.Paths{Paths: make(map[string]*spec3.Path)}}
	for _, e := range endpoints {
		path, err := pathV3(e)
		if err != nil {
			return nil, err
		}
		doc.Paths.Paths[e.path] = path
	}
	doc.Components = &spec3.Components{Schemas: s.all, SecuritySchemes: spec3.SecuritySchemes{bearer: {SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}}}
	return doc.MarshalJSON() // json.Marshal would go over the result once more
}

func pathV3(e endpoint) (*spec3.Path, error) {
	p := new(spec3.Path)
	shared := e.shared()
	p.Parameters = parametersV3(shared)
	for _, o := range e.operations {
		slot, err := slotV3(p, o.method)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
		own := slices.DeleteFunc(slices.Clone(o.parameters), func(p parameter) bool { return slices.Contains(shared, p) })
		*slot = operationV3(o, own)
	}
	return p, nil
}

func slotV3(p *spec3.Path, method string) (**spec3.Operation, error) {
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

func operationV3(o operation, own []parameter) *spec3.Operation {
	op := &spec3.Operation{OperationProps: spec3.OperationProps{
		Tags: []string{o.tag}, Description: o.description, OperationId: o.id, Parameters: parametersV3(own),
	}}
	if o.body != nil {
		op.RequestBody = &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{
			Content: contentV3(use(o.body.definition), o.body.types), Required: o.body.required,
		}}
	}
	codes := map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}}
	for status, definition := range o.results {
		codes[status] = &spec3.Response{ResponseProps: spec3.ResponseProps{
			Description: statusTexts[status], Content: contentV3(use(definition), o.produces),
		}}
	}
	op.Responses = &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: codes}}
	if o.action != "" {
		op.Extensions = spec.Extensions{extensionAction: o.action, extensionGVK: gvkValue(o.kind)}
	}
	return op
}

var statusTexts = map[int]string{200: "OK", 201: "Created", 202: "Accepted"}

func contentV3(s spec.Schema, types []string) map[string]*spec3.MediaType {
	content := make(map[string]*spec3.MediaType)
	for _, t := range types {
		content[t] = &spec3.MediaType{MediaTypeProps: spec3.MediaTypeProps{Schema: &s}}
	}
	return content
}

func parametersV3(list []parameter) []*spec3.Parameter {
	var all []*spec3.Parameter
	for _, p := range list {
		all = append(all, &spec3.Parameter{ParameterProps: spec3.ParameterProps{
			Name: p.name, In: p.in, Description: p.description, Required: p.in == "path",
			Schema: &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{p.kind}, UniqueItems: true}},
		}})
	}
	return all
}

// shared are the parameters all operations of e have: they are listed once.
func (e endpoint) shared() []parameter {
	return slices.DeleteFunc(slices.Clone(e.operations[0].parameters), func(p parameter) bool {
		return slices.ContainsFunc(e.operations, func(o operation) bool { return !slices.Contains(o.parameters, p) })
	})
}

// use is a reference to a definition; "" is a string.
func use(definition string) spec.Schema {
	if definition == "" {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}}}
	}
	return spec.Schema{SchemaProps: spec.SchemaProps{Ref: refTo(definition)}}
}
