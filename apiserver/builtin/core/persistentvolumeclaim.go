package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func persistentVolumeClaims() *resource.Resource {
	type claim = corev1.PersistentVolumeClaim
	spec, status := corev1.PersistentVolumeClaimSpec{}, corev1.PersistentVolumeClaimStatus{}
	return resource.Define[corev1.PersistentVolumeClaimList](resource.Definition[claim]{
		Version: "v1", Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", ShortNames: []string{"pvc"},
		AnswersDeleted: true,
		Default: func(c *claim) {
			if c.Status.Phase == "" {
				c.Status.Phase = corev1.ClaimPending
			}
			podspec.DefaultClaimSpec(&c.Spec)
		},
		Prepare:  prepareClaim,
		Validate: validateClaim,
		Warn: func(c, _ *claim) []string {
			return append(warnClassAnnotation(c.Annotations), podspec.WarnClaimSpec(&c.Spec, field.NewPath("spec"))...)
		},
		Columns: []resource.Column[*claim]{
			resource.NameColumn[*claim](),
			table.Text("Status", table.Doc(status, "phase"), func(c *claim) string { return phase(c.DeletionTimestamp, string(c.Status.Phase)) }),
			table.Text("Volume", table.Doc(spec, "volumeName"), func(c *claim) string { return c.Spec.VolumeName }),
			table.Text("Capacity", table.Doc(status, "capacity"), bound(func(c *claim) string { return storageText(c.Status.Capacity) })),
			table.Text("Access Modes", table.Doc(status, "accessModes"), bound(func(c *claim) string { return accessModes(c.Status.AccessModes) })),
			table.Text("StorageClass", "StorageClass of the pvc", func(c *claim) string {
				return table.Or(c.Annotations[corev1.BetaStorageClassAnnotation], ptr.Deref(c.Spec.StorageClassName, ""))
			}),
			table.Text("VolumeAttributesClass", "VolumeAttributesClass of the pvc", func(c *claim) string { return ptr.Deref(c.Spec.VolumeAttributesClassName, "<unset>") }),
			resource.AgeColumn[*claim](),
			table.Wide(table.Text("VolumeMode", table.Doc(spec, "volumeMode"), func(c *claim) string { return string(ptr.Deref(c.Spec.VolumeMode, "<unset>")) })),
		},
		Subresources: []resource.Subresource[claim]{{
			Name: "status", View: true,
			Prepare:  func(c, old *claim) { c.Spec = *old.Spec.DeepCopy() },
			Validate: validateClaimStatus,
		}},
	})
}

func prepareClaim(c, old *corev1.PersistentVolumeClaim) {
	if old == nil {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	} else {
		c.Status = *old.Status.DeepCopy()
	}
	if r := c.Spec.DataSourceRef; r != nil && ptr.Deref(r.Namespace, "") != "" && (old == nil || old.Spec.DataSourceRef == nil) {
		c.Spec.DataSourceRef = nil // data of other namespaces is a feature that is off (KEP-3294)
	}
	pairDataSources(&c.Spec, old)
}

// pairDataSources fills the older of the two fields from the newer one and the
// other way round. What the older cannot hold was always dropped (KEP-1495).
func pairDataSources(s *corev1.PersistentVolumeClaimSpec, old *corev1.PersistentVolumeClaim) {
	kept := old != nil && old.Spec.DataSource != nil
	if d := s.DataSource; d != nil && s.DataSourceRef == nil && !kept && !validDataSource(d) {
		s.DataSource = nil
	}
	switch {
	case s.DataSourceRef != nil && ptr.Deref(s.DataSourceRef.Namespace, "") != "":
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil:
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}

func validDataSource(d *corev1.TypedLocalObjectReference) bool {
	group := ptr.Deref(d.APIGroup, "")
	return group == "" && d.Kind == "PersistentVolumeClaim" || group == "snapshot.storage.k8s.io" && d.Kind == "VolumeSnapshot"
}

func validateClaim(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	if old == nil {
		return podspec.ValidateClaimSpec(&c.Spec, nil, field.NewPath("spec"))
	}
	errs := podspec.ValidateClaimSpec(&c.Spec, &old.Spec, field.NewPath("spec"))
	return append(errs, validateClaimUpdate(c, old)...)
}

// validateClaimUpdate lets a claim be bound, and a bound claim grow.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	is, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	pairDataSources(was, old)
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	annotation := corev1.BetaStorageClassAnnotation
	class, annotated := old.Annotations[annotation]
	switch named := was.StorageClassName == nil && is.StorageClassName != nil; {
	case named && (!annotated || *is.StorageClassName == class):
		is.StorageClassName = nil
	case c.Annotations[annotation] != class:
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(annotation), c.Annotations[annotation], "field is immutable"))
	}
	if c.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(podspec.Untagged(was), podspec.Untagged(is)))))
	}
	size, before, has := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(before) < 0 && size.Cmp(has) <= 0 {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	return append(errs, validateClassChange(c, old)...)
}

func validateClassChange(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("spec", "volumeAttributesClassName")
	if old.Status.CurrentVolumeAttributesClassName == nil || ptr.Equal(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		return nil
	}
	switch class := c.Spec.VolumeAttributesClassName; {
	case class == nil:
		return field.ErrorList{field.Forbidden(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")}
	case *class == "":
		return field.ErrorList{field.Forbidden(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")}
	}
	return nil
}

var resizeStatuses = []corev1.ClaimResourceStatus{
	corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	for name, q := range c.Status.Capacity {
		errs = append(errs, validateStored(q, at.Child("capacity").Key(string(name)))...)
	}
	for name, status := range c.Status.AllocatedResourceStatuses {
		path := at.Child("allocatedResourceStatuses")
		errs = append(errs, validateClaimResource(name, path)...)
		if !slices.Contains(resizeStatuses, status) {
			errs = append(errs, field.NotSupported[corev1.ClaimResourceStatus](path, name, resizeStatuses))
		}
	}
	for name, q := range c.Status.AllocatedResources {
		path := at.Child("allocatedResources")
		wrong := validateClaimResource(name, path)
		if len(wrong) == 0 {
			wrong = validateStored(q, path.Key(string(name)))
		}
		errs = append(errs, wrong...)
	}
	return errs
}

// validateClaimResource demands storage, or a resource of somebody else.
func validateClaimResource(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := check.Qualified(string(name), path); len(errs) > 0 {
		return errs
	}
	if podspec.IsNative(name) {
		return check.Supported(name, path, corev1.ResourceStorage)
	}
	return nil
}

func bound(text func(*corev1.PersistentVolumeClaim) string) func(*corev1.PersistentVolumeClaim) string {
	return func(c *corev1.PersistentVolumeClaim) string {
		if c.Spec.VolumeName == "" {
			return ""
		}
		return text(c)
	}
}
