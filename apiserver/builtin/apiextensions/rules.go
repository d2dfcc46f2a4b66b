package apiextensions

import (
	"reflect"

	celgo "github.com/google/cel-go/cel"
	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
)

// rules are which checks apply. A definition that was stored when there were
// fewer keeps being accepted as long as it is as wrong as it was.
type rules struct {
	schemas     bool // every version has a schema
	types       bool // types are those of OpenAPI
	structural  bool
	pruned      bool // defaults hold nothing that would be pruned
	atomicSets  bool // items of sets are atomic
	listKeys    bool // keys of list maps are there, items are not null
	fixedNames  bool // kind and scope stay
	knownReview bool // a version of ConversionReview that is known is among those named
	anyCABundle bool // bundles need not be certificates

	manySelectable map[string]bool // versions that may have any number of selectable fields
	sameSchemas    sets.Set[string]
	anyCost        bool // rules may be as expensive as they are
	expressions    *expressions
}

// strict are the rules for new definitions. They are not served yet, and so
// their bundles may still come.
func strict() rules {
	return rules{
		schemas: true, types: true, structural: true, pruned: true, atomicSets: true, listKeys: true,
		knownReview: true, anyCABundle: true, expressions: &expressions{},
	}
}

// ratcheted are the rules for a definition that replaces old.
func ratcheted(c, old *internal.CustomResourceDefinition) rules {
	spec := &old.Spec
	established := internal.IsCRDConditionTrue(old, internal.Established)
	conversion := spec.Conversion
	r := rules{
		schemas:     everyVersion(spec, func(s *internal.JSONSchemaProps) bool { return s != nil }),
		types:       !anySchema(spec, unknownType),
		structural:  everyVersion(spec, isStructural),
		pruned:      everyVersion(spec, hasPrunedDefaults),
		atomicSets:  !anySchema(spec, func(s *internal.JSONSchemaProps) bool { return len(atomicItems(s, nil)) > 0 }),
		listKeys:    !anySchema(spec, func(s *internal.JSONSchemaProps) bool { return len(listKeys(s, nil)) > 0 }),
		fixedNames:  established,
		knownReview: conversion == nil || len(conversion.ConversionReviewVersions) == 0 || knowsReview(conversion.ConversionReviewVersions),
		anyCABundle: !established || conversion != nil && conversion.WebhookClientConfig != nil &&
			len(conversion.WebhookClientConfig.CABundle) > 0 && checkCABundle(conversion.WebhookClientConfig.CABundle) != nil,
		manySelectable: manySelectable(c, old),
		sameSchemas:    sameSchemas(c, old),
		expressions:    expressionsOf(spec),
	}
	return r
}

// of are the rules for a version: what it cost before it may cost again.
func (r rules) of(version string) rules {
	r.anyCost = r.sameSchemas.Has(version)
	return r
}

// everyVersion reports whether the schemas of all versions, nil if a version
// has none, are such.
func everyVersion(s *internal.CustomResourceDefinitionSpec, is func(*internal.JSONSchemaProps) bool) bool {
	if s.Validation != nil && s.Validation.OpenAPIV3Schema != nil {
		return is(s.Validation.OpenAPIV3Schema)
	}
	for _, v := range s.Versions {
		if v.Schema == nil {
			if !is(nil) {
				return false
			}
		} else if !is(v.Schema.OpenAPIV3Schema) {
			return false
		}
	}
	return true
}

func isStructural(s *internal.JSONSchemaProps) bool {
	if s == nil {
		return true
	}
	structural, err := schema.NewStructural(s)
	return err == nil && len(schema.ValidateStructural(nil, structural)) == 0
}

func hasPrunedDefaults(s *internal.JSONSchemaProps) bool {
	if s == nil || !isStructural(s) {
		return true
	}
	structural, err := schema.NewStructural(s)
	if err != nil {
		return true
	}
	pruned := structural.DeepCopy()
	if err := defaulting.PruneDefaults(pruned); err != nil {
		return true
	}
	return reflect.DeepEqual(structural, pruned)
}

func manySelectable(c, old *internal.CustomResourceDefinition) map[string]bool {
	free := make(map[string]bool)
	many := func(list, was []internal.SelectableField) bool {
		return len(was) > mostSelectable && equality.Semantic.DeepEqual(list, was)
	}
	free[""] = many(c.Spec.SelectableFields, old.Spec.SelectableFields)
	for _, v := range c.Spec.Versions {
		for _, was := range old.Spec.Versions {
			if v.Name == was.Name && many(v.SelectableFields, was.SelectableFields) {
				free[v.Name] = true
			}
		}
	}
	return free
}

