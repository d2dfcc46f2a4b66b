package apiextensions

import (
	"slices"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// extensions judges what a schema says in Kubernetes' own words.
func (w walk) extensions(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.XPreserveUnknownFields != nil && !*s.XPreserveUnknownFields {
		errs = append(errs, field.Invalid(at.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"))
	}
	if s.XMapType != nil {
		errs = append(errs, ofType(s.Type, "object", at.Child("type"), "must be object if x-kubernetes-map-type is specified")...)
		if !slices.Contains([]string{"atomic", "granular"}, *s.XMapType) {
			errs = append(errs, field.NotSupported(at.Child("x-kubernetes-map-type"), *s.XMapType, []string{"atomic", "granular"}))
		}
	}
	if s.XListType != nil {
		errs = append(errs, ofType(s.Type, "array", at.Child("type"), "must be array if x-kubernetes-list-type is specified")...)
		if w.atomicSets && s.Type == "array" {
			errs = append(errs, atomicItems(s, at)...)
		}
		if !slices.Contains([]string{"atomic", "set", "map"}, *s.XListType) {
			errs = append(errs, field.NotSupported(at.Child("x-kubernetes-list-type"), *s.XListType, []string{"atomic", "set", "map"}))
		}
	}
	if len(s.XListMapKeys) > 0 {
		errs = append(errs, ofType(value(s.XListType), "map", at.Child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty")...)
	}
	if value(s.XListType) == "map" {
		errs = append(errs, listMap(s, at)...)
	}
	if w.listKeys {
		errs = append(errs, listKeys(s, at)...)
	}
	return errs
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func ofType(is, want string, at *field.Path, text string) field.ErrorList {
	switch is {
	case want:
		return nil
	case "":
		return field.ErrorList{field.Required(at, text)}
	}
	return field.ErrorList{field.Invalid(at, is, text)}
}

// atomicItems requires the items of a set to be changed as a whole: by what
// they are they are told apart.
func atomicItems(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	const text = "must be atomic as item of a list with x-kubernetes-list-type=set"
	if value(s.XListType) != "set" || s.Items == nil || s.Items.Schema == nil {
		return nil
	}
	of := s.Items.Schema
	switch {
	case of.Type == "array" && of.XListType != nil && *of.XListType != "atomic":
		return field.ErrorList{field.Invalid(at.Child("items", "x-kubernetes-list-type"), of.XListType, text)}
	case of.Type == "object" && value(of.XMapType) != "atomic":
		return field.ErrorList{field.Invalid(at.Child("items", "x-kubernetes-map-type"), of.XListType, text)}
	}
	return nil
}

// listMap judges a list whose items are told apart by some of their fields.
func listMap(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.XListMapKeys) == 0 {
		errs = append(errs, field.Required(at.Child("x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map"))
	}
	switch {
	case s.Items == nil:
		return append(errs, field.Required(at.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
	case s.Items.Schema == nil:
		return append(errs, field.Invalid(at.Child("items"), s.Items, "must only have a single schema if x-kubernetes-list-type is map"))
	case s.Items.Schema.Type != "object":
		return append(errs, field.Invalid(at.Child("items", "type"), s.Items.Schema.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	for i, key := range s.XListMapKeys {
		of, there := s.Items.Schema.Properties[key]
		switch {
		case !there:
			errs = append(errs, field.Invalid(at.Child("x-kubernetes-list-map-keys"), s.XListMapKeys, "entries must all be names of item properties"))
		case of.Type == "array" || of.Type == "object":
			errs = append(errs, field.Invalid(at.Child("items", "properties").Key(key).Child("type"), s.Items.Schema.Type,
				"must be a scalar type if parent array's x-kubernetes-list-type is map"))
		}
		if slices.Contains(s.XListMapKeys[:i], key) {
			errs = append(errs, field.Invalid(at.Child("x-kubernetes-list-map-keys"), s.XListMapKeys, "must not contain duplicate entries"))
		}
	}
	return errs
}

// listKeys requires what tells items apart to be there.
func listKeys(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	kind := value(s.XListType)
	if s.Items == nil || s.Items.Schema == nil || kind != "set" && kind != "map" {
		return nil
	}
	var errs field.ErrorList
	of := s.Items.Schema
	if of.Nullable {
		errs = append(errs, field.Forbidden(at.Child("items", "nullable"), "cannot be nullable when x-kubernetes-list-type is "+kind))
	}
	if kind == "set" {
		return errs
	}
	for _, key := range s.XListMapKeys {
		p, there := of.Properties[key]
		path := at.Child("items", "properties").Key(key)
		if !there {
			continue
		}
		if !slices.Contains(of.Required, key) && p.Default == nil {
			errs = append(errs, field.Required(path.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if p.Nullable {
			errs = append(errs, field.Forbidden(path.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		}
	}
	return errs
}
