package apiextensions

import (
	"fmt"
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mostSelectable is how many fields of a version can be selected by.
const mostSelectable = 8

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateColumn(c *internal.CustomResourceColumnDefinition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	types := "must be one of " + strings.Join(columnTypes, ",")
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch {
	case c.Type == "":
		errs = append(errs, field.Required(at.Child("type"), types))
	case !slices.Contains(columnTypes, c.Type):
		errs = append(errs, field.Invalid(at.Child("type"), c.Type, types))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.Invalid(at.Child("format"), c.Format, "must be one of "+strings.Join(columnFormats, ",")))
	}
	if c.JSONPath == "" {
		return append(errs, field.Required(at.Child("JSONPath"), ""))
	}
	return append(errs, validatePath(c.JSONPath, at.Child("JSONPath"))...)
}

// validatePath wants the names of fields with a dot before each.
func validatePath(path string, at *field.Path) field.ErrorList {
	if strings.HasPrefix(path, ".") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, path, "must be a simple json path starting with .")}
}

func validateSubresources(s *internal.CustomResourceSubresources, at *field.Path) field.ErrorList {
	if s == nil || s.Scale == nil {
		return nil
	}
	below := func(name, path, root string) field.ErrorList {
		at := at.Child("scale." + name)
		if path == "" {
			return field.ErrorList{field.Required(at, "")}
		}
		if errs := validatePath(path, at); len(errs) > 0 {
			return errs
		}
		if !strings.HasPrefix(path, root+".") {
			return field.ErrorList{field.Invalid(at, path, "should be a json path under "+root)}
		}
		return nil
	}
	errs := append(below("specReplicasPath", s.Scale.SpecReplicasPath, ".spec"), below("statusReplicasPath", s.Scale.StatusReplicasPath, ".status")...)
	selector := s.Scale.LabelSelectorPath
	if selector == nil || *selector == "" {
		return errs
	}
	path := at.Child("scale.labelSelectorPath")
	if wrong := validatePath(*selector, path); len(wrong) > 0 {
		return append(errs, wrong...)
	}
	if !strings.HasPrefix(*selector, ".spec.") && !strings.HasPrefix(*selector, ".status.") {
		errs = append(errs, field.Invalid(path, selector, "should be a json path under either .spec or .status"))
	}
	return errs
}

// selectable judges the fields by which objects of a version can be selected;
// missing is the error where they have no schema.
func (r rules) selectable(list []internal.SelectableField, v *internal.CustomResourceValidation, version string, at *field.Path, missing string) field.ErrorList {
	path := at.Child("selectableFields")
	if v == nil || v.OpenAPIV3Schema == nil {
		return field.ErrorList{field.Invalid(path, "", missing)}
	}
	s, err := schema.NewStructural(v.OpenAPIV3Schema)
	if err != nil {
		return field.ErrorList{field.Invalid(at.Child("schema.openAPIV3Schema"), "", err.Error())}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, f := range list {
		at := path.Index(i).Child("jsonPath")
		if f.JSONPath == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		found, of, err := cel.ValidFieldPath(f.JSONPath, s, cel.WithFieldPathAllowArrayNotation(false))
		if err != nil {
			errs = append(errs, field.Invalid(at, f.JSONPath, fmt.Sprintf("is an invalid path: %v", err)))
			continue
		}
		if found.Root().String() == "metadata" {
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		}
		if of == nil || !slices.Contains([]string{"string", "boolean", "integer"}, of.Type) {
			errs = append(errs, field.Invalid(at, f.JSONPath,
				"must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		}
		if seen.Has(found.String()) {
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		}
		seen.Insert(found.String())
	}
	if len(seen) > mostSelectable && !r.manySelectable[version] {
		errs = append(errs, field.TooMany(path, len(seen), mostSelectable))
	}
	return errs
}
