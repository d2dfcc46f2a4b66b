package apiextensions

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	openAPITypes = []string{"array", "boolean", "integer", "number", "object", "string"}
	// rootFields are what the schema of a kind with a status may say at its
	// root: the schema of the status alone must say as much.
	rootFields = []string{"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength", "MinLength",
		"Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties", "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations"}
)

func unknownType(s *internal.JSONSchemaProps) bool {
	return s.Type != "" && !slices.Contains(openAPITypes, s.Type)
}

// extended reports whether s says what only structural schemas can.
func extended(s *internal.JSONSchemaProps) bool {
	return s.XEmbeddedResource || s.XPreserveUnknownFields != nil || s.XIntOrString || len(s.XListMapKeys) > 0 || s.XListType != nil || len(s.XValidations) > 0
}

// schema lists what is wrong with a schema of a kind.
func (r rules) schema(v *internal.CustomResourceValidation, status bool, at *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	var errs field.ErrorList
	if s := v.OpenAPIV3Schema; s != nil {
		errs = r.root(s, status, at)
	}
	if len(errs) > 0 {
		return errs
	}
	if _, _, err := validation.NewSchemaValidator(v.OpenAPIV3Schema); err != nil {
		return field.ErrorList{field.Invalid(at, "", fmt.Sprintf("error building validator: %v", err))}
	}
	return nil
}

func (r rules) root(s *internal.JSONSchemaProps, status bool, at *field.Path) field.ErrorList {
	var errs, notStructural field.ErrorList
	path := at.Child("openAPIV3Schema")
	if status {
		errs = append(errs, validateRoot(s, at)...)
	}
	if s.Nullable {
		errs = append(errs, field.Forbidden(at.Child("openAPIV3Schema.nullable"), "nullable cannot be true at the root"))
	}
	var costs *costs
	if r.structural {
		structural, err := schema.NewStructural(s)
		if err != nil {
			// The other checks find the cause and say it better.
			notStructural = field.ErrorList{field.Invalid(path, "", err.Error())}
		} else if wrong := r.structure(structural, path); len(wrong) > 0 {
			errs = append(errs, wrong...)
		} else {
			costs = newCosts()
		}
	}
	w := walk{rules: r, costs: costs}
	schemaErrs, celErrs := w.visit(s, path, place{root: true, defaults: true, scope: w.costs.root(s)})
	errs = append(append(errs, schemaErrs...), celErrs...)
	if len(errs) == 0 {
		errs = notStructural
	}
	return append(errs, costs.total(path)...)
}

func (r rules) structure(s *schema.Structural, at *field.Path) field.ErrorList {
	if errs := schema.ValidateStructural(at, s); len(errs) > 0 {
		return errs
	}
	errs, err := defaulting.ValidateDefaults(context.Background(), at, s, true, r.pruned)
	if err != nil {
		return field.ErrorList{field.Invalid(at, "", err.Error())}
	}
	return errs
}

// validateRoot allows at the root only what rootFields names.
func validateRoot(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch {
		case v.Field(i).IsZero():
		case name == "Type" && s.Type != "object":
			return field.ErrorList{field.Invalid(at.Child("openAPIV3Schema.type"), s.Type,
				`only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)}
		case !slices.Contains(rootFields, name):
			return field.ErrorList{field.Invalid(at.Child("openAPIV3Schema"), *s,
				fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", rootFields))}
		}
	}
	return nil
}

// walk judges the schemas of a kind one by one.
type walk struct {
	rules
	costs *costs
}

// place is where in the kind a schema is.
type place struct {
	root       bool
	inMetadata bool // of the object, or of one embedded
	defaults   bool // may have defaults
	reason     string
	// uncorrelated is the outermost list or map whose items cannot be found
	// again in the old object.
	uncorrelated *field.Path
	scope        *scope // nil: rules are not compiled here
}

func (w walk) visit(s *internal.JSONSchemaProps, at *field.Path, p place) (errs, celErrs field.ErrorList) {
	errs = w.standard(s, at, p)
	if s.UniqueItems {
		errs = append(errs, field.Forbidden(at.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"))
	}
	if a := s.AdditionalProperties; a != nil && len(s.Properties) > 0 && (!a.Allows || a.Schema != nil) {
		errs = append(errs, field.Forbidden(at.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
	}
	for _, c := range children(s, at) {
		if c.how == refused {
			continue
		}
		more, moreCEL := w.visit(c.schema, c.at, w.below(s, at, p, c))
		errs, celErrs = append(errs, more...), append(celErrs, moreCEL...)
	}
	errs = append(errs, w.extensions(s, at)...)
	errs = append(errs, validateRules(s, at.Child("x-kubernetes-validations"))...)
	if len(s.XValidations) > 0 && len(errs) == 0 && p.scope != nil {
		celErrs = append(celErrs, w.compile(s, at.Child("x-kubernetes-validations"), p)...)
	}
	return errs, celErrs
}

// below is where a child of s is, which is at p.
func (w walk) below(s *internal.JSONSchemaProps, at *field.Path, p place, c child) place {
	next := p
	next.root, next.scope = false, p.scope.child(s, c)
	forbid := func(reason string) { next.defaults, next.reason = false, reason }
	switch c.how {
	case values:
		if p.inMetadata {
			forbid("inside additionalProperties applying to object metadata")
		}
	case property:
		if !cel.MapIsCorrelatable(s.XMapType) && p.uncorrelated == nil {
			next.uncorrelated = at
		}
		if (p.root || s.XEmbeddedResource) && slices.Contains([]string{"metadata", "kind", "apiVersion"}, c.name) {
			next.inMetadata = true
			if p.root {
				forbid("in top-level " + c.name)
			}
		}
	case items:
		if (s.XListType == nil || *s.XListType != "map") && p.uncorrelated == nil {
			next.uncorrelated = at
		}
	}
	return next
}

// standard refuses what OpenAPI has and definitions have not.
func (w walk) standard(s *internal.JSONSchemaProps, at *field.Path, p place) field.ErrorList {
	var errs field.ErrorList
	forbid := func(name string, there bool, text string) {
		if there {
			errs = append(errs, field.Forbidden(at.Child(name), text))
		}
	}
	if w.types && unknownType(s) {
		errs = append(errs, field.NotSupported(at.Child("type"), s.Type, openAPITypes))
	}
	text := "must not be set"
	if p.reason != "" {
		text += " " + p.reason
	}
	forbid("default", s.Default != nil && !p.defaults, text)
	forbid("id", s.ID != "", "id is not supported")
	forbid("additionalItems", s.AdditionalItems != nil, "additionalItems is not supported")
	forbid("patternProperties", len(s.PatternProperties) > 0, "patternProperties is not supported")
	forbid("definitions", len(s.Definitions) > 0, "definitions is not supported")
	forbid("dependencies", s.Dependencies != nil, "dependencies is not supported")
	forbid("$ref", s.Ref != nil, "$ref is not supported")
	forbid("type", s.Type == "null", "type cannot be set to null, use nullable as an alternative")
	forbid("items", s.Items != nil && len(s.Items.JSONSchemas) > 0, "items must be a schema object and not an array")
	forbid("x-kubernetes-embedded-resource", p.inMetadata && s.XEmbeddedResource, "must not be used inside of resource meta")
	return errs
}
