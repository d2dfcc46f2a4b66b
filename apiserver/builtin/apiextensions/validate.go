package apiextensions

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

// validate lists what is wrong with a definition.
func validate(c, old *crd) field.ErrorList {
	now, err := convert(c)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	rules := strict()
	var was *internal.CustomResourceDefinition
	if old != nil {
		if was, err = convert(old); err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		rules = ratcheted(now, was)
	}
	var errs field.ErrorList
	if old == nil {
		errs = append(errs, validateName(now)...)
	}
	at := field.NewPath("spec")
	errs = append(errs, rules.spec(&now.Spec, at)...)
	if was != nil {
		errs = append(errs, rules.unchanged(&now.Spec, &was.Spec, at)...)
	}
	errs = append(errs, validateNames(&now.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))...)
	errs = append(errs, validateStoredVersions(now, field.NewPath("status", "storedVersions"))...)
	errs = append(errs, validateApproval(c, old)...)
	return append(errs, validatePreserve(now, was)...)
}

// unchanged are the fields by which objects are found: they cannot move.
func (r rules) unchanged(s, old *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.fixedNames {
		errs = append(errs, check.Immutable(s.Scope, old.Scope, at.Child("scope"))...)
		errs = append(errs, check.Immutable(s.Names.Kind, old.Names.Kind, at.Child("names", "kind"))...)
	}
	errs = append(errs, check.Immutable(s.Group, old.Group, at.Child("group"))...)
	return append(errs, check.Immutable(s.Names.Plural, old.Names.Plural, at.Child("names", "plural"))...)
}

// validateName wants the name, and what one is generated from, to say what is
// defined. That there is none at all is found by the rule for all kinds.
func validateName(d *internal.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	want := d.Spec.Names.Plural + "." + d.Spec.Group
	for _, name := range []struct{ field, value string }{{"generateName", d.GenerateName}, {"name", d.Name}} {
		if name.value != "" && name.value != want {
			errs = append(errs, field.Invalid(field.NewPath("metadata", name.field), name.value, `must be spec.names.plural+"."+spec.group`))
		}
	}
	return errs
}

func validateStoredVersions(c *internal.CustomResourceDefinition, at *field.Path) field.ErrorList {
	stored := c.Status.StoredVersions
	if len(stored) == 0 {
		return field.ErrorList{field.Invalid(at, stored, "must have at least one stored version")}
	}
	var errs field.ErrorList
	left := slices.Clone(stored) // what no version has been found for
	for _, v := range c.Spec.Versions {
		if v.Storage && !slices.Contains(left, v.Name) {
			errs = append(errs, field.Invalid(at, stored, "must have the storage version "+v.Name))
		}
		left = slices.DeleteFunc(left, func(name string) bool { return name == v.Name })
	}
	for i, name := range stored {
		if slices.Contains(left, name) {
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf(
				"missing from spec.versions; %[1]s was previously a storage version, and must remain in spec.versions until a storage migration "+
					"ensures no data remains persisted in %[1]s and removes %[1]s from status.storedVersions", name)))
		}
	}
	return errs
}

// validateApproval keeps the groups of Kubernetes itself to what was approved.
// Definitions that are there already stay as approved as they were.
func validateApproval(c, old *crd) field.ErrorList {
	if !apihelpers.IsProtectedCommunityGroup(c.Spec.Group) {
		return nil
	}
	state, reason := apihelpers.GetAPIApprovalState(c.Annotations)
	if old != nil {
		if was, _ := apihelpers.GetAPIApprovalState(old.Annotations); was == state {
			return nil
		}
	}
	at := field.NewPath("metadata", "annotations").Key(apiextensionsv1.KubeAPIApprovedAnnotation)
	switch state {
	case apihelpers.APIApproved, apihelpers.APIApprovalBypassed:
		return nil
	case apihelpers.APIApprovalMissing:
		return field.ErrorList{field.Required(at, reason)}
	}
	return field.ErrorList{field.Invalid(at, c.Annotations[apiextensionsv1.KubeAPIApprovedAnnotation], reason)}
}

func validatePreserve(c, old *internal.CustomResourceDefinition) field.ErrorList {
	if prunes(&c.Spec) || c.Spec.PreserveUnknownFields == nil || old != nil && !prunes(&old.Spec) && old.Spec.PreserveUnknownFields != nil {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "preserveUnknownFields"), c.Spec.PreserveUnknownFields,
		"cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead")}
}

// prunes reports whether fields that no schema knows are dropped.
func prunes(s *internal.CustomResourceDefinitionSpec) bool {
	return s.PreserveUnknownFields == nil || !*s.PreserveUnknownFields
}

