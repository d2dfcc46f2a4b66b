package core

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func configMaps() *resource.Resource {
	return resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{
		Version: "v1", Kind: "ConfigMap", Plural: "configmaps", ShortNames: []string{"cm"},
		Validate: validateConfigMap,
		Columns: []resource.Column[*corev1.ConfigMap]{
			resource.NameColumn[*corev1.ConfigMap](),
			table.Count("Data", table.Doc(corev1.ConfigMap{}, "data"), func(c *corev1.ConfigMap) int64 {
				return int64(len(c.Data) + len(c.BinaryData))
			}),
			resource.AgeColumn[*corev1.ConfigMap](),
		},
	})
}

func validateConfigMap(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range c.Data {
		path := field.NewPath("data").Key(key)
		errs = append(errs, validateDataKey(key, path)...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range c.BinaryData {
		errs = append(errs, validateDataKey(key, field.NewPath("binaryData").Key(key))...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	if old == nil || old.Immutable == nil || !*old.Immutable {
		return errs
	}
	if c.Immutable == nil || !*c.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
	}
	if !maps.Equal(c.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
	}
	if !maps.EqualFunc(c.BinaryData, old.BinaryData, bytes.Equal) {
		errs = append(errs, field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
	}
	return errs
}

// validateDataKey checks a key of a ConfigMap or Secret, which becomes a file
// name in a volume.
func validateDataKey(key string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}
