package openapi

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// describe are the paths of endpoints in OpenAPI 2, of which those of version 3
// are made too. write makes a parameter, or a reference to it.
func describe(endpoints []endpoint, write func(spec.Parameter) spec.Parameter) *spec.Paths {
	paths := &spec.Paths{Paths: make(map[string]spec.PathItem)}
	for _, e := range endpoints {
		paths.Paths[e.path] = e.describe(write)
	}
	return paths
}

func (e endpoint) describe(write func(spec.Parameter) spec.Parameter) spec.PathItem {
	var p spec.PathItem
	slots := map[string]**spec.Operation{
		"get": &p.Get, "put": &p.Put, "post": &p.Post, "delete": &p.Delete, "options": &p.Options, "head": &p.Head, "patch": &p.Patch,
	}
	shared := e.shared()
	for _, s := range shared {
		p.Parameters = append(p.Parameters, write(s.describe()))
	}
	for _, o := range e.operations {
		o.parameters = slices.DeleteFunc(slices.Clone(o.parameters), func(p parameter) bool { return slices.Contains(shared, p) })
		*slots[o.method] = o.describe(write)
	}
	return p
}

// shared are the parameters all operations of e have: they are listed once.
func (e endpoint) shared() []parameter {
	return slices.DeleteFunc(slices.Clone(e.operations[0].parameters), func(p parameter) bool {
		return slices.ContainsFunc(e.operations, func(o operation) bool { return !slices.Contains(o.parameters, p) })
	})
}

func (o operation) describe(write func(spec.Parameter) spec.Parameter) *spec.Operation {
	op := &spec.Operation{OperationProps: spec.OperationProps{
		Description: o.description, ID: o.id, Tags: []string{o.tag}, Schemes: []string{"https"},
		Consumes: o.consumes, Produces: o.produces,
	}}
	if o.body != "" {
		op.Parameters = append(op.Parameters, write(spec.Parameter{ParamProps: spec.ParamProps{
			Name: "body", In: "body", Required: o.needsBody(), Schema: use(o.body),
		}}))
	}
	for _, p := range o.parameters {
		op.Parameters = append(op.Parameters, write(p.describe()))
	}
	codes := map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	for status, definition := range o.results {
		codes[status] = spec.Response{ResponseProps: spec.ResponseProps{Description: statusTexts[status], Schema: use(definition)}}
	}
	op.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: codes}}
	if o.action != "" {
		op.Extensions = spec.Extensions{extensionAction: o.action, extensionGVK: metav1.GroupVersionKind(o.kind)}
	}
	return op
}

// needsBody tells the options of a deletion from all other bodies.
func (o operation) needsBody() bool { return o.method != "delete" }

func (p parameter) describe() spec.Parameter {
	return spec.Parameter{
		ParamProps:        spec.ParamProps{Name: p.name, In: p.in, Description: p.description, Required: p.in == "path"},
		SimpleSchema:      spec.SimpleSchema{Type: p.kind},
		CommonValidations: spec.CommonValidations{UniqueItems: true},
	}
}

var statusTexts = map[int]string{200: "OK", 201: "Created", 202: "Accepted"}

// use is a reference to a definition; "" is a string.
func use(definition string) *spec.Schema {
	if definition == "" {
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}}}
	}
	return &spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(definitionPrefix + definition)}}
}