func (r rules) spec(s *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	errs := validateGroup(s.Group, at.Child("group"))
	errs = append(errs, check.OneOf(s.Scope, at.Child("scope"), internal.ClusterScoped, internal.NamespaceScoped)...)
	errs = append(errs, r.schemasThere(s, at)...)
	defaults := anySchema(s, func(p *internal.JSONSchemaProps) bool { return p.Default != nil })
	if defaults && (s.PreserveUnknownFields == nil || *s.PreserveUnknownFields) {
		errs = append(errs, field.Invalid(at.Child("preserveUnknownFields"), true, "must be false in order to use defaults in the schema"))
	}
	r.structural = r.structural || prunes(s) || defaults || anySchema(s, extended)
	errs = append(errs, r.versions(s, at)...)
	errs = append(errs, oneLevel(s, at)...)
	errs = append(errs, validateVersionNames(s, at)...)
	errs = append(errs, requireNames(&s.Names, at.Child("names"))...)
	errs = append(errs, validateNames(&s.Names, at.Child("names"))...)
	errs = append(errs, r.of(s.Version).schema(s.Validation, anyStatus(s), at.Child("validation"))...)
	errs = append(errs, validateSubresources(s.Subresources, at.Child("subresources"))...)
	for i := range s.AdditionalPrinterColumns {
		errs = append(errs, validateColumn(&s.AdditionalPrinterColumns[i], at.Child("additionalPrinterColumns").Index(i))...)
	}
	if len(s.SelectableFields) > 0 {
		errs = append(errs, r.selectable(s.SelectableFields, s.Validation, "", at, "may only be set when validations.schema is included")...)
	}
	if s.Conversion != nil && s.Conversion.Strategy != internal.NoneConverter && (s.PreserveUnknownFields == nil || *s.PreserveUnknownFields) {
		errs = append(errs, field.Invalid(at.Child("conversion", "strategy"), s.Conversion.Strategy, "must be None if spec.preserveUnknownFields is true"))
	}
	return append(errs, r.conversion(s.Conversion, at.Child("conversion"))...)
}

func validateGroup(group string, at *field.Path) field.ErrorList {
	if group == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if problems := validation.IsDNS1123Subdomain(group); len(problems) > 0 {
		return field.ErrorList{field.Invalid(at, group, strings.Join(problems, ","))}
	}
	if !strings.Contains(group, ".") {
		return field.ErrorList{field.Invalid(at, group, "should be a domain with at least one dot")}
	}
	return nil
}

// schemasThere requires a schema of each version, or of each that is served
// where a definition had versions without one before.
func (r rules) schemasThere(s *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	if s.Validation != nil && s.Validation.OpenAPIV3Schema != nil {
		return nil
	}
	var errs field.ErrorList
	for i, v := range s.Versions {
		path := at.Child("versions").Index(i).Child("schema", "openAPIV3Schema")
		switch {
		case v.Schema != nil && v.Schema.OpenAPIV3Schema != nil:
		case r.schemas:
			errs = append(errs, field.Required(path, ""))
		case prunes(s) && v.Served:
			errs = append(errs, field.Required(path, "because otherwise all fields are pruned"))
		}
	}
	return errs
}

func (r rules) versions(s *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range s.Versions {
		v, at := &s.Versions[i], at.Child("versions").Index(i)
		if problems := validation.IsDNS1035Label(v.Name); len(problems) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(problems, ",")))
		}
		for _, problem := range warningProblems(v.Deprecated, v.DeprecationWarning) {
			errs = append(errs, field.Invalid(at.Child("deprecationWarning"), v.DeprecationWarning, problem))
		}
		status := hasStatus(s.Subresources)
		if slices.ContainsFunc(s.Versions, func(v internal.CustomResourceDefinitionVersion) bool { return v.Subresources != nil }) {
			status = hasStatus(v.Subresources)
		}
		errs = append(errs, r.of(v.Name).schema(v.Schema, status, at.Child("schema"))...)
		errs = append(errs, validateSubresources(v.Subresources, at.Child("subresources"))...)
		for i := range v.AdditionalPrinterColumns {
			errs = append(errs, validateColumn(&v.AdditionalPrinterColumns[i], at.Child("additionalPrinterColumns").Index(i))...)
		}
		if len(v.SelectableFields) > 0 {
			errs = append(errs, r.selectable(v.SelectableFields, v.Schema, v.Name, at, "may only be set when `version.schema.openAPIV3Schema` is not included")...)
		}
	}
	return errs
}

func hasStatus(s *internal.CustomResourceSubresources) bool { return s != nil && s.Status != nil }

