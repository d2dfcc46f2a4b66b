package podspec

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateClaimSpec lists what is wrong with a persistent volume claim spec at
// path; old is nil for a new one. What was allowed in old may stay wrong: the
// values of its selector and the groups of its data sources.
func ValidateClaimSpec(s, old *v1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	v := &validator{}
	modes := path.Child("accessModes")
	if len(s.AccessModes) == 0 {
		v.required(modes, "at least 1 access mode is required")
	}
	if s.Selector != nil {
		strict := metavalidation.LabelSelectorValidationOptions{}
		anyValue := metavalidation.LabelSelectorValidationOptions{
			AllowInvalidLabelValueInSelector: old != nil && len(metavalidation.ValidateLabelSelector(old.Selector, strict, nil)) > 0,
		}
		v.add(metavalidation.ValidateLabelSelector(s.Selector, anyValue, path.Child("selector"))...)
	}
	alone, shared := false, false
	for _, mode := range s.AccessModes {
		oneOf(v, modes, mode, v1.ReadOnlyMany, v1.ReadWriteMany, v1.ReadWriteOnce, v1.ReadWriteOncePod)
		alone = alone || mode == v1.ReadWriteOncePod
		shared = shared || mode == v1.ReadOnlyMany || mode == v1.ReadWriteMany || mode == v1.ReadWriteOnce
	}
	if alone && shared {
		v.forbidden(modes, "may not use ReadWriteOncePod with other access modes")
	}
	storage := path.Child("resources").Key(string(v1.ResourceStorage))
	if q, ok := s.Resources.Requests[v1.ResourceStorage]; !ok {
		v.required(storage, "")
	} else if q.Sign() <= 0 {
		v.invalid(storage, q.String(), "must be greater than zero")
	}
	if name := s.StorageClassName; name != nil && *name != "" {
		v.subdomain(path.Child("storageClassName"), *name)
	}
	if s.VolumeMode != nil {
		oneOf(v, path.Child("volumeMode"), *s.VolumeMode, v1.PersistentVolumeBlock, v1.PersistentVolumeFilesystem)
	}
	hadGroup := old != nil && (old.DataSource != nil && old.DataSource.APIGroup != nil || old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil)
	v.checkDataSources(s, hadGroup, path)
	if name := s.VolumeAttributesClassName; name != nil && *name != "" {
		v.subdomain(path.Child("volumeAttributesClassName"), *name)
	}
	return v.errs
}

func (v *validator) checkDataSources(s *v1.PersistentVolumeClaimSpec, anyGroup bool, path *field.Path) {
	source, ref := s.DataSource, s.DataSourceRef
	if source != nil {
		v.checkDataSource(source, anyGroup, path.Child("dataSource"))
	}
	if ref == nil {
		return
	}
	v.checkDataSource(&v1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}, anyGroup, path.Child("dataSourceRef"))
	elsewhere := ref.Namespace != nil && *ref.Namespace != ""
	if elsewhere {
		v.label(path.Child("dataSourceRef", "namespace"), *ref.Namespace)
	}
	switch {
	case source == nil:
	case elsewhere:
		v.invalid(path, struct{}{}, "may not be specified when dataSourceRef.namespace is specified")
	case source.Kind != ref.Kind || source.Name != ref.Name || !equality.Semantic.DeepEqual(source.APIGroup, ref.APIGroup):
		v.invalid(path, struct{}{}, "must match dataSourceRef")
	}
}

func (v *validator) checkDataSource(s *v1.TypedLocalObjectReference, anyGroup bool, path *field.Path) {
	v.need(path.Child("name"), s.Name)
	v.need(path.Child("kind"), s.Kind)
	group := ""
	if s.APIGroup != nil {
		group = *s.APIGroup
	}
	if group == "" && s.Kind != "PersistentVolumeClaim" {
		v.invalid(path, s.Kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
	if group != "" && !anyGroup {
		v.messages(path.Child("apiGroup"), group, validation.IsDNS1123Subdomain(group))
	}
}

// WarnClaimSpec lists what is doubtful about a claim spec at path.
func WarnClaimSpec(s *v1.PersistentVolumeClaimSpec, path *field.Path) []string {
	var warnings []string
	for _, r := range []struct {
		name string
		list v1.ResourceList
	}{{"requests", s.Resources.Requests}, {"limits", s.Resources.Limits}} {
		if q := r.list[v1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
				path.Child("resources", r.name).Key(string(v1.ResourceStorage)), q.String()))
		}
	}
	return warnings
}
