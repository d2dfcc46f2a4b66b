package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// schemas are what a server says of its kinds, each document read when it is first needed. A value is used for one
// policy: what is served changes.
type schemas struct {
	client    discovery.DiscoveryInterface
	resources []*metav1.APIResourceList
	paths     map[string]openapi.GroupVersion
	documents map[schema.GroupVersion]map[string]*spec.Schema
}

// find are the kinds of a resource. The empty group stands for any.
func (s *schemas) find(gvr schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	if s.resources == nil {
		_, lists, err := s.client.ServerGroupsAndResources()
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			return nil, fmt.Errorf("discover resources: %w", err)
		}
		s.resources = lists
	}
	var kinds []schema.GroupVersionKind
	for _, list := range s.resources {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil || gv.Version != gvr.Version || gvr.Group != "" && gv.Group != gvr.Group {
			continue
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") && (r.Name == gvr.Resource || r.SingularName == gvr.Resource) {
				kinds = append(kinds, gv.WithKind(r.Kind))
			}
		}
	}
	return kinds, nil
}

// known is the type of a kind; the zero value if the server does not describe it.
func (s *schemas) known(kind schema.GroupVersionKind) (expression.Known, error) {
	document, err := s.document(kind.GroupVersion())
	if err != nil {
		return expression.Known{}, err
	}
	for name, definition := range document {
		var kinds []schema.GroupVersionKind
		if err := definition.Extensions.GetObject("x-kubernetes-group-version-kind", &kinds); err != nil {
			return expression.Known{}, fmt.Errorf("schema %s: %w", name, err)
		}
		for _, k := range kinds {
			if k == kind {
				return expression.Known{Name: kind.Kind, Schema: resolved(document, map[string]bool{name: true}, definition)}, nil
			}
		}
	}
	return expression.Known{}, nil
}

// document are the schemas of a group version; nil if the server does not describe it.
func (s *schemas) document(gv schema.GroupVersion) (map[string]*spec.Schema, error) {
	if known, ok := s.documents[gv]; ok {
		return known, nil
	}
	if s.paths == nil {
		paths, err := s.client.OpenAPIV3().Paths()
		if err != nil {
			return nil, fmt.Errorf("read the index of schemas: %w", err)
		}
		s.paths, s.documents = paths, make(map[schema.GroupVersion]map[string]*spec.Schema)
	}
	path := "apis/" + gv.String()
	if gv.Group == "" {
		path = "api/" + gv.Version
	}
	source, ok := s.paths[path]
	if !ok {
		return nil, nil
	}
	text, err := source.Schema(runtime.ContentTypeJSON)
	if err != nil {
		return nil, fmt.Errorf("read the schemas of %s: %w", gv, err)
	}
	var document struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("read the schemas of %s: %w", gv, err)
	}
	s.documents[gv] = document.Components.Schemas
	return document.Components.Schemas, nil
}

// resolved is a copy of a schema in which what it refers to stands in place of the references. within are those it is
// part of, which are not followed again: there an object may be anything.
func resolved(document map[string]*spec.Schema, within map[string]bool, s *spec.Schema) *spec.Schema {
	out := *s
	if name := referred(s); name != "" {
		target := document[name]
		if target == nil || within[name] {
			return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
		}
		within[name] = true
		defer delete(within, name)
		out = *target
	}
	if len(out.Properties) > 0 {
		out.Properties = maps.Clone(out.Properties)
		for name, p := range out.Properties {
			out.Properties[name] = *resolved(document, within, &p)
		}
	}
	if a := out.AdditionalProperties; a != nil && a.Schema != nil {
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: resolved(document, within, a.Schema)}
	}
	if out.Items != nil && out.Items.Schema != nil {
		out.Items = &spec.SchemaOrArray{Schema: resolved(document, within, out.Items.Schema)}
	}
	return &out
}

// referred is the name of the schema that s stands for, which may be wrapped to have a description.
func referred(s *spec.Schema) string {
	if ref := s.Ref.String(); ref != "" {
		return strings.TrimPrefix(ref, "#/components/schemas/")
	}
	for i := range s.AllOf {
		if name := referred(&s.AllOf[i]); name != "" {
			return name
		}
	}
	return ""
}
