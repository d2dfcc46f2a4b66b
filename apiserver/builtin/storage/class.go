package storage

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// The annotations by which a class is that of claims that name none.
var defaultAnnotations = []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"}

func storageClasses() *resource.Resource {
	type class = storagev1.StorageClass
	name := resource.NameColumn[*class]()
	name.Value = func(c *class) any {
		for _, a := range defaultAnnotations {
			if c.Annotations[a] == "true" {
				return c.Name + " (default)"
			}
		}
		return c.Name
	}
	return resource.Define[storagev1.StorageClassList](resource.Definition[class]{
		Group: group, Version: "v1", Kind: "StorageClass", Plural: "storageclasses", ShortNames: []string{"sc"},
		AnswersDeleted: true,
		ClusterScoped:  true,
		Default: func(c *class) {
			if c.ReclaimPolicy == nil {
				c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
			}
			if c.VolumeBindingMode == nil {
				c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
			}
		},
		Validate: validateStorageClass,
		Columns: []resource.Column[*class]{
			name,
			table.Text("Provisioner", table.Doc(class{}, "provisioner"), func(c *class) string { return c.Provisioner }),
			table.Text("ReclaimPolicy", table.Doc(class{}, "reclaimPolicy"), func(c *class) string {
				return string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete))
			}),
			table.Text("VolumeBindingMode", table.Doc(class{}, "volumeBindingMode"), func(c *class) string {
				return string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate))
			}),
			flag("AllowVolumeExpansion", table.Doc(class{}, "allowVolumeExpansion"), func(c *class) bool { return ptr.Deref(c.AllowVolumeExpansion, false) }),
			resource.AgeColumn[*class](),
		},
	})
}

// flag is a column of true and false that says it is one of strings.
func flag[P any](name, description string, value func(P) bool) resource.Column[P] {
	c := table.Bool(name, description, value)
	c.Type = "string"
	return c
}

func validateStorageClass(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, check.Supported(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, check.Supported(*c.VolumeBindingMode, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	errs = append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
	if old == nil {
		return errs
	}
	for _, f := range []struct {
		name       string
		value, was any
	}{
		{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner},
		{"reclaimPolicy", c.ReclaimPolicy, old.ReclaimPolicy}, {"volumeBindingMode", c.VolumeBindingMode, old.VolumeBindingMode},
	} {
		errs = append(errs, validation.ValidateImmutableField(f.value, f.was, field.NewPath(f.name))...)
	}
	return errs
}

func validateProvisioner(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return check.Qualified(strings.ToLower(name), at)
}

const (
	maxParameters     = 512
	maxParameterBytes = 256 << 10
)

func validateParameters(p map[string]string, at *field.Path) field.ErrorList {
	if len(p) > maxParameters {
		return field.ErrorList{field.TooLong(at, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for key, value := range p {
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxParameterBytes {
		errs = append(errs, field.TooLong(at, "", maxParameterBytes))
	}
	return errs
}

func validateTopologies(terms []corev1.TopologySelectorTerm, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := []map[string]sets.Set[string]{nil} // a term without expressions counts as there already
	for i, term := range terms {
		expressions := at.Index(i).Child("matchLabelExpressions")
		wanted := make(map[string]sets.Set[string])
		for j, e := range term.MatchLabelExpressions {
			path := expressions.Index(j)
			values := sets.New(e.Values...)
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(path.Child("values"), ""))
			}
			if len(values) < len(e.Values) {
				errs = append(errs, field.Duplicate(path.Child("values").Index(firstRepeated(e.Values)), e.Values[firstRepeated(e.Values)]))
			}
			errs = append(errs, metav1validation.ValidateLabelName(e.Key, path.Child("key"))...)
			if _, ok := wanted[e.Key]; ok {
				errs = append(errs, field.Duplicate(path.Child("key"), e.Key))
			}
			wanted[e.Key] = values
		}
		for _, before := range seen {
			if equality.Semantic.DeepEqual(wanted, before) {
				errs = append(errs, field.Duplicate(expressions, ""))
			}
		}
		seen = append(seen, wanted)
	}
	return errs
}

func firstRepeated(values []string) int {
	seen := make(map[string]bool)
	for i, v := range values {
		if seen[v] {
			return i
		}
		seen[v] = true
	}
	return 0
}

func volumeAttributesClasses() *resource.Resource {
	type class = storagev1.VolumeAttributesClass
	name := resource.NameColumn[*class]()
	return resource.Define[storagev1.VolumeAttributesClassList](resource.Definition[class]{
		Group: group, Version: "v1", Kind: "VolumeAttributesClass", Plural: "volumeattributesclasses", Older: []string{"v1beta1"}, ShortNames: []string{"vac"},
		AnswersDeleted: true,
		ClusterScoped:  true,
		Validate:       validateAttributesClass,
		Columns: []resource.Column[*class]{
			name,
			table.Text("DriverName", table.Doc(class{}, "driverName"), func(c *class) string { return c.DriverName }),
			resource.AgeColumn[*class](),
		},
	})
}

func validateAttributesClass(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	var errs field.ErrorList
	if old != nil && c.DriverName != old.DriverName {
		errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if old != nil && !maps.Equal(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	errs = append(errs, validateProvisioner(c.DriverName, field.NewPath("driverName"))...)
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return errs
}