// sameSchemas are the versions whose schema is what it was.
func sameSchemas(c, old *internal.CustomResourceDefinition) sets.Set[string] {
	same := sets.New[string]()
	for _, v := range c.Spec.Versions {
		is, err := internal.GetSchemaForVersion(c, v.Name)
		if err != nil {
			continue
		}
		was, err := internal.GetSchemaForVersion(old, v.Name)
		if err == nil && equality.Semantic.DeepEqual(is, was) {
			same.Insert(v.Name)
		}
	}
	return same
}

// expressions are those of CEL that are stored already: they may use what the
// oldest server of a cluster does not know.
type expressions struct{ rules, messages sets.Set[string] }

func expressionsOf(s *internal.CustomResourceDefinitionSpec) *expressions {
	e := &expressions{sets.New[string](), sets.New[string]()}
	anySchema(s, func(s *internal.JSONSchemaProps) bool {
		for _, v := range s.XValidations {
			e.rules.Insert(v.Rule)
			if v.MessageExpression != "" {
				e.messages.Insert(v.MessageExpression)
			}
		}
		return false
	})
	return e
}

// RuleEnv implements cel.EnvLoader.
func (e *expressions) RuleEnv(set *environment.EnvSet, text string) *celgo.Env {
	return environmentOf(set, e.rules.Has(text))
}

// MessageExpressionEnv implements cel.EnvLoader.
func (e *expressions) MessageExpressionEnv(set *environment.EnvSet, text string) *celgo.Env {
	return environmentOf(set, e.messages.Has(text))
}

func environmentOf(set *environment.EnvSet, stored bool) *celgo.Env {
	if stored {
		return set.StoredExpressionsEnv()
	}
	return set.NewExpressionsEnv()
}

// anySchema reports whether a schema of s, or one below it, is such.
func anySchema(s *internal.CustomResourceDefinitionSpec, is func(*internal.JSONSchemaProps) bool) bool {
	if s.Validation != nil && within(s.Validation.OpenAPIV3Schema, is) {
		return true
	}
	for _, v := range s.Versions {
		if v.Schema != nil && within(v.Schema.OpenAPIV3Schema, is) {
			return true
		}
	}
	return false
}

// within reports whether s or a schema below it is such.
func within(s *internal.JSONSchemaProps, is func(*internal.JSONSchemaProps) bool) bool {
	if s == nil {
		return false
	}
	if is(s) {
		return true
	}
	for _, below := range children(s, nil) {
		if within(below.schema, is) {
			return true
		}
	}
	return false
}

// child is a schema below another.
type child struct {
	schema *internal.JSONSchemaProps
	at     *field.Path
	how    relation
	name   string // of a property
}

// relation is what a schema below another is about.
type relation int

const (
	junction relation = iota // the same value (allOf, not, …), or nothing yet
	property                 // a field of it
	values                   // the values of a map
	items                    // the items of a list
	refused                  // nothing: it must not be there at all
)

// children are the schemas right below s, in the order in which they are
// judged.
func children(s *internal.JSONSchemaProps, at *field.Path) []child {
	var list []child
	add := func(s *internal.JSONSchemaProps, how relation, name string, at *field.Path) {
		if s != nil {
			list = append(list, child{s, at, how, name})
		}
	}
	if s.AdditionalProperties != nil {
		add(s.AdditionalProperties.Schema, values, "", at.Child("additionalProperties"))
	}
	for _, name := range sets.List(sets.KeySet(s.Properties)) {
		p := s.Properties[name]
		add(&p, property, name, at.Child("properties").Key(name))
	}
	add(s.Not, junction, "", at.Child("not"))
	for _, several := range []struct {
		name string
		list []internal.JSONSchemaProps
	}{{"allOf", s.AllOf}, {"oneOf", s.OneOf}, {"anyOf", s.AnyOf}} {
		for i := range several.list {
			add(&several.list[i], junction, "", at.Child(several.name).Index(i))
		}
	}
	for _, name := range sets.List(sets.KeySet(s.Definitions)) {
		p := s.Definitions[name]
		add(&p, junction, "", at.Child("definitions").Key(name))
	}
	if s.Items != nil {
		add(s.Items.Schema, items, "", at.Child("items"))
		for i := range s.Items.JSONSchemas {
			add(&s.Items.JSONSchemas[i], items, "", at.Child("items").Index(i))
		}
	}
	for _, name := range sets.List(sets.KeySet(s.Dependencies)) {
		add(s.Dependencies[name].Schema, junction, "", at.Child("dependencies").Key(name))
	}
	for _, name := range sets.List(sets.KeySet(s.PatternProperties)) {
		p := s.PatternProperties[name]
		add(&p, refused, "", at.Child("patternProperties").Key(name))
	}
	if s.AdditionalItems != nil {
		add(s.AdditionalItems.Schema, refused, "", at.Child("additionalItems"))
	}
	return list
}