func anyStatus(s *internal.CustomResourceDefinitionSpec) bool {
	return hasStatus(s.Subresources) || slices.ContainsFunc(s.Versions, func(v internal.CustomResourceDefinitionVersion) bool { return hasStatus(v.Subresources) })
}

// warningProblems are those of a version's deprecation warning.
func warningProblems(deprecated bool, warning *string) []string {
	const most = 256
	switch {
	case warning == nil:
		return nil
	case !deprecated:
		return []string{"can only be set for deprecated versions"}
	}
	var problems []string
	if len(*warning) > most {
		problems = append(problems, "must be <= 256 characters long")
	}
	if *warning == "" {
		problems = append(problems, "must not be an empty string")
	}
	for i, r := range *warning {
		if unicode.IsPrint(r) {
			continue
		}
		problems = append(problems, fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i))
		break
	}
	if !utf8.ValidString(*warning) {
		problems = append(problems, "must only contain printable UTF-8 characters")
	}
	return problems
}

// oneLevel requires that what a definition says of its versions stands either
// with each or once for all.
func oneLevel(s *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	type version = internal.CustomResourceDefinitionVersion
	facts := []struct {
		name, plural, top string
		above             bool
		of                func(v *version) any // nil where the version says nothing
	}{
		{"validation", "schemas", "validation", s.Validation != nil, func(v *version) any {
			if v.Schema == nil {
				return nil
			}
			return v.Schema
		}},
		{"subresources", "subresources", "subresources", s.Subresources != nil, func(v *version) any {
			if v.Subresources == nil {
				return nil
			}
			return v.Subresources
		}},
		{"additionalPrinterColumns", "additionalPrinterColumns", "additionalPrinterColumns", len(s.AdditionalPrinterColumns) > 0, func(v *version) any {
			if len(v.AdditionalPrinterColumns) == 0 {
				return nil
			}
			return v.AdditionalPrinterColumns
		}},
	}
	var errs, same field.ErrorList
	for _, f := range facts {
		said, equal := 0, len(s.Versions) > 0
		for i := range s.Versions {
			value := f.of(&s.Versions[i])
			if value != nil {
				said++
			}
			equal = equal && value != nil && equality.Semantic.DeepEqual(value, f.of(&s.Versions[0]))
		}
		if f.above && said > 0 {
			errs = append(errs, field.Forbidden(at.Child(f.name), "top-level and per-version "+f.plural+" are mutually exclusive"))
		}
		if equal {
			same = append(same, field.Invalid(at.Child("versions"), s.Versions, fmt.Sprintf(
				"per-version %s may not all be set to identical values (top-level %s should be used instead)", f.plural, f.top)))
		}
	}
	return append(errs, same...)
}

func validateVersionNames(s *internal.CustomResourceDefinitionSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	storage, seen := 0, make(map[string]bool)
	for _, v := range s.Versions {
		seen[v.Name] = true
		if v.Storage {
			storage++
		}
	}
	if len(seen) < len(s.Versions) {
		errs = append(errs, field.Invalid(at.Child("versions"), s.Versions, "must contain unique version names"))
	}
	if storage != 1 {
		errs = append(errs, field.Invalid(at.Child("versions"), s.Versions, "must have exactly one version marked as storage version"))
	}
	if problems := validation.IsDNS1035Label(s.Version); s.Version != "" && len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("version"), s.Version, strings.Join(problems, ",")))
	}
	return errs
}

func requireNames(n *internal.CustomResourceDefinitionNames, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{
		{"plural", n.Plural}, {"singular", n.Singular}, {"kind", n.Kind}, {"listKind", n.ListKind},
	} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), ""))
		}
	}
	return errs
}

// validateNames judges the names that are there.
func validateNames(n *internal.CustomResourceDefinitionNames, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	label := func(path *field.Path, value string) {
		if problems := validation.IsDNS1035Label(value); len(problems) > 0 {
			errs = append(errs, field.Invalid(path, value, strings.Join(problems, ",")))
		}
	}
	kind := func(path *field.Path, value string) {
		if problems := validation.IsDNS1035Label(strings.ToLower(value)); value != "" && len(problems) > 0 {
			errs = append(errs, field.Invalid(path, value, "may have mixed case, but should otherwise match: "+strings.Join(problems, ",")))
		}
	}
	if n.Plural != "" {
		label(at.Child("plural"), n.Plural)
	}
	if n.Singular != "" {
		label(at.Child("singular"), n.Singular)
	}
	kind(at.Child("kind"), n.Kind)
	kind(at.Child("listKind"), n.ListKind)
	for i, name := range n.ShortNames {
		label(at.Child("shortNames").Index(i), name)
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(at.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, name := range n.Categories {
		label(at.Child("categories").Index(i), name)
	}
	return errs
}
