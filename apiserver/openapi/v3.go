package openapi

import (
	"bytes"
	"encoding/json"

	"k8s.io/kube-openapi/pkg/openapiconv"
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

// token is how clients say who they are.
func token() *spec.SecurityScheme {
	return &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}
}

func renderV3(s *schemas, endpoints []endpoint) ([]byte, error) {
	doc := &spec3.OpenAPI{Version: "3.0.0", Info: info(), Paths: pathsV3(endpoints)}
	doc.Components = &spec3.Components{Schemas: s.all, SecuritySchemes: spec3.SecuritySchemes{bearer: openapiconv.ConvertSecurityScheme(token())}}
	plain, err := doc.MarshalJSON() // json.Marshal would go over the result once more
	if err != nil {
		return nil, err
	}
	// kube-apiserver escapes these documents and not those of version 2. As
	// their bytes are the same otherwise, so are then their hashes.
	var b bytes.Buffer
	json.HTMLEscape(&b, plain)
	return b.Bytes(), nil
}

func pathsV3(endpoints []endpoint) *spec3.Paths {
	paths := openapiconv.ConvertPaths(describe(endpoints, func(p spec.Parameter) spec.Parameter { return p }))
	for _, p := range paths.Paths {
		// The conversion forgets which bodies must be sent.
		for _, op := range []*spec3.Operation{p.Put, p.Post, p.Patch} {
			if op != nil && op.RequestBody != nil {
				op.RequestBody.Required = true
			}
		}
	}
	return paths
}
